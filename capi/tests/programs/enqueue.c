// A program that has a GPU and streams of its own, and hands both over: what comes out has the bits that the call for the
// host gives, in the order of the streams; what cannot be used is refused, and nothing is lost by it.
//
//     enqueue MODEL PICTURE

#include <cuda.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tilesight.h>

static int num_failed = 0;

static void expect_at(int line, tilesight_status found, tilesight_status expected, const char *says) {
    const char *message = tilesight_error();
    if (found != expected || (expected != TILESIGHT_STATUS_OK && !strstr(message, says))) {
        fprintf(stderr, "line %d: status %d, expected %d saying \"%s\": %s\n", line, found, expected, says, message);
        __atomic_add_fetch(&num_failed, 1, __ATOMIC_RELAXED);
    }
}
#define EXPECT(call, status, says) expect_at(__LINE__, call, TILESIGHT_STATUS_##status, says)

static void require_at(int line, int is_true, const char *what) {
    if (!is_true) {
        fprintf(stderr, "line %d: not so: %s\n", line, what);
        exit(1);
    }
}
#define REQUIRE(condition) require_at(__LINE__, condition, #condition)
#define CUDA(call) require_at(__LINE__, (call) == CUDA_SUCCESS, #call)

enum { IMAGES = 2, THREADS = 4 };
static const int64_t RATIOS[IMAGES * 2] = {1, 2, 1, 1};

static tilesight_encoder encoder;
static tilesight_description description;
static CUcontext context;
static size_t num_values, output_len;

// Pixels that both element types hold exactly, and that differ by seed. Those of padding tiles are zeros.
static float *make_pixels(unsigned seed) {
    size_t tile = (size_t)3 * description.tile_size * description.tile_size, tiles = description.max_num_tiles;
    float *values = calloc(num_values, sizeof(float));
    for (size_t image = 0; image < IMAGES; image++) {
        size_t real = (size_t)(RATIOS[2 * image] * RATIOS[2 * image + 1]);
        for (size_t i = 0; i < real * tile; i++) {
            seed = seed * 1664525u + 1013904223u;
            values[image * tiles * tile + i] = ((int)(seed >> 27) - 16) / 8.0f;
        }
    }
    return values;
}

// What the call for the host gives, in the type that the encoder computes in.
static void *on_host(const float *values) {
    tilesight_pixels pixels = {.size = sizeof pixels, .data = values, .aspect_ratio = RATIOS};
    tilesight_output output = {.size = sizeof output, .data = malloc(output_len), .capacity = output_len};
    output.dtype = description.computed_in;
    uint64_t side = description.tile_size;
    memcpy(pixels.shape, (uint64_t[]){1, IMAGES, description.max_num_tiles, 3, side, side}, sizeof pixels.shape);
    EXPECT(tilesight_encode_pixels(encoder, &pixels, &output), OK, "");
    return output.data;
}

static CUdeviceptr memory(size_t bytes) {
    CUdeviceptr address;
    CUDA(cuMemAlloc(&address, bytes));
    return address;
}

static tilesight_device_pixels pixels_at(CUdeviceptr address) {
    tilesight_device_pixels pixels = {.size = sizeof pixels, .address = address, .aspect_ratio = RATIOS};
    uint64_t side = description.tile_size;
    memcpy(pixels.shape, (uint64_t[]){1, IMAGES, description.max_num_tiles, 3, side, side}, sizeof pixels.shape);
    pixels.padding = TILESIGHT_PADDING_ZEROS;
    return pixels;
}

static tilesight_device_output output_at(CUdeviceptr address, size_t capacity) {
    return (tilesight_device_output){.size = sizeof(tilesight_device_output), .address = address, .capacity = capacity};
}

static tilesight_stream stream_of(CUstream stream, CUevent done) {
    return (tilesight_stream){.size = sizeof(tilesight_stream), .stream = stream, .done = done};
}

