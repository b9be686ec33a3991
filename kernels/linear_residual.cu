// linear_residual: output = residual + gate * (input * weight^T + bias), and the moments of the output's rows, which
// the norm that comes next is made of.
//
// Shapes: input [rows, inputs], weight [C, inputs], residual and output [rows, C], moments [rows, ceil(C /
// MOMENTS_COLUMNS)]; launch as gemm.cuh has it, without shared memory beside the pipeline. A block reads of the
// residual what it writes of the output, before it writes it, so the two may be one. Sums in f32, rounded once; moments
// in f32, of the rounded values. 2 * rows * inputs * C FLOPs; moves each matrix once, 2 * (rows * (inputs + 2 * C) +
// inputs * C) bytes.
#include <stdint.h>

#include <abi.h>
#include <gemm.cuh>
#include <ptx.cuh>
#include <row_columns.cuh>
#include <row_moments.cuh>

template <class T, class Tiling>
struct AddRows {
    struct Read {
        float residual[LANE_COLUMNS];
    };
    static constexpr uint32_t unrolled_rows = Tiling::rows_a_thread;

    const LinearResidualParams& params;
    uint32_t num_rows;
    float bias[LANE_COLUMNS];

    __device__ __forceinline__ AddRows(const LinearResidualParams& params, uint32_t num_rows)
        : params(params), num_rows(num_rows) {
        load_columns(bias, params.bias, finished_column<Tiling>(), params.bias == nullptr ? 0 : params.outputs);
    }

    __device__ __forceinline__ Read read(uint32_t row) const {
        const uint64_t first = static_cast<uint64_t>(row) * params.output_stride;
        const uint32_t width = row < num_rows ? params.outputs : 0;
        Read read;
        load_columns(read.residual, static_cast<const T*>(params.residual) + first, finished_column<Tiling>(), width);
        return read;
    }

    __device__ __forceinline__ void write(uint32_t row, const float (&sums)[LANE_COLUMNS], const Read& read) const {
        const uint32_t column = finished_column<Tiling>();
        float values[LANE_COLUMNS];
#pragma unroll
        for (uint32_t i = 0; i < LANE_COLUMNS; ++i) {
            values[i] = fmaf(params.gate, sums[i] + bias[i], read.residual[i]);
        }
        T* const output = static_cast<T*>(params.output) + static_cast<uint64_t>(row) * params.output_stride;
        store_columns(output, column, row < num_rows ? params.outputs : 0, values);
        if (params.moments != nullptr) {
            const RowMoments moments = group_moments(values, column, params.outputs);
            if (row < num_rows && column < params.outputs && column % MOMENTS_COLUMNS == 0) {
                const uint64_t groups = static_cast<uint64_t>(row) * num_moments(params.outputs);
                params.moments[groups + column / MOMENTS_COLUMNS] = moments;
            }
        }
    }
};

template <class T, class Tiling>
__device__ __forceinline__ void linear_residual(const LinearResidualParams& params) {
    start_in_turn();
    const uint32_t num_rows = *params.num_rows;
    if (tile_row<Tiling>() >= num_rows) {
        return;
    }
    Operands<T, Tiling> operands = operands_of<T, Tiling>(params, num_rows);
    const uint32_t num_slabs = operands.num_slabs(params.inputs);
    start_pipeline<Tiling>(operands, num_slabs);
    Sums<Tiling> sums;
    multiply<T, Tiling>(sums, operands, num_slabs);
    finish_tile<Tiling>(sums, AddRows<T, Tiling>(params, num_rows));
}

extern "C" __global__ void __launch_bounds__(256, 1) linear_residual_bf16_128x256(const __grid_constant__ LinearResidualParams params) {
    linear_residual<Bf16, Gemm128x256>(params);
}

extern "C" __global__ void __launch_bounds__(256, 1) linear_residual_fp16_128x256(const __grid_constant__ LinearResidualParams params) {
    linear_residual<Fp16, Gemm128x256>(params);
}

extern "C" __global__ void __launch_bounds__(128, 2) linear_residual_bf16_128x128(const __grid_constant__ LinearResidualParams params) {
    linear_residual<Bf16, Gemm128x128>(params);
}

extern "C" __global__ void __launch_bounds__(128, 2) linear_residual_fp16_128x128(const __grid_constant__ LinearResidualParams params) {
    linear_residual<Fp16, Gemm128x128>(params);
}

extern "C" __global__ void __launch_bounds__(128, 3) linear_residual_bf16_64x128(const __grid_constant__ LinearResidualParams params) {
    linear_residual<Bf16, Gemm64x128>(params);
}

extern "C" __global__ void __launch_bounds__(128, 3) linear_residual_fp16_64x128(const __grid_constant__ LinearResidualParams params) {
    linear_residual<Fp16, Gemm64x128>(params);
}
