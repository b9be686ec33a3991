// output = (input - mean) / sqrt(variance + eps) * weight + bias, row by row: the baseline's norm.
//
// Launch: a warp a row, 8 rows a block; grid ceil(rows / 8); no shared memory.
// Precision: f32 until the one rounding to T; statistics as in row_moments.cuh. Bytes: 4 C a row.
#include <stdint.h>
#include <abi.h>
#include <ptx.cuh>
#include <row_columns.cuh>
#include <row_moments.cuh>

template <class T>
__device__ __forceinline__ void layer_norm(const LayerNormParams& params) {
    start_in_turn();
    const uint32_t number = warp_row();
    if (number >= *params.num_rows) {
        return;
    }
    const uint32_t width = params.width;
    const T* input = static_cast<const T*>(params.input) + static_cast<size_t>(number) * params.stride;
    T* output = static_cast<T*>(params.output) + static_cast<size_t>(number) * params.stride;
    const RowMoments moments = warp_row_moments(width, [&](float (&values)[LANE_COLUMNS], uint32_t column) {
        load_columns(values, input, column, width);
    });
    const float scale = inverse_deviation(moments, width);
    for (uint32_t column = lane_column(); column < width; column += WARP_COLUMNS) {
        float values[LANE_COLUMNS];
        load_columns(values, input, column, width);
        normalise(values, moments, scale, params.weight, params.bias, column, width);
        store_columns(output, column, width, values);
    }
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) layer_norm_bf16(const __grid_constant__ LayerNormParams params) {
    layer_norm<Bf16>(params);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) layer_norm_fp16(const __grid_constant__ LayerNormParams params) {
    layer_norm<Fp16>(params);
}
