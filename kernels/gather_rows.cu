// output[r] = input[row of r]: the rows of one state that the projection reads, one after another for a library's product.
//
// Launch: a warp a row, 8 rows a block; grid ceil(rows / 8); no shared memory. Bytes: 4 C a row. Values pass unchanged.
#include <stdint.h>
#include <abi.h>
#include <ptx.cuh>
#include <row_columns.cuh>

template <class T>
__device__ __forceinline__ void gather_rows(const GatherRowsParams& params) {
    start_in_turn();
    const uint32_t number = warp_row();
    if (number >= params.batch->num_projected_rows) {
        return;
    }
    const ProjectedRow row = params.rows[number];
    const uint32_t source = params.hidden != 0 ? row.hidden : row.head;
    const T* input = static_cast<const T*>(params.input) + static_cast<size_t>(source) * params.stride;
    T* output = static_cast<T*>(params.output) + static_cast<size_t>(number) * params.stride;
    for (uint32_t column = lane_column(); column < params.width; column += WARP_COLUMNS) {
        float values[LANE_COLUMNS];
        load_columns(values, input, column, params.width);
        store_columns(output, column, params.width, values);
    }
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) gather_rows_bf16(const __grid_constant__ GatherRowsParams params) {
    gather_rows<Bf16>(params);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) gather_rows_fp16(const __grid_constant__ GatherRowsParams params) {
    gather_rows<Fp16>(params);
}
