// While a model is open, its files are rewritten in place, then shortened, then emptied: the embeddings stay what they were.
//
//     rewrite MODEL PICTURE SHARD...

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <tilesight.h>
#include <unistd.h>

static void require(int line, tilesight_status status) {
    if (status != TILESIGHT_STATUS_OK) {
        fprintf(stderr, "line %d: status %d: %s\n", line, status, tilesight_error());
        exit(1);
    }
}
#define REQUIRE(call) require(__LINE__, call)

static void fail(const char *what) {
    perror(what);
    exit(2);
}

// Other bytes in the place of all that a file has.
static void rewrite(const char *path) {
    struct stat about;
    int file = open(path, O_WRONLY);
    if (file < 0 || fstat(file, &about) != 0) {
        fail(path);
    }
    char *bytes = malloc(about.st_size);
    memset(bytes, 0x3f, about.st_size);
    if (write(file, bytes, about.st_size) != about.st_size) {
        fail(path);
    }
    free(bytes);
    close(file);
}

static void shorten(const char *path, off_t len) {
    if (truncate(path, len) != 0) {
        fail(path);
    }
}

int main(int argc, char **argv) {
    if (argc < 4) {
        return 2;
    }
    unsigned char *picture = malloc(1 << 20);
    FILE *file = fopen(argv[2], "rb");
    size_t picture_len = file ? fread(picture, 1, 1 << 20, file) : 0;
    if (picture_len == 0) {
        fail(argv[2]);
    }
    fclose(file);

    tilesight_encoder encoder;
    tilesight_options options = {.size = sizeof options, .device = "cpu", .model = argv[1]};
    REQUIRE(tilesight_open(&options, &encoder));
    tilesight_description description = {.size = sizeof description};
    REQUIRE(tilesight_describe(encoder, &description));
    tilesight_picture layout = {.size = sizeof layout};
    REQUIRE(tilesight_measure(encoder, picture, picture_len, &layout));
    size_t bytes = layout.num_rows * description.embed_dim * sizeof(float);
    float *expected = malloc(bytes), *found = malloc(bytes);
    tilesight_bytes pictures = {picture, picture_len};
    tilesight_output output = {.size = sizeof output, .data = expected, .capacity = bytes};
    REQUIRE(tilesight_encode_pictures(encoder, &pictures, 1, &output, NULL));
    output.data = found;
    for (int change = 0; change < 3; change++) {
        for (int shard = 3; shard < argc; shard++) {
            if (change == 0) {
                rewrite(argv[shard]);
            } else {
                shorten(argv[shard], change == 1 ? 4096 : 0);
            }
        }
        memset(found, 0, bytes);
        REQUIRE(tilesight_encode_pictures(encoder, &pictures, 1, &output, NULL));
        if (memcmp(found, expected, bytes) != 0) {
            fprintf(stderr, "change %d of the files changed the embeddings\n", change);
            return 1;
        }
    }
    REQUIRE(tilesight_close(encoder));
    free(expected);
    free(found);
    free(picture);
    return 0;
}
