// Encodes a picture on a stream of the program's own, into the program's own memory on the GPU; then copies the embeddings
// back, in the type that the encoder computes in (bf16), and writes them to a file. The host waits once, at the end.
//
//     cc enqueue.c -o enqueue $(pkg-config --cflags --libs tilesight) -I$CUDA_HOME/include -lcuda
//     ./enqueue MODEL PICTURE OUTPUT        # MODEL may be "demo"; the library must have been installed with --cuda

#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tilesight.h>

static void require(int is_well, const char *what, const char *reason) {
    if (!is_well) {
        fprintf(stderr, "%s: %s\n", what, reason);
        exit(1);
    }
}

static void cuda(CUresult result, const char *what) {
    const char *reason = "unknown";
    cuGetErrorString(result, &reason);
    require(result == CUDA_SUCCESS, what, reason);
}

static void tilesight(tilesight_status status, const char *what) {
    require(status == TILESIGHT_STATUS_OK, what, tilesight_error());
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "enqueue MODEL PICTURE OUTPUT\n");
        return 2;
    }
    FILE *file = fopen(argv[2], "rb");
    require(file != NULL, argv[2], "cannot be read");
    fseek(file, 0, SEEK_END);
    tilesight_bytes picture = {.len = (size_t)ftell(file)};
    rewind(file);
    unsigned char *bytes = malloc(picture.len);
    require(bytes && fread(bytes, 1, picture.len, file) == picture.len, argv[2], "cannot be read");
    picture.data = bytes;
    fclose(file);

    // The program's GPU. Its primary context is what both sides have in common.
    CUdevice device;
    CUcontext context;
    CUstream stream;
    cuda(cuInit(0), "cuInit");
    cuda(cuDeviceGet(&device, 0), "cuDeviceGet");
    cuda(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
    cuda(cuCtxSetCurrent(context), "cuCtxSetCurrent");
    cuda(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");

    tilesight_options options = {.size = sizeof options, .device = "cuda:0"};
    if (strcmp(argv[1], "demo") != 0) {
        options.model = argv[1];
    }
    tilesight_encoder encoder;
    tilesight_description description = {.size = sizeof description};
    tilesight_picture layout = {.size = sizeof layout};
    tilesight(tilesight_open(&options, &encoder), "open");
    tilesight(tilesight_describe(encoder, &description), "describe");
    tilesight(tilesight_measure(encoder, picture.data, picture.len, &layout), argv[2]);

    // Two bytes a value on a GPU.
    size_t len = layout.num_rows * description.embed_dim * 2;
    CUdeviceptr embeddings;
    cuda(cuMemAlloc(&embeddings, len), "cuMemAlloc");
    void *answer = malloc(len);
    require(answer != NULL, "memory", "there is not enough");

    // What the stream was given before comes first, what it is given later comes after; here that is a copy, elsewhere a
    // decoder's kernels.
    tilesight_device_output output = {.size = sizeof output, .address = embeddings, .capacity = len};
    tilesight_stream order = {.size = sizeof order, .stream = stream};
    tilesight(tilesight_enqueue_pictures(encoder, &picture, 1, &output, &order, NULL), "enqueue");
    cuda(cuMemcpyDtoHAsync(answer, embeddings, len, stream), "cuMemcpyDtoHAsync");
    cuda(cuStreamSynchronize(stream), "cuStreamSynchronize");
    printf("%u tiles down and %u across, %llu embeddings of %u values\n", layout.tiles_down, layout.tiles_across,
           (unsigned long long)layout.num_rows, description.embed_dim);

    file = fopen(argv[3], "wb");
    require(file && fwrite(answer, 1, len, file) == len && fclose(file) == 0, argv[3], "cannot be written");
    free(answer);
    free(bytes);
    tilesight(tilesight_close(encoder), "close");
    cuda(cuCtxSetCurrent(context), "cuCtxSetCurrent");
    cuda(cuMemFree(embeddings), "cuMemFree");
    cuda(cuStreamDestroy(stream), "cuStreamDestroy");
    cuda(cuDevicePrimaryCtxRelease(device), "cuDevicePrimaryCtxRelease");
    return 0;
}
