// A child of fork() is refused by every function, on the parent's encoders and for new ones, and waits for nothing; a child
// that is the first to call the library has all of it.
//
//     fork MODEL PICTURE

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <tilesight.h>
#include <unistd.h>

#include "picture.h"

// Longer than any call takes. A child that waits for ever is ended by it, and the parent sees by what.
#define PATIENCE_SECONDS 120

static void require(int line, tilesight_status found, tilesight_status expected) {
    if (found != expected) {
        fprintf(stderr, "line %d: status %d, expected %d: %s\n", line, found, expected, tilesight_error());
        _exit(1);
    }
}
#define REQUIRE(call, status) require(__LINE__, call, TILESIGHT_STATUS_##status)

// Opens the model, encodes the picture, closes the model.
static void use(const char *model) {
    tilesight_encoder encoder;
    tilesight_options options = {.size = sizeof options, .device = "cpu", .model = model};
    REQUIRE(tilesight_open(&options, &encoder), OK);
    tilesight_description description = {.size = sizeof description};
    REQUIRE(tilesight_describe(encoder, &description), OK);
    tilesight_picture layout = {.size = sizeof layout};
    REQUIRE(tilesight_measure(encoder, picture, picture_len, &layout), OK);
    size_t bytes = layout.num_rows * description.embed_dim * sizeof(float);
    tilesight_output output = {.size = sizeof output, .data = malloc(bytes), .capacity = bytes};
    tilesight_bytes file = {picture, picture_len};
    REQUIRE(tilesight_encode_pictures(encoder, &file, 1, &output, NULL), OK);
    free(output.data);
    REQUIRE(tilesight_close(encoder), OK);
}

static void everything_is_refused(tilesight_encoder encoder, const char *model) {
    tilesight_options options = {.size = sizeof options, .device = "cpu", .model = model};
    tilesight_encoder other = {0};
    REQUIRE(tilesight_open(&options, &other), FORKED);
    REQUIRE(tilesight_open(NULL, &other), FORKED);
    tilesight_description description = {.size = sizeof description};
    REQUIRE(tilesight_describe(encoder, &description), FORKED);
    tilesight_picture layout = {.size = sizeof layout};
    REQUIRE(tilesight_measure(encoder, picture, picture_len, &layout), FORKED);
    float value;
    tilesight_output output = {.size = sizeof output, .data = &value, .capacity = sizeof value};
    tilesight_bytes file = {picture, picture_len};
    REQUIRE(tilesight_encode_pictures(encoder, &file, 1, &output, NULL), FORKED);
    tilesight_pixels pixels = {.size = sizeof pixels};
    REQUIRE(tilesight_encode_pixels(encoder, &pixels, &output), FORKED);
    tilesight_device_pixels device_pixels = {.size = sizeof device_pixels};
    tilesight_device_output device_output = {.size = sizeof device_output};
    tilesight_stream stream = {.size = sizeof stream};
    REQUIRE(tilesight_enqueue_pixels(encoder, &device_pixels, &device_output, &stream), FORKED);
    REQUIRE(tilesight_enqueue_pictures(encoder, &file, 1, &device_output, &stream, NULL), FORKED);
    REQUIRE(tilesight_close(encoder), FORKED);
    if (!strstr(tilesight_error(), "fork()") || other.id != 0 || strlen(tilesight_version()) == 0) {
        fprintf(stderr, "a refusal says \"%s\", and gives encoder %d\n", tilesight_error(), (int)other.id);
        _exit(1);
    }
}

// In a child: begins one, or waits for the one that began here.
static int is_child(void) {
    fflush(stderr);
    pid_t child = fork();
    if (child == 0) {
        alarm(PATIENCE_SECONDS);
        return 1;
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
        fprintf(stderr, "a child ended with status %d\n", status);
        exit(1);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        return 2;
    }
    read_picture(argv[2]);
    // What only tells of the library is no use of it.
    if (tilesight_error()[0] != 0 || strlen(tilesight_version()) == 0) {
        return 1;
    }
    // Nobody has called it yet: each process has it for itself.
    if (is_child()) {
        use(argv[1]);
        _exit(0);
    }
    use(argv[1]);
    tilesight_encoder encoder;
    tilesight_options options = {.size = sizeof options, .device = "cpu", .model = argv[1]};
    REQUIRE(tilesight_open(&options, &encoder), OK);
    if (is_child()) {
        everything_is_refused(encoder, argv[1]);
        // And a child of the child.
        if (is_child()) {
            everything_is_refused(encoder, argv[1]);
            _exit(0);
        }
        _exit(0);
    }
    // The parent is none the worse.
    tilesight_description description = {.size = sizeof description};
    REQUIRE(tilesight_describe(encoder, &description), OK);
    REQUIRE(tilesight_close(encoder), OK);
    use(argv[1]);
    if (is_child()) {
        everything_is_refused(encoder, argv[1]);
        _exit(0);
    }
    free(picture);
    printf("children are refused, and nothing else is\n");
    return 0;
}
