// From the transformer to the gated layers, in one pass: output[r] = norm(input[source of r]) + tanh(gate) post_tile[block],
// without the second term where the row has no block.
//
// Semantics: the end of torchtune's VisionTransformer.forward; Meta's VisionEncoder.forward.
// Launch: a warp a row, 8 rows a block; grid ceil(rows / 8); no shared memory.
// Precision: f32 until the one rounding to T; statistics as in row_moments.cuh. Bytes: 4 C a row; the row is read a second
// time, from L1, after its statistics.
#include <stdint.h>
#include <abi.h>
#include <ptx.cuh>
#include <row_columns.cuh>
#include <row_moments.cuh>

template <class T>
__device__ __forceinline__ void tile_norm(const TileNormParams& params) {
    start_in_turn();
    const uint32_t number = warp_row();
    if (number >= params.batch->num_rows[1]) {
        return;
    }
    const uint32_t width = params.width;
    const GlobalRow row = params.rows[number];
    const T* input = static_cast<const T*>(params.input) + static_cast<size_t>(row.source) * params.stride;
    const T* post_tile = static_cast<const T*>(params.post_tile);
    const bool has_block = row.block >= 0 && post_tile != nullptr;
    T* output = static_cast<T*>(params.output) + static_cast<size_t>(number) * params.stride;
    const RowMoments moments = warp_row_moments(width, [&](float (&values)[LANE_COLUMNS], uint32_t column) {
        load_columns(values, input, column, width);
    });
    const float scale = inverse_deviation(moments, width);
    for (uint32_t column = lane_column(); column < width + lane_column(); column += WARP_COLUMNS) {
        float values[LANE_COLUMNS];
        load_columns(values, input, column, width);
        normalise(values, moments, scale, params.norm_weight, params.norm_bias, column, width);
        if (has_block) {
            float added[LANE_COLUMNS];
            load_columns(added, post_tile + static_cast<size_t>(row.block) * width, column, width);
            add_scaled(values, added, params.post_tile_gate);
        }
        store_columns(output, column, width, values);
        if (params.moments != nullptr) {
            store_moments(params.moments + static_cast<size_t>(number) * num_moments(width), column, width, values);
        }
    }
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) tile_norm_bf16(const __grid_constant__ TileNormParams params) {
    tile_norm<Bf16>(params);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) tile_norm_fp16(const __grid_constant__ TileNormParams params) {
    tile_norm<Fp16>(params);
}
