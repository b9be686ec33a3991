// Every way to call the library wrongly that it can tell, each refused with its status and a message; after all of it, a
// right call still succeeds.
//
//     misuse MODEL PICTURE

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tilesight.h>

#include "picture.h"

static int num_failed = 0;

static void expect_at(int line, tilesight_status found, tilesight_status expected, const char *says) {
    const char *message = tilesight_error();
    if (found != expected || (expected != TILESIGHT_STATUS_OK && !strstr(message, says))) {
        fprintf(stderr, "line %d: status %d, expected %d saying \"%s\": %s\n", line, found, expected, says, message);
        num_failed++;
    }
}
#define EXPECT(call, status, says) expect_at(__LINE__, call, TILESIGHT_STATUS_##status, says)

static tilesight_description description;

static void options(const char *model) {
    tilesight_encoder encoder = {0};
    tilesight_options options = {.size = sizeof options, .device = "cpu", .model = model};
    EXPECT(tilesight_open(&options, NULL), INVALID_ARGUMENT, "encoder is null");
    char memory[sizeof(tilesight_encoder) + 1];
    EXPECT(tilesight_open(&options, (tilesight_encoder *)(memory + 1 - (uintptr_t)memory % 2)), INVALID_ARGUMENT, "aligned");

    tilesight_options unsized = options;
    unsized.size = 0;
    EXPECT(tilesight_open(&unsized, &encoder), INVALID_ARGUMENT, "size");
    unsized.size = (size_t)-1;
    EXPECT(tilesight_open(&unsized, &encoder), INVALID_ARGUMENT, "size");
    // A program of a later release: what it leaves zero is no matter, what it sets cannot be kept.
    struct {
        tilesight_options options;
        uint64_t later;
    } later = {.options = options};
    later.options.size = sizeof later;
    later.later = 1;
    EXPECT(tilesight_open(&later.options, &encoder), INVALID_ARGUMENT, "does not know");

    tilesight_options wrong = options;
    wrong.model = "/nowhere";
    EXPECT(tilesight_open(&wrong, &encoder), CHECKPOINT, "/nowhere");
    wrong = options;
    wrong.model = "\xff\xfe";
    EXPECT(tilesight_open(&wrong, &encoder), INVALID_ARGUMENT, "UTF-8");
    wrong = options;
    wrong.device = "tpu";
    EXPECT(tilesight_open(&wrong, &encoder), UNAVAILABLE, "tpu");
    wrong = options;
    wrong.dtype = "fp16";
    EXPECT(tilesight_open(&wrong, &encoder), UNAVAILABLE, "dtype");
    wrong = options;
    wrong.semantics = "mine";
    EXPECT(tilesight_open(&wrong, &encoder), UNAVAILABLE, "semantics");
    wrong = options;
    wrong.config = "/nowhere.json";
    EXPECT(tilesight_open(&wrong, &encoder), IO, "/nowhere.json");
    if (encoder.id != 0) {
        fprintf(stderr, "a refused call gave an encoder\n");
        num_failed++;
    }
    later.later = 0;
    EXPECT(tilesight_open(&later.options, &encoder), OK, "");
    EXPECT(tilesight_close(encoder), OK, "");
}

static void handles(void) {
    tilesight_bytes bytes = {picture, picture_len};
    tilesight_picture layout = {.size = sizeof layout};
    tilesight_output output = {.size = sizeof output};
    tilesight_pixels pixels = {.size = sizeof pixels};
    for (uint64_t id = 0; id < 4; id++) {
        tilesight_encoder none = {id == 3 ? UINT64_MAX : id << 40};
        EXPECT(tilesight_close(none), INVALID_HANDLE, "no encoder");
        EXPECT(tilesight_describe(none, &description), INVALID_HANDLE, "no encoder");
        EXPECT(tilesight_measure(none, picture, picture_len, &layout), INVALID_HANDLE, "no encoder");
        EXPECT(tilesight_encode_pictures(none, &bytes, 1, &output, NULL), INVALID_HANDLE, "no encoder");
        pixels.shape[0] = 0;
        EXPECT(tilesight_encode_pixels(none, &pixels, &output), INVALID_HANDLE, "no encoder");
    }
}

