// Mean and variance of a row from the moments of its groups of MOMENTS_COLUMNS columns: each group in two passes over
// values that are in registers, groups merged by Chan's rule in order of their columns. Nothing is ever the difference of
// two large sums, and no result depends on how a kernel cuts its tiles.
#pragma once
#include <abi.h>

// Moments of two runs of columns as those of one (Chan, Golub, LeVeque 1979).
__device__ __forceinline__ RowMoments merge_moments(RowMoments first, float first_len, RowMoments second, float second_len) {
    const float share = second_len / (first_len + second_len);
    const float distance = second.mean - first.mean;
    RowMoments merged;
    merged.mean = fmaf(distance, share, first.mean);
    merged.squares = first.squares + second.squares + distance * distance * (first_len * share);
    return merged;
}

// Groups of a row of `width` columns.
__device__ __forceinline__ uint32_t num_moments(uint32_t width) {
    return (width + MOMENTS_COLUMNS - 1) / MOMENTS_COLUMNS;
}

// Moments of the whole row from those of its groups, [num_moments(width)]. Merging waits for nothing but the merge
// before, so groups are read several at a time: one by one, each would wait for memory.
__device__ __forceinline__ RowMoments whole_row_moments(const RowMoments* groups, uint32_t width) {
    constexpr uint32_t at_once = 5;  // two turns for 1280 columns
    RowMoments row{0.0f, 0.0f};
    for (uint32_t first = 0; first < width; first += at_once * MOMENTS_COLUMNS) {
        RowMoments next[at_once];
#pragma unroll
        for (uint32_t i = 0; i < at_once; ++i) {
            const uint32_t column = first + i * MOMENTS_COLUMNS;
            next[i] = column < width ? groups[column / MOMENTS_COLUMNS] : RowMoments{0.0f, 0.0f};
        }
#pragma unroll
        for (uint32_t i = 0; i < at_once; ++i) {
            const uint32_t column = first + i * MOMENTS_COLUMNS;
            if (column == 0) {
                row = next[i];
            } else if (column < width) {
                const uint32_t len = min(MOMENTS_COLUMNS, width - column);
                row = merge_moments(row, static_cast<float>(column), next[i], static_cast<float>(len));
            }
        }
    }
    return row;
}

// What a norm multiplies deviations from the mean with: 1 / sqrt(variance + eps), the variance biased.
__device__ __forceinline__ float inverse_deviation(RowMoments row, uint32_t width) {
    return 1.0f / sqrtf(row.squares / static_cast<float>(width) + NORM_EPS);
}
