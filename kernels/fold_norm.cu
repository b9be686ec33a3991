// What a norm leaves beside the weight W that it was folded into: folded_bias[R] = sum over c of W[r, c] norm_bias[c] + bias[r],
// with W as it is stored, and column_sum[R] = sum over c of weight[R, c], with the weight as place_weight rounded it, so that
// the epilogue takes off exactly what the product has gathered. Row r lies at R; zeros between the groups. Runs once a
// weight, at load.
//
// Launch: a warp an output row, 8 rows a block; grid ceil(padded rows / 8); no shared memory.
// Precision: f32; each lane adds a thirty-second of the row, the lanes pairwise. Bytes: both matrices once.
#include <stdint.h>
#include <abi.h>
#include <ptx.cuh>
#include <stored_weight.cuh>

template <class T>
__device__ __forceinline__ void fold_norm(const FoldNormParams& params) {
    start_in_turn();
    const Groups rows{params.row_group_len, params.row_group_stride, params.rows};
    const uint32_t place = blockIdx.x * ROW_WARPS + threadIdx.x / 32;
    if (place >= rows.padded_count()) {
        return;
    }
    const uint32_t row = rows.at(place);
    float folded_bias = 0.0f;
    float column_sum = 0.0f;
    if (row < params.rows) {
        const size_t start = static_cast<size_t>(row) * params.input_stride;
        const T* weight = static_cast<const T*>(params.weight) + static_cast<size_t>(place) * params.weight_stride;
        for (uint32_t column = threadIdx.x % 32; column < params.columns; column += 32) {
            const float stored = stored_element(params.input, params.stored, start + column);
            folded_bias = fmaf(stored, params.norm_bias[column], folded_bias);
            column_sum += widen(weight[column]);
        }
        folded_bias = warp_sum(folded_bias);
        column_sum = warp_sum(column_sum);
        if (params.bias != nullptr) {
            folded_bias += params.bias[row];
        }
    }
    if (threadIdx.x % 32 == 0) {
        params.folded_bias[place] = folded_bias;
        params.column_sum[place] = column_sum;
    }
}

extern "C" __global__ void __launch_bounds__(32 * ROW_WARPS) fold_norm_bf16(const __grid_constant__ FoldNormParams params) {
    fold_norm<Bf16>(params);
}

extern "C" __global__ void __launch_bounds__(32 * ROW_WARPS) fold_norm_fp16(const __grid_constant__ FoldNormParams params) {
    fold_norm<Fp16>(params);
}
