// The picture that a program was given.

#include <stdio.h>
#include <stdlib.h>

static unsigned char *picture;
static size_t picture_len;

static void read_picture(const char *path) {
    FILE *file = fopen(path, "rb");
    picture = malloc(1 << 20);
    picture_len = file ? fread(picture, 1, 1 << 20, file) : 0;
    if (picture_len == 0) {
        perror(path);
        exit(2);
    }
    fclose(file);
}