static void pictures(tilesight_encoder encoder) {
    tilesight_picture layout = {.size = sizeof layout};
    EXPECT(tilesight_measure(encoder, NULL, 10, &layout), INVALID_ARGUMENT, "file is null");
    EXPECT(tilesight_measure(encoder, picture, 0, &layout), IMAGE, "");
    EXPECT(tilesight_measure(encoder, picture, picture_len, NULL), INVALID_ARGUMENT, "tilesight_picture is null");
    EXPECT(tilesight_measure(encoder, (const unsigned char *)"no picture", 10, &layout), IMAGE, "");
    EXPECT(tilesight_measure(encoder, picture, picture_len, &layout), OK, "");

    size_t len = layout.num_rows * description.embed_dim;
    float *embeddings = malloc(len * sizeof(float) + 4);
    tilesight_output output = {.size = sizeof output, .data = embeddings, .capacity = len * sizeof(float)};
    tilesight_bytes bytes = {picture, picture_len};
    uint64_t num_rows = 0;
    EXPECT(tilesight_encode_pictures(encoder, NULL, 1, &output, NULL), INVALID_ARGUMENT, "pictures is null");
    EXPECT(tilesight_encode_pictures(encoder, &bytes, (size_t)-1, &output, NULL), INVALID_ARGUMENT, "elements");
    EXPECT(tilesight_encode_pictures(encoder, &bytes, 1, NULL, NULL), INVALID_ARGUMENT, "tilesight_output is null");
    tilesight_bytes none = {NULL, 5};
    EXPECT(tilesight_encode_pictures(encoder, &none, 1, &output, NULL), INVALID_ARGUMENT, "a picture is null");
    tilesight_bytes cut = {picture, picture_len / 2};
    EXPECT(tilesight_encode_pictures(encoder, &cut, 1, &output, NULL), IMAGE, "");
    tilesight_output small = output;
    small.capacity -= 1;
    EXPECT(tilesight_encode_pictures(encoder, &bytes, 1, &small, &num_rows), TOO_SMALL, "found");
    if (num_rows != layout.num_rows) {
        fprintf(stderr, "the rows that are needed are not said\n");
        num_failed++;
    }
    tilesight_output absent = output;
    absent.data = NULL;
    EXPECT(tilesight_encode_pictures(encoder, &bytes, 1, &absent, NULL), INVALID_ARGUMENT, "null");
    tilesight_output skewed = output;
    skewed.data = (char *)embeddings + 1;
    EXPECT(tilesight_encode_pictures(encoder, &bytes, 1, &skewed, NULL), INVALID_ARGUMENT, "aligned");
    tilesight_output strange = output;
    strange.dtype = 77;
    EXPECT(tilesight_encode_pictures(encoder, &bytes, 1, &strange, NULL), INVALID_ARGUMENT, "77");
    tilesight_output reserved = output;
    reserved.reserved = 1;
    EXPECT(tilesight_encode_pictures(encoder, &bytes, 1, &reserved, NULL), INVALID_ARGUMENT, "tilesight_output: reserved");
    // Half the memory is enough for half the bytes, and not a byte behind it is touched.
    tilesight_output half = output;
    half.dtype = TILESIGHT_DTYPE_BF16;
    half.capacity /= 2;
    unsigned char *behind = (unsigned char *)embeddings + half.capacity;
    memset(behind, 0xa5, 8);
    EXPECT(tilesight_encode_pictures(encoder, &bytes, 1, &half, NULL), OK, "");
    for (int i = 0; i < 8; i++) {
        num_failed += behind[i] != 0xa5;
    }
    EXPECT(tilesight_encode_pictures(encoder, &bytes, 1, &output, NULL), OK, "");
    free(embeddings);
}

