// layer_norm_linear of Hopper: output = norm(input) * W^T + b, and its GELU in layer_norm_linear_gelu. The norm is folded
// into the weight, so the product runs on the residual stream as it lies, and the sums are put right afterwards: rstd *
// (sum - mean * column_sum) + bias.
//
// Shapes: input [rows, C], moments [rows, ceil(C / MOMENTS_COLUMNS)], weight [outputs, C], output [rows, outputs]; launch
// as sm90/gemm.cuh has it. Sums, statistics and GELU in f32, rounded once. 2 * rows * C * outputs FLOPs; moves each
// matrix once. Beside the products a block of 128x256 has 32768 values to finish at some 20 instructions with GELU, 5600
// clocks of all four schedulers, of which the two consumers' lead over one another hides the most.
#include <stdint.h>

#include <abi.h>
#include <gelu.cuh>
#include <ptx.cuh>
#include <row_moments.cuh>
#include <sm90/gemm.cuh>
#include <sm90/hopper.cuh>

template <class T, class Tiling, bool with_gelu>
struct NormaliseRows {
    // Of one half tile.
    struct Panel {
        struct Columns {
            float2 column_sum;
            float2 bias;
        };

        const NormaliseRows& all;
        const HalfTile& half;
        uint32_t first_row;

        __device__ __forceinline__ Columns columns(uint32_t column) const {
            const LayerNormLinearParams& params = all.params.plain;
            return {load_pair(params.column_sum, column, params.outputs), load_pair(params.bias, column, params.outputs)};
        }

        __device__ __forceinline__ float2 value(const Columns& columns, uint32_t half_row, float2 sums) const {
            const float mean = all.mean[half_row];
            const float rstd = all.rstd[half_row];
            const float low = fmaf(rstd, fmaf(-mean, columns.column_sum.x, sums.x), columns.bias.x);
            const float high = fmaf(rstd, fmaf(-mean, columns.column_sum.y, sums.y), columns.bias.y);
            return with_gelu ? make_float2(gelu(low), gelu(high)) : make_float2(low, high);
        }

        __device__ __forceinline__ void store(uint32_t panel, uint32_t column) const {
            all.rows.store(all.panels, panel, half, first_row, column);
        }
    };

    const HopperLayerNormLinearParams& params;
    const Panels& panels;
    RowStore<T> rows;
    float mean[2];  // of this lane's rows
    float rstd[2];

    __device__ __forceinline__ NormaliseRows(const HopperLayerNormLinearParams& params, const Panels& panels, uint32_t)
        : params(params),
          panels(panels),
          rows(params) {}

    // Each lane takes one of its warp's 16 rows, and hands it to those that have values of it.
    __device__ __forceinline__ void start(const RowTile& tile, const HalfTile& half) {
        const uint32_t lane = threadIdx.x % 32;
        const uint32_t own = min(threadIdx.x % WARPGROUP_THREADS / 32 * 16 + lane % 16, half.num_rows - 1);
        const uint64_t groups =
            static_cast<uint64_t>(tile.first_row + half.row + own) * num_moments(params.plain.inputs);
        const RowMoments moments = whole_row_moments(params.plain.moments + groups, params.plain.inputs);
        const float deviation = inverse_deviation(moments, params.plain.inputs);
#pragma unroll
        for (int32_t i = 0; i < 2; ++i) {
            const int32_t source = static_cast<int32_t>(lane / 4) + 8 * i;
            mean[i] = __shfl_sync(0xffffffffu, moments.mean, source);
            rstd[i] = __shfl_sync(0xffffffffu, deviation, source);
        }
    }

    __device__ __forceinline__ void finish(const Sums<Tiling>& sums, const RowTile& tile, const HalfTile& half) const {
        finish_panels<T, Tiling>(sums, panels, half, Panel{*this, half, tile.first_row + half.row});
    }
};

template <class T, class Tiling, bool with_gelu>
__device__ __forceinline__ void layer_norm_linear(const HopperLayerNormLinearParams& params) {
    gemm<T, Tiling, Operands<HopperLayerNormLinearParams>, NormaliseRows<T, Tiling, with_gelu>>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) layer_norm_linear_bf16_128x256(const __grid_constant__ HopperLayerNormLinearParams params) {
    layer_norm_linear<Bf16, Tiling128x256, false>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) layer_norm_linear_fp16_128x256(const __grid_constant__ HopperLayerNormLinearParams params) {
    layer_norm_linear<Fp16, Tiling128x256, false>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) layer_norm_linear_bf16_128x128(const __grid_constant__ HopperLayerNormLinearParams params) {
    layer_norm_linear<Bf16, Tiling128x128, false>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) layer_norm_linear_fp16_128x128(const __grid_constant__ HopperLayerNormLinearParams params) {
    layer_norm_linear<Fp16, Tiling128x128, false>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) layer_norm_linear_gelu_bf16_128x256(const __grid_constant__ HopperLayerNormLinearParams params) {
    layer_norm_linear<Bf16, Tiling128x256, true>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) layer_norm_linear_gelu_fp16_128x256(const __grid_constant__ HopperLayerNormLinearParams params) {
    layer_norm_linear<Fp16, Tiling128x256, true>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) layer_norm_linear_gelu_bf16_128x128(const __grid_constant__ HopperLayerNormLinearParams params) {
    layer_norm_linear<Bf16, Tiling128x128, true>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) layer_norm_linear_gelu_fp16_128x128(const __grid_constant__ HopperLayerNormLinearParams params) {
    layer_norm_linear<Fp16, Tiling128x128, true>(params);
}
