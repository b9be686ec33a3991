// Encodes a picture and writes its embeddings, as raw f32, to a file.
//
//     cc encode.c -o encode $(pkg-config --cflags --libs tilesight)
//     ./encode MODEL PICTURE OUTPUT        # MODEL may be "demo"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tilesight.h>

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, tilesight_error());
    return 1;
}

static unsigned char *read_file(const char *path, size_t *len) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        return NULL;
    }
    fseek(file, 0, SEEK_END);
    *len = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(*len);
    if (bytes && fread(bytes, 1, *len, file) != *len) {
        free(bytes);
        bytes = NULL;
    }
    fclose(file);
    return bytes;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "encode MODEL PICTURE OUTPUT\n");
        return 2;
    }
    tilesight_options options = {.size = sizeof options, .device = "auto"};
    if (strcmp(argv[1], "demo") != 0) {
        options.model = argv[1];
    }
    tilesight_encoder encoder;
    if (tilesight_open(&options, &encoder) != TILESIGHT_STATUS_OK) {
        return failed("open");
    }
    tilesight_description description = {.size = sizeof description};
    if (tilesight_describe(encoder, &description) != TILESIGHT_STATUS_OK) {
        return failed("describe");
    }

    tilesight_bytes bytes;
    bytes.data = read_file(argv[2], &bytes.len);
    if (!bytes.data) {
        perror(argv[2]);
        return 1;
    }
    tilesight_picture picture = {.size = sizeof picture};
    if (tilesight_measure(encoder, bytes.data, bytes.len, &picture) != TILESIGHT_STATUS_OK) {
        return failed(argv[2]);
    }
    size_t len = picture.num_rows * description.embed_dim * sizeof(float);
    tilesight_output output = {.size = sizeof output, .dtype = TILESIGHT_DTYPE_F32, .capacity = len};
    output.data = malloc(len);
    if (!output.data) {
        perror("memory for the embeddings");
        return 1;
    }
    if (tilesight_encode_pictures(encoder, &bytes, 1, &output, NULL) != TILESIGHT_STATUS_OK) {
        return failed("encode");
    }
    printf("%ux%u pixels, %u tiles down and %u across, %llu embeddings of %u values\n", picture.width, picture.height,
           picture.tiles_down, picture.tiles_across, (unsigned long long)picture.num_rows, description.embed_dim);

    FILE *file = fopen(argv[3], "wb");
    if (!file || fwrite(output.data, 1, len, file) != len || fclose(file) != 0) {
        perror(argv[3]);
        return 1;
    }
    free(output.data);
    free((void *)bytes.data);
    return tilesight_close(encoder) == TILESIGHT_STATUS_OK ? 0 : failed("close");
}
