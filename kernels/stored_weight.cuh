// Weights as a checkpoint stores them, read by the kernels that run at load.
#pragma once
#include <stored.cuh>

// Rows or columns that come in groups of `len` and lie `stride` apart where they are put, padding after each group.
struct Groups {
    uint32_t len;
    uint32_t stride;
    uint32_t count;  // of all groups together, without padding

    // How many there are with padding.
    __device__ __forceinline__ uint32_t padded_count() const {
        return (count + len - 1) / len * stride;
    }

    // Which one lies at `place`; `count` for padding.
    __device__ __forceinline__ uint32_t at(uint32_t place) const {
        const uint32_t within = place % stride;
        const uint32_t number = place / stride * len + within;
        return within < len && number < count ? number : count;
    }
};

// The sum over a warp, in each lane.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int32_t distance = 16; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
}
