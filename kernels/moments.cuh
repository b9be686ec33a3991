// Mean and spread of a row by way of its RowMoments: how they are made of the values as they are stored, and how they merge
// into what a norm needs. Two passes and Chan's rule, never E[x^2] - E[x]^2: a residual stream has rows whose mean is far
// beyond their deviation.
#pragma once
#include <stdint.h>

#include <abi.h>

constexpr float NORM_EPS = 1e-5f;

// Mean and 1 / sqrt(variance + eps) of a row of `width` values, from its moments in order of their columns.
__device__ __forceinline__ float2 merge_moments(const RowMoments* moments, uint32_t row, uint32_t width) {
    const uint32_t parts = (width + MOMENTS_COLUMNS - 1) / MOMENTS_COLUMNS;
    const RowMoments* const first = moments + static_cast<uint64_t>(row) * parts;
    float mean = 0.0f;
    float squares = 0.0f;
#pragma unroll 5
    for (uint32_t part = 0; part < parts; ++part) {
        const uint32_t before = part * MOMENTS_COLUMNS;
        const uint32_t added = min(width - before, MOMENTS_COLUMNS);
        const RowMoments other = first[part];
        const float share = static_cast<float>(added) / static_cast<float>(before + added);
        const float delta = other.mean - mean;
        mean = fmaf(delta, share, mean);
        squares += fmaf(delta * delta, share * static_cast<float>(before), other.squares);
    }
    return make_float2(mean, 1.0f / sqrtf(squares / static_cast<float>(width) + NORM_EPS));
}
