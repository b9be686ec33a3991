// The five functions of libb64 that perf_analyzer links to, in a library of that name: the real one is in no Python
// package. The structs are the caller's, so their layout is libb64's.

struct decoding {
    int step;  // digits so far, modulo 4
    char bits; // what they have given of the next byte
};

struct encoding {
    int step;  // bytes so far, modulo 3
    char bits; // what they have given of the next digit
    int unused;
};

static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int value(char digit) {
    for (int i = 0; i < 64; i++) {
        if (DIGITS[i] == digit) return i;
    }
    return -1;
}

void base64_init_decodestate(struct decoding* state) {
    state->step = 0;
    state->bits = 0;
}

// Anything that is no digit is passed over, line breaks and padding alike.
int base64_decode_block(const char* text, const int len, char* bytes, struct decoding* state) {
    char* out = bytes;
    for (int i = 0; i < len; i++) {
        const int digit = value(text[i]);
        if (digit < 0) continue;
        switch (state->step) {
            case 0: state->bits = (char)(digit << 2); break;
            case 1: *out++ = (char)(state->bits | digit >> 4), state->bits = (char)(digit << 4); break;
            case 2: *out++ = (char)(state->bits | digit >> 2), state->bits = (char)(digit << 6); break;
            default: *out++ = (char)(state->bits | digit);
        }
        state->step = (state->step + 1) % 4;
    }
    return (int)(out - bytes);
}

void base64_init_encodestate(struct encoding* state) {
    state->step = 0;
    state->bits = 0;
}

int base64_encode_block(const char* bytes, int len, char* text, struct encoding* state) {
    char* out = text;
    for (int i = 0; i < len; i++) {
        const int byte = (unsigned char)bytes[i];
        switch (state->step) {
            case 0: *out++ = DIGITS[byte >> 2], state->bits = (char)((byte & 3) << 4); break;
            case 1: *out++ = DIGITS[state->bits | byte >> 4], state->bits = (char)((byte & 15) << 2); break;
            default: *out++ = DIGITS[state->bits | byte >> 6], *out++ = DIGITS[byte & 63], state->bits = 0;
        }
        state->step = (state->step + 1) % 3;
    }
    return (int)(out - text);
}

int base64_encode_blockend(char* text, struct encoding* state) {
    char* out = text;
    if (state->step > 0) {
        *out++ = DIGITS[(int)state->bits];
        for (int i = state->step; i < 3; i++) *out++ = '=';
    }
    return (int)(out - text);
}
