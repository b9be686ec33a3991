// embeddings[output + k N] = product[r] + bias for every copy k of row r, with a library's f32 product.
//
// Launch: a warp a projected row, 8 rows a block; grid ceil(rows / 8); no shared memory.
// Precision: f32 until the one rounding to T. Bytes: 4 E a row read, 2 E a copy written. Rows of the embeddings follow one
// another without gaps, so that vectors are stored only where E puts a row on 16 bytes.
#include <stdint.h>
#include <abi.h>
#include <ptx.cuh>
#include <row_columns.cuh>

template <class T>
__device__ __forceinline__ void scatter_embeddings(const ScatterEmbeddingsParams& params) {
    start_in_turn();
    const uint32_t number = warp_row();
    if (number >= params.batch->num_projected_rows) {
        return;
    }
    const ProjectedRow row = params.rows[number];
    const uint32_t width = params.outputs;
    const float* product = params.product + static_cast<size_t>(number) * params.product_stride;
    T* embeddings = static_cast<T*>(params.batch->embeddings);
    for (uint32_t column = lane_column(); column < width; column += WARP_COLUMNS) {
        float values[LANE_COLUMNS];
        float bias[LANE_COLUMNS];
        load_columns(values, product, column, width);
        load_columns(bias, params.bias, column, width);
        add_scaled(values, bias, 1.0f);
        for (uint32_t copy = 0; copy < row.copies; ++copy) {
            const size_t output = row.output + static_cast<size_t>(copy) * params.tokens;
            store_columns(embeddings + output * width, column, width, values);
        }
    }
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) scatter_embeddings_bf16(const __grid_constant__ ScatterEmbeddingsParams params) {
    scatter_embeddings<Bf16>(params);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) scatter_embeddings_fp16(const __grid_constant__ ScatterEmbeddingsParams params) {
    scatter_embeddings<Fp16>(params);
}