static void pixels(tilesight_encoder encoder) {
    size_t tile = (size_t)description.in_channels * description.tile_size * description.tile_size;
    size_t tiles = description.max_num_tiles, rows = tiles * description.num_tokens;
    float *values = calloc(tiles * tile + 1, sizeof(float));
    float *embeddings = malloc(rows * description.embed_dim * sizeof(float));
    int64_t ratio[2] = {1, 1};
    tilesight_output output = {.size = sizeof output, .data = embeddings};
    output.capacity = rows * description.embed_dim * sizeof(float);
    tilesight_pixels good = {.size = sizeof good, .data = values, .aspect_ratio = ratio};
    good.shape[0] = good.shape[1] = 1;
    good.shape[2] = tiles;
    good.shape[3] = description.in_channels;
    good.shape[4] = good.shape[5] = description.tile_size;

    EXPECT(tilesight_encode_pixels(encoder, NULL, &output), INVALID_ARGUMENT, "tilesight_pixels is null");
    EXPECT(tilesight_encode_pixels(encoder, &good, NULL), INVALID_ARGUMENT, "tilesight_output is null");
    tilesight_pixels wrong = good;
    wrong.data = NULL;
    EXPECT(tilesight_encode_pixels(encoder, &wrong, &output), INVALID_ARGUMENT, "pixels is null");
    wrong = good;
    wrong.data = (char *)values + 1;
    EXPECT(tilesight_encode_pixels(encoder, &wrong, &output), INVALID_ARGUMENT, "aligned");
    wrong = good;
    wrong.aspect_ratio = (const int64_t *)((char *)ratio + 1);
    EXPECT(tilesight_encode_pixels(encoder, &wrong, &output), INVALID_ARGUMENT, "aspect_ratio must be aligned");
    wrong = good;
    wrong.aspect_ratio = NULL;
    EXPECT(tilesight_encode_pixels(encoder, &wrong, &output), INPUT, "aspect_ratio");
    wrong = good;
    wrong.shape[0] = UINT64_MAX;
    EXPECT(tilesight_encode_pixels(encoder, &wrong, &output), INVALID_ARGUMENT, "shape");
    wrong = good;
    wrong.shape[1] = 0;
    EXPECT(tilesight_encode_pixels(encoder, &wrong, &output), INPUT, "at least 1");
    // No elements, but a count that would be a large one, for an output that says it has room.
    wrong = good;
    wrong.shape[0] = 100000000000000;
    wrong.shape[4] = 0;
    tilesight_output claimed = output;
    claimed.capacity = SIZE_MAX / 2;
    claimed.dtype = TILESIGHT_DTYPE_BF16;
    EXPECT(tilesight_encode_pixels(encoder, &wrong, &claimed), INPUT, "images must have shape");
    wrong = good;
    wrong.shape[3] = 1;
    EXPECT(tilesight_encode_pixels(encoder, &wrong, &output), INPUT, "images");
    wrong = good;
    wrong.reserved = 7;
    EXPECT(tilesight_encode_pixels(encoder, &wrong, &output), INVALID_ARGUMENT, "tilesight_pixels: reserved must be zero, found 7");
    wrong = good;
    wrong.dtype = 3;
    EXPECT(tilesight_encode_pixels(encoder, &wrong, &output), INVALID_ARGUMENT, "tilesight_dtype 3");
    ratio[0] = -1;
    EXPECT(tilesight_encode_pixels(encoder, &good, &output), INPUT, "aspect ratio");
    ratio[0] = 1;
    values[5] = 1.0f / 0.0f;
    EXPECT(tilesight_encode_pixels(encoder, &good, &output), INPUT, "finite");
    values[5] = 0;
    output.capacity -= 1;
    EXPECT(tilesight_encode_pixels(encoder, &good, &output), TOO_SMALL, "");
    output.capacity += 1;
    EXPECT(tilesight_encode_pixels(encoder, &good, &output), OK, "");
    free(values);
    free(embeddings);
}

// On the CPU there is no stream whose order could be kept.
static void streams(tilesight_encoder encoder) {
    int64_t ratio[2] = {1, 1};
    tilesight_device_pixels pixels = {.size = sizeof pixels, .address = 4096, .aspect_ratio = ratio};
    for (int i = 0; i < 6; i++) {
        pixels.shape[i] = i < 2 ? 1 : i == 2 ? description.max_num_tiles : i == 3 ? 3 : description.tile_size;
    }
    tilesight_device_output output = {.size = sizeof output, .address = 4096, .capacity = 1 << 30};
    tilesight_stream stream = {.size = sizeof stream};
    tilesight_bytes bytes = {picture, picture_len};
    EXPECT(tilesight_enqueue_pixels(encoder, NULL, &output, &stream), INVALID_ARGUMENT, "tilesight_device_pixels is null");
    EXPECT(tilesight_enqueue_pixels(encoder, &pixels, NULL, &stream), INVALID_ARGUMENT, "tilesight_device_output is null");
    EXPECT(tilesight_enqueue_pixels(encoder, &pixels, &output, NULL), INVALID_ARGUMENT, "tilesight_stream is null");
    EXPECT(tilesight_enqueue_pixels(encoder, &pixels, &output, &stream), UNAVAILABLE, "");
    pixels.dtype = 9;
    EXPECT(tilesight_enqueue_pixels(encoder, &pixels, &output, &stream), INVALID_ARGUMENT, "tilesight_dtype 9");
    pixels.dtype = TILESIGHT_DTYPE_BF16;
    pixels.padding = 2;
    EXPECT(tilesight_enqueue_pixels(encoder, &pixels, &output, &stream), INVALID_ARGUMENT, "tilesight_padding 2");
    EXPECT(tilesight_enqueue_pictures(encoder, NULL, 1, &output, &stream, NULL), INVALID_ARGUMENT, "pictures is null");
    EXPECT(tilesight_enqueue_pictures(encoder, &bytes, 1, &output, &stream, NULL), UNAVAILABLE, "");
    tilesight_stream reserved = {.size = sizeof reserved, .reserved = 1};
    EXPECT(tilesight_enqueue_pictures(encoder, &bytes, 1, &output, &reserved, NULL), INVALID_ARGUMENT, "reserved");
    tilesight_encoder none = {0};
    EXPECT(tilesight_enqueue_pictures(none, &bytes, 1, &output, &stream, NULL), INVALID_HANDLE, "no encoder");
}

