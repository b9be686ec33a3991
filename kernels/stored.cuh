// Values in whichever element type they come in: weights of a checkpoint, pixels of a caller.
#pragma once
#include <abi.h>
#include <ptx.cuh>

// Element `index` of what is stored as STORED_*.
__device__ __forceinline__ float stored_element(const void* values, uint32_t stored, size_t index) {
    switch (stored) {
        case STORED_BF16:
            return widen(static_cast<const Bf16*>(values)[index]);
        case STORED_FP16:
            return widen(static_cast<const Fp16*>(values)[index]);
        default:
            return static_cast<const float*>(values)[index];
    }
}
