// A warp goes along a row: each lane holds LANE_COLUMNS neighbouring columns, a 16-byte vector of T, and the warp
// WARP_COLUMNS. Vectors move whole where they lie in the row and on their alignment, element by element where not: rows of
// tables and of embeddings start anywhere, and nothing beyond a row's width may be touched.
#pragma once
#include <abi.h>
#include <ptx.cuh>
#include <row_moments.cuh>

constexpr uint32_t LANE_COLUMNS = 8;
constexpr uint32_t WARP_COLUMNS = 32 * LANE_COLUMNS;

// Lanes that hold one group of columns with moments of its own.
constexpr uint32_t GROUP_LANES = MOMENTS_COLUMNS / LANE_COLUMNS;
static_assert(GROUP_LANES == 16, "a warp holds two groups, one in each half");

constexpr uint32_t ROW_THREADS = 32 * ROW_WARPS;

// The row of this warp.
__device__ __forceinline__ uint32_t warp_row() {
    return blockIdx.x * ROW_WARPS + threadIdx.x / 32;
}

// The first column of this lane, in the stretch of WARP_COLUMNS that starts at 0.
__device__ __forceinline__ uint32_t lane_column() {
    return threadIdx.x % 32 * LANE_COLUMNS;
}

// Whether a vector lies on 16 bytes.
__device__ __forceinline__ bool is_vector(const void* address) {
    return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

// Columns `column` on of a row of T, as f32; zeros from `width` on.
template <class T>
__device__ __forceinline__ void load_columns(float (&values)[LANE_COLUMNS], const T* row, uint32_t column, uint32_t width) {
    if (column + LANE_COLUMNS <= width && is_vector(row + column)) {
        const uint4 vector = *reinterpret_cast<const uint4*>(row + column);
        const uint32_t pairs[] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
        for (uint32_t i = 0; i < LANE_COLUMNS; i += 2) {
            const float2 pair = widen_pair<T>(pairs[i / 2]);
            values[i] = pair.x;
            values[i + 1] = pair.y;
        }
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < LANE_COLUMNS; ++i) {
        values[i] = column + i < width ? widen(row[column + i]) : 0.0f;
    }
}

// The same of a row of f32.
__device__ __forceinline__ void load_columns(float (&values)[LANE_COLUMNS], const float* row, uint32_t column,
                                             uint32_t width) {
    if (column + LANE_COLUMNS <= width && is_vector(row + column)) {
        const float4 low = *reinterpret_cast<const float4*>(row + column);
        const float4 high = *reinterpret_cast<const float4*>(row + column + 4);
        const float vector[] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
        for (uint32_t i = 0; i < LANE_COLUMNS; ++i) {
            values[i] = vector[i];
        }
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < LANE_COLUMNS; ++i) {
        values[i] = column + i < width ? row[column + i] : 0.0f;
    }
}

// Rounds the values to T, in place, and stores those before `width`.
template <class T>
__device__ __forceinline__ void store_columns(T* row, uint32_t column, uint32_t width, float (&values)[LANE_COLUMNS]) {
    uint32_t pairs[LANE_COLUMNS / 2];
#pragma unroll
    for (uint32_t i = 0; i < LANE_COLUMNS; i += 2) {
        pairs[i / 2] = narrow_pair<T>(values[i], values[i + 1]);
        const float2 rounded = widen_pair<T>(pairs[i / 2]);
        values[i] = rounded.x;
        values[i + 1] = rounded.y;
    }
    if (column + LANE_COLUMNS <= width && is_vector(row + column)) {
        *reinterpret_cast<uint4*>(row + column) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < LANE_COLUMNS; ++i) {
        if (column + i < width) {
            row[column + i] = T{static_cast<uint16_t>(pairs[i / 2] >> 16 * (i % 2))};
        }
    }
}

// values += scale * added.
__device__ __forceinline__ void add_scaled(float (&values)[LANE_COLUMNS], const float (&added)[LANE_COLUMNS], float scale) {
#pragma unroll
    for (uint32_t i = 0; i < LANE_COLUMNS; ++i) {
        values[i] = fmaf(scale, added[i], values[i]);
    }
}

// The sum over the lanes that hold a group, in each of them.
__device__ __forceinline__ float group_sum(float value) {
#pragma unroll
    for (int32_t distance = GROUP_LANES / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
}

// Moments of the group that this lane's columns belong to; zeros where the group is beyond the row.
__device__ __forceinline__ RowMoments group_moments(const float (&values)[LANE_COLUMNS], uint32_t column, uint32_t width) {
    const uint32_t group = column / MOMENTS_COLUMNS * MOMENTS_COLUMNS;
    const uint32_t len = group < width ? min(MOMENTS_COLUMNS, width - group) : 1;
    float sum = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < LANE_COLUMNS; ++i) {
        sum += column + i < width ? values[i] : 0.0f;
    }
    RowMoments moments;
    moments.mean = group_sum(sum) / static_cast<float>(len);
    float squares = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < LANE_COLUMNS; ++i) {
        const float deviation = column + i < width ? values[i] - moments.mean : 0.0f;
        squares = fmaf(deviation, deviation, squares);
    }
    moments.squares = group_sum(squares);
    return moments;
}

// Moments of a whole row, in every lane; load(values, column) gives this lane's columns, zeros beyond the width.
template <class Load>
__device__ __forceinline__ RowMoments warp_row_moments(uint32_t width, Load load) {
    RowMoments row{0.0f, 0.0f};
    for (uint32_t first = 0; first < width; first += WARP_COLUMNS) {
        float values[LANE_COLUMNS];
        load(values, first + lane_column());
        const RowMoments own = group_moments(values, first + lane_column(), width);
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            const uint32_t group = first + half * MOMENTS_COLUMNS;
            RowMoments next;
            next.mean = __shfl_sync(0xffffffffu, own.mean, half * GROUP_LANES);
            next.squares = __shfl_sync(0xffffffffu, own.squares, half * GROUP_LANES);
            if (group < width) {
                const uint32_t len = min(MOMENTS_COLUMNS, width - group);
                row = merge_moments(row, static_cast<float>(group), next, static_cast<float>(len));
            }
        }
    }
    return row;
}

// Writes the moments of the groups whose columns the warp holds; `groups` are the row's.
__device__ __forceinline__ void store_moments(RowMoments* groups, uint32_t column, uint32_t width,
                                              const float (&values)[LANE_COLUMNS]) {
    const RowMoments moments = group_moments(values, column, width);
    if (column % MOMENTS_COLUMNS == 0 && column < width) {
        groups[column / MOMENTS_COLUMNS] = moments;
    }
}

// values = (values - mean) * scale * weight + bias, with the norm's weight and bias at these columns.
__device__ __forceinline__ void normalise(float (&values)[LANE_COLUMNS], RowMoments row, float scale, const float* norm_weight,
                                          const float* norm_bias, uint32_t column, uint32_t width) {
    float weight[LANE_COLUMNS];
    float bias[LANE_COLUMNS];
    load_columns(weight, norm_weight, column, width);
    load_columns(bias, norm_bias, column, width);
#pragma unroll
    for (uint32_t i = 0; i < LANE_COLUMNS; ++i) {
        values[i] = fmaf((values[i] - row.mean) * scale, weight[i], bias[i]);
    }
}