// Two calls are under way on one stream; another stream knows of them by the events alone.
static void in_the_streams_order(void) {
    CUstream stream, other;
    CUDA(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CUDA(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    CUdeviceptr input = memory(num_values * sizeof(float)), outputs[2];
    CUevent done[2];
    void *expected[2], *found = malloc(output_len);
    for (unsigned call = 0; call < 2; call++) {
        float *values = make_pixels(call);
        expected[call] = on_host(values);
        CUDA(cuEventCreate(&done[call], CU_EVENT_DISABLE_TIMING));
        outputs[call] = memory(output_len);
        tilesight_device_pixels pixels = pixels_at(input);
        if (call == 0) {
            CUDA(cuMemcpyHtoDAsync(input, values, num_values * sizeof(float), stream));
        } else {
            // The upper half of each value, which is all there is of it.
            uint16_t *halves = malloc(num_values * 2);
            for (size_t i = 0; i < num_values; i++) {
                memcpy(&halves[i], (char *)&values[i] + 2, 2);
            }
            CUDA(cuMemcpyHtoDAsync(input, halves, num_values * 2, stream));
            pixels.dtype = TILESIGHT_DTYPE_BF16;
            free(halves);
        }
        tilesight_device_output output = output_at(outputs[call], output_len);
        tilesight_stream order = stream_of(stream, done[call]);
        EXPECT(tilesight_enqueue_pixels(encoder, &pixels, &output, &order), OK, "");
        free(values);
    }
    REQUIRE(memcmp(expected[0], expected[1], output_len) != 0);
    for (int call = 0; call < 2; call++) {
        CUDA(cuStreamWaitEvent(other, done[call], 0));
        CUDA(cuMemcpyDtoHAsync(found, outputs[call], output_len, other));
        CUDA(cuStreamSynchronize(other));
        REQUIRE(memcmp(found, expected[call], output_len) == 0);
        CUDA(cuMemFree(outputs[call]));
        CUDA(cuEventDestroy(done[call]));
        free(expected[call]);
    }
    CUDA(cuStreamSynchronize(stream));
    CUDA(cuMemFree(input));
    CUDA(cuStreamDestroy(stream));
    CUDA(cuStreamDestroy(other));
    free(found);
}

static void pictures(const unsigned char *file, size_t len) {
    tilesight_bytes twice[2] = {{file, len}, {file, len}};
    tilesight_picture layout = {.size = sizeof layout};
    EXPECT(tilesight_measure(encoder, file, len, &layout), OK, "");
    size_t bytes = 2 * layout.num_rows * description.embed_dim * 2;
    void *expected = malloc(bytes), *found = malloc(bytes);
    tilesight_output on_host = {.size = sizeof on_host, .data = expected, .capacity = bytes};
    on_host.dtype = description.computed_in;
    EXPECT(tilesight_encode_pictures(encoder, twice, 2, &on_host, NULL), OK, "");

    CUstream stream;
    CUDA(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CUdeviceptr address = memory(bytes);
    tilesight_device_output output = output_at(address, bytes);
    tilesight_stream order = stream_of(stream, NULL);
    uint64_t num_rows = 0;
    EXPECT(tilesight_enqueue_pictures(encoder, twice, 2, &output, &order, &num_rows), OK, "");
    REQUIRE(num_rows == 2 * layout.num_rows);
    CUDA(cuMemcpyDtoHAsync(found, address, bytes, stream));
    CUDA(cuStreamSynchronize(stream));
    REQUIRE(memcmp(found, expected, bytes) == 0);

    // What is needed is said, also where it is refused.
    num_rows = 0;
    output.capacity -= 1;
    EXPECT(tilesight_enqueue_pictures(encoder, twice, 2, &output, &order, &num_rows), INPUT, "embeddings");
    REQUIRE(num_rows == 2 * layout.num_rows);
    twice[1].len /= 2;
    EXPECT(tilesight_enqueue_pictures(encoder, twice, 2, &output, &order, NULL), IMAGE, "");
    CUDA(cuMemFree(address));
    CUDA(cuStreamDestroy(stream));
    free(expected);
    free(found);
}

static void misuse(void) {
    CUstream stream;
    CUDA(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CUdeviceptr input = memory(num_values * sizeof(float)), whole = memory(output_len), freed = memory(output_len);
    CUDA(cuMemsetD8Async(input, 0, num_values * sizeof(float), stream));
    CUDA(cuMemFree(freed));
    tilesight_device_pixels good = pixels_at(input), pixels;
    tilesight_device_output fits = output_at(whole, output_len), output;
    tilesight_stream order = stream_of(stream, NULL), wrong;

    EXPECT(tilesight_enqueue_pixels(encoder, NULL, &fits, &order), INVALID_ARGUMENT, "tilesight_device_pixels is null");
    EXPECT(tilesight_enqueue_pixels(encoder, &good, NULL, &order), INVALID_ARGUMENT, "tilesight_device_output is null");
    EXPECT(tilesight_enqueue_pixels(encoder, &good, &fits, NULL), INVALID_ARGUMENT, "tilesight_stream is null");
    output = fits;
    output.size = 0;
    EXPECT(tilesight_enqueue_pixels(encoder, &good, &output, &order), INVALID_ARGUMENT, "size");

    CUdeviceptr outputs[] = {0, whole + 8, whole + 16, freed, (CUdeviceptr)-16};
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
        output = output_at(outputs[i], output_len);
        EXPECT(tilesight_enqueue_pixels(encoder, &good, &output, &order), INPUT, "embeddings");
    }
    output = output_at(whole, output_len - 1);
    EXPECT(tilesight_enqueue_pixels(encoder, &good, &output, &order), INPUT, "embeddings");
    CUdeviceptr inputs[] = {0, input + 2, input + 4, freed};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
        pixels = pixels_at(inputs[i]);
        EXPECT(tilesight_enqueue_pixels(encoder, &pixels, &fits, &order), INPUT, "pixels");
    }
    pixels = good;
    pixels.shape[1] = 0;
    EXPECT(tilesight_enqueue_pixels(encoder, &pixels, &fits, &order), INPUT, "at least 1");
    pixels = good;
    pixels.shape[5] += 1;
    EXPECT(tilesight_enqueue_pixels(encoder, &pixels, &fits, &order), INPUT, "must have shape");
    memset(pixels.shape, 0xff, sizeof pixels.shape);
    EXPECT(tilesight_enqueue_pixels(encoder, &pixels, &fits, &order), INVALID_ARGUMENT, "shape");
    pixels = good;
    pixels.aspect_ratio = NULL;
    EXPECT(tilesight_enqueue_pixels(encoder, &pixels, &fits, &order), INPUT, "aspect_ratio");
    pixels.aspect_ratio = (const int64_t *)((const char *)RATIOS + 1);
    EXPECT(tilesight_enqueue_pixels(encoder, &pixels, &fits, &order), INVALID_ARGUMENT, "aligned");
    pixels = good;
    pixels.dtype = 3;
    EXPECT(tilesight_enqueue_pixels(encoder, &pixels, &fits, &order), INVALID_ARGUMENT, "tilesight_dtype 3");
    pixels = good;
    pixels.padding = 2;
    EXPECT(tilesight_enqueue_pixels(encoder, &pixels, &fits, &order), INVALID_ARGUMENT, "tilesight_padding 2");

    wrong = order;
    wrong.device = 1;
    EXPECT(tilesight_enqueue_pixels(encoder, &good, &fits, &wrong), INVALID_ARGUMENT, "device 1");
    CUgraph graph;
    CUDA(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    EXPECT(tilesight_enqueue_pixels(encoder, &good, &fits, &order), INPUT, "recorded");
    CUDA(cuStreamEndCapture(stream, &graph));
    CUDA(cuGraphDestroy(graph));

    // Another GPU's stream and memory.
    int num_devices;
    CUDA(cuDeviceGetCount(&num_devices));
    REQUIRE(num_devices > 1);
    CUdevice second;
    CUcontext elsewhere;
    CUstream foreign;
    CUDA(cuDeviceGet(&second, 1));
    CUDA(cuDevicePrimaryCtxRetain(&elsewhere, second));
    CUDA(cuCtxSetCurrent(elsewhere));
    CUDA(cuStreamCreate(&foreign, CU_STREAM_NON_BLOCKING));
    CUdeviceptr far = memory(output_len);
    wrong = stream_of(foreign, NULL);
    EXPECT(tilesight_enqueue_pixels(encoder, &good, &fits, &wrong), INPUT, "another context");
    output = output_at(far, output_len);
    EXPECT(tilesight_enqueue_pixels(encoder, &good, &output, &order), INPUT, "GPU 1");
    CUDA(cuCtxSetCurrent(elsewhere));
    CUDA(cuMemFree(far));
    CUDA(cuStreamDestroy(foreign));
    CUDA(cuDevicePrimaryCtxRelease(second));
    CUDA(cuCtxSetCurrent(context));

    // After all of it.
    EXPECT(tilesight_enqueue_pixels(encoder, &good, &fits, &order), OK, "");
    CUDA(cuStreamSynchronize(stream));
    CUDA(cuMemFree(input));
    CUDA(cuMemFree(whole));
    CUDA(cuStreamDestroy(stream));
}

struct share {
    float *values;
    void *expected;
    int *count;
};

// Enqueues until the encoder is gone; whatever was taken is done, and right.
static void *enqueue_on(void *given) {
    struct share *share = given;
    CUDA(cuCtxSetCurrent(context));
    CUstream stream;
    CUDA(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CUdeviceptr input = memory(num_values * sizeof(float)), address = memory(output_len);
    tilesight_device_pixels pixels = pixels_at(input);
    tilesight_device_output output = output_at(address, output_len);
    tilesight_stream order = stream_of(stream, NULL);
    void *found = malloc(output_len);
    for (;;) {
        CUDA(cuMemcpyHtoDAsync(input, share->values, num_values * sizeof(float), stream));
        tilesight_status status = tilesight_enqueue_pixels(encoder, &pixels, &output, &order);
        if (status != TILESIGHT_STATUS_OK) {
            EXPECT(status, INVALID_HANDLE, "no encoder");
            break;
        }
        CUDA(cuMemcpyDtoHAsync(found, address, output_len, stream));
        CUDA(cuStreamSynchronize(stream));
        REQUIRE(memcmp(found, share->expected, output_len) == 0);
        __atomic_add_fetch(share->count, 1, __ATOMIC_RELAXED);
    }
    CUDA(cuStreamSynchronize(stream));
    CUDA(cuMemFree(input));
    CUDA(cuMemFree(address));
    CUDA(cuStreamDestroy(stream));
    free(found);
    return NULL;
}

static void threads(void) {
    pthread_t all[THREADS];
    struct share shares[THREADS];
    int count = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        float *values = make_pixels(i);
        shares[i] = (struct share){values, on_host(values), &count};
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&all[i], NULL, enqueue_on, &shares[i]);
    }
    while (__atomic_load_n(&count, __ATOMIC_RELAXED) < 2 * THREADS) {
    }
    // While they are at it.
    EXPECT(tilesight_close(encoder), OK, "");
    for (int i = 0; i < THREADS; i++) {
        pthread_join(all[i], NULL);
        free(shares[i].values);
        free(shares[i].expected);
    }
    tilesight_device_pixels pixels = pixels_at(4096);
    tilesight_device_output output = output_at(4096, output_len);
    tilesight_stream order = stream_of(NULL, NULL);
    EXPECT(tilesight_enqueue_pixels(encoder, &pixels, &output, &order), INVALID_HANDLE, "no encoder");
}

int main(int argc, char **argv) {
    if (argc != 3) {
        return 2;
    }
    FILE *file = fopen(argv[2], "rb");
    unsigned char *picture = malloc(1 << 20);
    size_t picture_len = file ? fread(picture, 1, 1 << 20, file) : 0;
    REQUIRE(picture_len > 0);
    fclose(file);

    CUdevice device;
    CUDA(cuInit(0));
    CUDA(cuDeviceGet(&device, 0));
    CUDA(cuDevicePrimaryCtxRetain(&context, device));
    CUDA(cuCtxSetCurrent(context));
    tilesight_options options = {.size = sizeof options, .device = "cuda:0", .model = argv[1]};
    EXPECT(tilesight_open(&options, &encoder), OK, "");
    description.size = sizeof description;
    EXPECT(tilesight_describe(encoder, &description), OK, "");
    REQUIRE(description.computed_in == TILESIGHT_DTYPE_BF16);
    size_t side = description.tile_size, tiles = IMAGES * description.max_num_tiles;
    num_values = tiles * 3 * side * side;
    output_len = tiles * description.num_tokens * description.embed_dim * 2;

    in_the_streams_order();
    pictures(picture, picture_len);
    misuse();
    threads();
    CUDA(cuDevicePrimaryCtxRelease(device));
    free(picture);
    printf("%s\n", num_failed ? "failed" : "the host's bits, in the streams' order");
    return num_failed != 0;
}
