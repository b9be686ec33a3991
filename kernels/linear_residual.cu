// linear_residual: output = residual + gate * (input * weight^T + bias), and the moments of the output's rows, which the
// norm that comes next is made of.
//
// Shapes: input [rows, inputs], weight [C, inputs], residual and output [rows, C], moments [rows, ceil(C /
// MOMENTS_COLUMNS)]; launch as gemm.cuh has it, without shared memory beside the pipeline. A block reads of the residual
// what it writes of the output, before it writes it, so the two may be one. Sums in f32, rounded once; moments in f32, of
// the rounded values. 2 * rows * inputs * C FLOPs; moves each matrix once, 2 * (rows * (inputs + 2 * C) + inputs * C)
// bytes.
#include <stdint.h>

#include <abi.h>
#include <gemm.cuh>
#include <ptx.cuh>

// The sum over the lanes that share a row.
__device__ __forceinline__ float row_sum(float value) {
#pragma unroll
    for (uint32_t distance = ROW_LANES / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    }
    return value;
}

template <class T, class Tiling>
struct AddRows {
    using Read = uint4;
    static constexpr uint32_t rows_ahead = Tiling::rows_a_thread;

    const T* residual;
    T* output;
    RowMoments* moments;
    float gate;
    uint32_t outputs;
    uint32_t stride;
    uint32_t num_rows;
    OutputChunk<Tiling> chunk;
    float bias[CHUNK];

    __device__ __forceinline__ AddRows(const LinearResidualParams& params, uint32_t num_rows)
        : residual(static_cast<const T*>(params.residual)),
          output(static_cast<T*>(params.output)),
          moments(params.moments),
          gate(params.gate),
          outputs(params.outputs),
          stride(params.output_stride),
          num_rows(num_rows),
          chunk(params.outputs) {
        load_columns(bias, params.bias + chunk.column, params.bias == nullptr ? 0 : chunk.num_columns);
    }

    // The residual's chunk of a row, zeros where there is none.
    __device__ __forceinline__ Read read(uint32_t tile_offset) const {
        const uint32_t row = tile_row<Tiling>() + tile_offset;
        const T* const source = residual + static_cast<uint64_t>(row) * stride + chunk.column;
        if (row < num_rows && chunk.num_columns == CHUNK) {
            return *reinterpret_cast<const uint4*>(source);
        }
        uint32_t pairs[4] = {};
#pragma unroll
        for (uint32_t i = 0; i < CHUNK; ++i) {
            if (row < num_rows && i < chunk.num_columns) {
                pairs[i / 2] |= static_cast<uint32_t>(source[i].bits) << i % 2 * 16;
            }
        }
        return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }

    __device__ __forceinline__ void write(uint32_t tile_offset, const float (&sums)[CHUNK], Read read) const {
        const uint32_t row = tile_row<Tiling>() + tile_offset;
        float values[CHUNK];
        widen_chunk<T>(values, read);
#pragma unroll
        for (uint32_t i = 0; i < CHUNK; ++i) {
            values[i] = fmaf(gate, sums[i] + bias[i], values[i]);
        }
        const uint4 rounded = narrow_chunk<T>(values);
        if (row < num_rows) {
            T* const destination = output + static_cast<uint64_t>(row) * stride + chunk.column;
            store_chunk(destination, rounded, chunk.num_columns, true);
        }
        if (moments != nullptr) {
            widen_chunk<T>(values, rounded);
            store_moments(row, values);
        }
    }

    // Two passes over the values that ROW_LANES lanes hold, in an order that knows nothing of the tiling.
    __device__ __forceinline__ void store_moments(uint32_t row, const float (&values)[CHUNK]) const {
        const uint32_t part = chunk.column / MOMENTS_COLUMNS;
        const uint32_t before = min(part * MOMENTS_COLUMNS, outputs);
        const uint32_t num_columns = min(outputs - before, MOMENTS_COLUMNS);
        float sum = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < CHUNK; ++i) {
            sum += i < chunk.num_columns ? values[i] : 0.0f;
        }
        const float mean = row_sum(sum) / static_cast<float>(num_columns);
        float squares = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < CHUNK; ++i) {
            const float deviation = i < chunk.num_columns ? values[i] - mean : 0.0f;
            squares = fmaf(deviation, deviation, squares);
        }
        squares = row_sum(squares);
        if (row < num_rows && num_columns > 0 && threadIdx.x % ROW_LANES == 0) {
            const uint64_t parts = ceil_div(outputs, MOMENTS_COLUMNS);
            moments[row * parts + part] = RowMoments{mean, squares};
        }
    }
};

template <class T, class Tiling>
__device__ __forceinline__ void linear_residual(const LinearResidualParams& params) {
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
