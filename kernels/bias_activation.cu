// output = activation(product + bias), with a library's f32 product; the activation is none or the exact GELU.
//
// Launch: a warp a row, 8 rows a block; grid ceil(rows / 8); no shared memory.
// Precision: f32 until the one rounding to T. Bytes: 6 a value.
#include <stdint.h>
#include <abi.h>
#include <gelu.cuh>
#include <ptx.cuh>
#include <row_columns.cuh>

template <class T>
__device__ __forceinline__ void bias_activation(const BiasActivationParams& params) {
    start_in_turn();
    const uint32_t number = warp_row();
    if (number >= *params.num_rows) {
        return;
    }
    const float* product = params.product + static_cast<size_t>(number) * params.product_stride;
    T* output = static_cast<T*>(params.output) + static_cast<size_t>(number) * params.output_stride;
    for (uint32_t column = lane_column(); column < params.width; column += WARP_COLUMNS) {
        float values[LANE_COLUMNS];
        load_columns(values, product, column, params.width);
        if (params.bias != nullptr) {
            float bias[LANE_COLUMNS];
            load_columns(bias, params.bias, column, params.width);
            add_scaled(values, bias, 1.0f);
        }
        if (params.gelu != 0) {
#pragma unroll
            for (uint32_t i = 0; i < LANE_COLUMNS; ++i) {
                values[i] = gelu(values[i]);
            }
        }
        store_columns(output, column, params.width, values);
    }
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) bias_activation_bf16(const __grid_constant__ BiasActivationParams params) {
    bias_activation<Bf16>(params);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) bias_activation_fp16(const __grid_constant__ BiasActivationParams params) {
    bias_activation<Fp16>(params);
}
