// output = residual + gate * (product + bias), with a library's f32 product; residual and output may be one.
//
// Launch: a warp a row, 8 rows a block; grid ceil(rows / 8); no shared memory.
// Precision: f32 until the one rounding to T. Bytes: 8 a value.
#include <stdint.h>
#include <abi.h>
#include <ptx.cuh>
#include <row_columns.cuh>

template <class T>
__device__ __forceinline__ void gated_residual(const GatedResidualParams& params) {
    start_in_turn();
    const uint32_t number = warp_row();
    if (number >= *params.num_rows) {
        return;
    }
    const size_t start = static_cast<size_t>(number) * params.output_stride;
    const float* product = params.product + static_cast<size_t>(number) * params.product_stride;
    const T* residual = static_cast<const T*>(params.residual) + start;
    T* output = static_cast<T*>(params.output) + start;
    for (uint32_t column = lane_column(); column < params.width; column += WARP_COLUMNS) {
        float branch[LANE_COLUMNS];
        float values[LANE_COLUMNS];
        load_columns(branch, product, column, params.width);
        if (params.bias != nullptr) {
            float bias[LANE_COLUMNS];
            load_columns(bias, params.bias, column, params.width);
            add_scaled(branch, bias, 1.0f);
        }
        load_columns(values, residual, column, params.width);
        add_scaled(values, branch, params.gate);
        store_columns(output, column, params.width, values);
    }
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) gated_residual_bf16(const __grid_constant__ GatedResidualParams params) {
    gated_residual<Bf16>(params);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) gated_residual_fp16(const __grid_constant__ GatedResidualParams params) {
    gated_residual<Fp16>(params);
}
