// Where a warpgroup is among stages that are filled and emptied in turn.
#pragma once
#include <stdint.h>

// A stage of a ring in shared memory, and the parity of the phase in which it is filled.
template <uint32_t stages>
struct Ring {
    uint32_t stage = 0;
    uint32_t parity = 0;

    __device__ __forceinline__ void advance() {
        ++stage;
        if (stage == stages) {
            stage = 0;
            parity ^= 1;
        }
    }
};
