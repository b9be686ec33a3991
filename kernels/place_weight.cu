// output[R, K] = input[r, column_start + c column_step] * norm_weight[c], less the mean of the row where it is centred; row r
// lies at R and column c at K, in groups with zeros between them. Runs once a weight, at load.
//
// Launch: a warp an output row, 8 rows a block; grid ceil(padded rows / 8); no shared memory.
// Precision: f32 until the one rounding to T. Elements that are not finite in T are counted, not hidden. Bytes: each stored
// element once, twice where rows are centred (the second time from L1), each output element once.
#include <stdint.h>
#include <abi.h>
#include <ptx.cuh>
#include <stored_weight.cuh>

// Column `column` of a row of the input, the norm's weight applied.
__device__ __forceinline__ float weight_element(const PlaceWeightParams& params, uint32_t row, uint32_t column) {
    const size_t start = static_cast<size_t>(row) * params.input_stride + params.column_start;
    const size_t index = start + static_cast<size_t>(column) * params.column_step;
    const float value = stored_element(params.input, params.stored, index);
    return params.norm_weight != nullptr ? value * params.norm_weight[column] : value;
}

__device__ __forceinline__ float row_mean(const PlaceWeightParams& params, uint32_t row) {
    float sum = 0.0f;
    for (uint32_t column = threadIdx.x % 32; column < params.columns; column += 32) {
        sum += weight_element(params, row, column);
    }
    return warp_sum(sum) / static_cast<float>(params.columns);
}

template <class T>
__device__ __forceinline__ void place_weight(const PlaceWeightParams& params) {
    start_in_turn();
    const Groups rows{params.row_group_len, params.row_group_stride, params.rows};
    const Groups columns{params.column_group_len, params.column_group_stride, params.columns};
    const uint32_t place = blockIdx.x * ROW_WARPS + threadIdx.x / 32;
    if (place >= rows.padded_count()) {
        return;
    }
    const uint32_t row = rows.at(place);
    const bool is_padding = row == params.rows;
    const float mean = params.centre != 0 && !is_padding ? row_mean(params, row) : 0.0f;
    T* output = static_cast<T*>(params.output) + static_cast<size_t>(place) * params.output_stride;
    uint32_t num_not_finite = 0;
    for (uint32_t lane_place = threadIdx.x % 32; lane_place < columns.padded_count(); lane_place += 32) {
        const uint32_t column = columns.at(lane_place);
        float value = 0.0f;
        if (!is_padding && column < params.columns) {
            value = weight_element(params, row, column) - mean;
        }
        const T element = narrow<T>(value);
        // A comparison with NaN is false.
        num_not_finite += fabsf(widen(element)) < INFINITY ? 0 : 1;
        output[lane_place] = element;
    }
    if (num_not_finite > 0) {
        atomicAdd(params.num_not_finite, num_not_finite);
    }
}

extern "C" __global__ void __launch_bounds__(32 * ROW_WARPS) place_weight_bf16(const __grid_constant__ PlaceWeightParams params) {
    place_weight<Bf16>(params);
}

extern "C" __global__ void __launch_bounds__(32 * ROW_WARPS) place_weight_fp16(const __grid_constant__ PlaceWeightParams params) {
    place_weight<Fp16>(params);
}