static tilesight_encoder shared;
static float *expected;
static size_t expected_len;

// Encodes until the encoder is gone; whatever comes is right.
static void *encode_on(void *count) {
    tilesight_bytes bytes = {picture, picture_len};
    float *embeddings = malloc(expected_len);
    tilesight_output output = {.size = sizeof output, .data = embeddings, .capacity = expected_len};
    tilesight_status status;
    while ((status = tilesight_encode_pictures(shared, &bytes, 1, &output, NULL)) == TILESIGHT_STATUS_OK) {
        if (memcmp(embeddings, expected, expected_len) != 0) {
            fprintf(stderr, "a thread was given other embeddings\n");
            exit(1);
        }
        __atomic_add_fetch((int *)count, 1, __ATOMIC_RELAXED);
    }
    EXPECT(status, INVALID_HANDLE, "no encoder");
    free(embeddings);
    return NULL;
}

static void threads(const char *model) {
    tilesight_options options = {.size = sizeof options, .device = "cpu", .model = model};
    EXPECT(tilesight_open(&options, &shared), OK, "");
    tilesight_picture layout = {.size = sizeof layout};
    EXPECT(tilesight_measure(shared, picture, picture_len, &layout), OK, "");
    expected_len = layout.num_rows * description.embed_dim * sizeof(float);
    expected = malloc(expected_len);
    tilesight_bytes bytes = {picture, picture_len};
    tilesight_output output = {.size = sizeof output, .data = expected, .capacity = expected_len};
    EXPECT(tilesight_encode_pictures(shared, &bytes, 1, &output, NULL), OK, "");
    pthread_t all[4];
    int count = 0;
    for (int i = 0; i < 4; i++) {
        pthread_create(&all[i], NULL, encode_on, &count);
    }
    while (__atomic_load_n(&count, __ATOMIC_RELAXED) < 16) {
    }
    // While they are at it.
    EXPECT(tilesight_close(shared), OK, "");
    for (int i = 0; i < 4; i++) {
        pthread_join(all[i], NULL);
    }
    EXPECT(tilesight_close(shared), INVALID_HANDLE, "no encoder");
    free(expected);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        return 2;
    }
    read_picture(argv[2]);
    if (tilesight_error()[0] != 0 || strlen(tilesight_version()) == 0) {
        num_failed++;
    }
    options(argv[1]);
    handles();
    tilesight_encoder encoder;
    tilesight_options options = {.size = sizeof options, .device = "cpu", .model = argv[1]};
    EXPECT(tilesight_open(&options, &encoder), OK, "");
    EXPECT(tilesight_describe(encoder, NULL), INVALID_ARGUMENT, "null");
    description.size = 8;
    EXPECT(tilesight_describe(encoder, &description), INVALID_ARGUMENT, "size");
    description.size = sizeof description;
    EXPECT(tilesight_describe(encoder, &description), OK, "");
    pictures(encoder);
    pixels(encoder);
    streams(encoder);
    EXPECT(tilesight_close(encoder), OK, "");
    threads(argv[1]);
    free(picture);
    printf("%s\n", num_failed ? "failed" : "all refused as they should be");
    return num_failed != 0;
}
