// layer_norm_linear: output = norm(input) * W^T + b, and its GELU in layer_norm_linear_gelu. The norm is folded into
// the weight, so the product runs on the residual stream as it lies, and the sums are put right afterwards: rstd * (sum
// - mean * column_sum) + bias, for rstd * (x - mean) . w = rstd * (x . w - mean * sum of w).
//
// Shapes: input [rows, C], moments [rows, ceil(C / MOMENTS_COLUMNS)], weight [outputs, C], output [rows, outputs];
// launch as gemm.cuh has it, with a float2 for each row of the tile behind the pipeline. Sums, statistics and GELU in
// f32, rounded once. 2 * rows * C * outputs FLOPs; moves each matrix once, 2 * (rows * (C + outputs) + C * outputs)
// bytes.
#include <stdint.h>

#include <abi.h>
#include <gelu.cuh>
#include <gemm.cuh>
#include <ptx.cuh>
#include <row_columns.cuh>
#include <row_moments.cuh>

template <class T, class Tiling, bool with_gelu>
struct NormaliseRows {
    using Read = NoRead;
    static constexpr uint32_t unrolled_rows = with_gelu ? 1 : 4;

    const LayerNormLinearParams& params;
    uint32_t num_rows;
    const float2* statistics;  // [rows of the tile], mean and rstd; shared memory
    float column_sum[LANE_COLUMNS];
    float bias[LANE_COLUMNS];

    __device__ __forceinline__ NormaliseRows(
        const LayerNormLinearParams& params, uint32_t num_rows, const float2* statistics)
        : params(params), num_rows(num_rows), statistics(statistics) {
        load_columns(column_sum, params.column_sum, finished_column<Tiling>(), params.outputs);
        load_columns(bias, params.bias, finished_column<Tiling>(), params.outputs);
    }

    __device__ __forceinline__ Read read(uint32_t) const { return {}; }

    __device__ __forceinline__ void write(uint32_t row, const float (&sums)[LANE_COLUMNS], Read) const {
        if (row >= num_rows) {
            return;
        }
        const float mean = statistics[row - tile_row<Tiling>()].x;
        const float rstd = statistics[row - tile_row<Tiling>()].y;
        float values[LANE_COLUMNS];
#pragma unroll
        for (uint32_t i = 0; i < LANE_COLUMNS; ++i) {
            const float value = fmaf(rstd, fmaf(-mean, column_sum[i], sums[i]), bias[i]);
            values[i] = with_gelu ? gelu(value) : value;
        }
        T* const output = static_cast<T*>(params.output) + static_cast<uint64_t>(row) * params.output_stride;
        store_columns(output, finished_column<Tiling>(), params.outputs, values);
    }
};

template <class T, class Tiling, bool with_gelu>
__device__ __forceinline__ void layer_norm_linear(const LayerNormLinearParams& params) {
    static_assert(Tiling::threads >= Tiling::rows, "each row's statistics are one thread's");
    start_in_turn();
    const uint32_t num_rows = *params.num_rows;
    if (tile_row<Tiling>() >= num_rows) {
        return;
    }
    Operands<T, Tiling> operands = operands_of<T, Tiling>(params, num_rows);
    const uint32_t num_slabs = operands.num_slabs(params.inputs);
    start_pipeline<Tiling>(operands, num_slabs);
    float2* const statistics = reinterpret_cast<float2*>(dynamic_shared() + Tiling::pipeline_bytes);
    const uint32_t row = tile_row<Tiling>() + threadIdx.x;
    if (threadIdx.x < Tiling::rows && row < num_rows) {
        const uint64_t groups = static_cast<uint64_t>(row) * num_moments(params.inputs);
        const RowMoments moments = whole_row_moments(params.moments + groups, params.inputs);
        statistics[threadIdx.x] = make_float2(moments.mean, inverse_deviation(moments, params.inputs));
    }
    Sums<Tiling> sums;
    multiply<T, Tiling>(sums, operands, num_slabs);
    finish_tile<Tiling>(sums, NormaliseRows<T, Tiling, with_gelu>(params, num_rows, statistics));
}

extern "C" __global__ void __launch_bounds__(256, 1) layer_norm_linear_bf16_128x256(const __grid_constant__ LayerNormLinearParams params) {
    layer_norm_linear<Bf16, Gemm128x256, false>(params);
}

extern "C" __global__ void __launch_bounds__(256, 1) layer_norm_linear_fp16_128x256(const __grid_constant__ LayerNormLinearParams params) {
    layer_norm_linear<Fp16, Gemm128x256, false>(params);
}

extern "C" __global__ void __launch_bounds__(128, 2) layer_norm_linear_bf16_128x128(const __grid_constant__ LayerNormLinearParams params) {
    layer_norm_linear<Bf16, Gemm128x128, false>(params);
}

extern "C" __global__ void __launch_bounds__(128, 2) layer_norm_linear_fp16_128x128(const __grid_constant__ LayerNormLinearParams params) {
    layer_norm_linear<Fp16, Gemm128x128, false>(params);
}

extern "C" __global__ void __launch_bounds__(128, 3) layer_norm_linear_bf16_64x128(const __grid_constant__ LayerNormLinearParams params) {
    layer_norm_linear<Bf16, Gemm64x128, false>(params);
}

extern "C" __global__ void __launch_bounds__(128, 3) layer_norm_linear_fp16_64x128(const __grid_constant__ LayerNormLinearParams params) {
    layer_norm_linear<Fp16, Gemm64x128, false>(params);
}

extern "C" __global__ void __launch_bounds__(256, 1) layer_norm_linear_gelu_bf16_128x256(const __grid_constant__ LayerNormLinearParams params) {
    layer_norm_linear<Bf16, Gemm128x256, true>(params);
}

extern "C" __global__ void __launch_bounds__(256, 1) layer_norm_linear_gelu_fp16_128x256(const __grid_constant__ LayerNormLinearParams params) {
    layer_norm_linear<Fp16, Gemm128x256, true>(params);
}

extern "C" __global__ void __launch_bounds__(128, 2) layer_norm_linear_gelu_bf16_128x128(const __grid_constant__ LayerNormLinearParams params) {
    layer_norm_linear<Bf16, Gemm128x128, true>(params);
}

extern "C" __global__ void __launch_bounds__(128, 2) layer_norm_linear_gelu_fp16_128x128(const __grid_constant__ LayerNormLinearParams params) {
    layer_norm_linear<Fp16, Gemm128x128, true>(params);
}

extern "C" __global__ void __launch_bounds__(128, 3) layer_norm_linear_gelu_bf16_64x128(const __grid_constant__ LayerNormLinearParams params) {
    layer_norm_linear<Bf16, Gemm64x128, true>(params);
}

extern "C" __global__ void __launch_bounds__(128, 3) layer_norm_linear_gelu_fp16_64x128(const __grid_constant__ LayerNormLinearParams params) {
    layer_norm_linear<Fp16, Gemm64x128, true>(params);
}
