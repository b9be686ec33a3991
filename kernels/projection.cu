// projection: embeddings = [head | hidden state 0 | hidden state 1 | ...] * weight^T + bias. The states are read where
// they lie, one after another along K; a row that stands for several equal ones is stored to all their places.
//
// Shapes: head [rows of the gated layers, C], hidden states [rows of the transformer, C], weight [1 + states, E, C],
// embeddings [output rows, E] without gaps, so that their rows are vectors only where E is a multiple of 8; launch as
// gemm.cuh has it over num_projected_rows, without shared memory beside the pipeline. f32 sums, rounded once.
// 2 * rows * (1 + states) * C * E FLOPs; moves every state, the weight and the embeddings once.
#include <stdint.h>

#include <abi.h>
#include <gemm.cuh>
#include <ptx.cuh>
#include <row_columns.cuh>

// The slabs of all states. A state's last slab is filled up with zeros, so that no slab has columns of two.
template <class T, class Tiling>
struct StateOperands {
    const ProjectionParams& params;
    SlabCopies<T, Tiling, Tiling::rows> input;
    SlabCopies<T, Tiling, Tiling::columns> weight;
    uint32_t hidden_rows[SlabCopies<T, Tiling, Tiling::rows>::count];
    uint32_t columns_left;  // of the state
    uint32_t next_state;

    __device__ __forceinline__ StateOperands(const ProjectionParams& params, uint32_t num_rows)
        : params(params), columns_left(params.width), next_state(1) {
        start_weight(0);
#pragma unroll
        for (uint32_t i = 0; i < input.count; ++i) {
            const ProjectedRow row = params.rows[input.row(i, tile_row<Tiling>(), num_rows)];
            input.start(i, static_cast<const T*>(params.head), row.head, params.state_stride);
            hidden_rows[i] = row.hidden;
        }
    }

    __device__ __forceinline__ uint32_t num_slabs() const {
        return (1 + params.num_hidden) * ceil_div(params.width, GEMM_DEPTH);
    }

    __device__ __forceinline__ void copy(uint32_t stage) {
        if (columns_left == 0) {
            start_hidden();
        }
        input.copy(stage, columns_left);
        weight.copy(stage + Tiling::weight_slab, columns_left);
        columns_left -= min(columns_left, GEMM_DEPTH);
    }

    __device__ __forceinline__ void start_hidden() {
        const T* const hidden = static_cast<const T*>(params.hidden[next_state - 1]);
        start_weight(next_state);
#pragma unroll
        for (uint32_t i = 0; i < input.count; ++i) {
            input.start(i, hidden, hidden_rows[i], params.state_stride);
        }
        columns_left = params.width;
        next_state += 1;
    }

    __device__ __forceinline__ void start_weight(uint32_t state) {
        const uint64_t before = static_cast<uint64_t>(state) * params.outputs * params.weight_stride;
        const T* const matrix = static_cast<const T*>(params.weight) + before;
        weight.start(matrix, params.weight_stride, tile_column<Tiling>(), params.outputs);
    }
};

template <class T, class Tiling>
struct StoreCopies {
    using Read = ProjectedRow;
    static constexpr uint32_t unrolled_rows = Tiling::rows_a_thread;

    const ProjectionParams& params;
    uint32_t num_rows;
    T* embeddings;
    float bias[LANE_COLUMNS];

    __device__ __forceinline__ StoreCopies(const ProjectionParams& params, uint32_t num_rows)
        : params(params), num_rows(num_rows), embeddings(static_cast<T*>(params.batch->embeddings)) {
        load_columns(bias, params.bias, finished_column<Tiling>(), params.outputs);
    }

    __device__ __forceinline__ Read read(uint32_t row) const { return params.rows[min(row, num_rows - 1)]; }

    __device__ __forceinline__ void write(uint32_t row, const float (&sums)[LANE_COLUMNS], Read place) const {
        float values[LANE_COLUMNS];
#pragma unroll
        for (uint32_t i = 0; i < LANE_COLUMNS; ++i) {
            values[i] = sums[i] + bias[i];
        }
        const uint32_t copies = row < num_rows ? place.copies : 0;
        for (uint32_t copy = 0; copy < copies; ++copy) {
            const uint64_t output = place.output + static_cast<uint64_t>(copy) * params.tokens;
            store_columns(embeddings + output * params.outputs, finished_column<Tiling>(), params.outputs, values);
        }
    }
};

template <class T, class Tiling>
__device__ __forceinline__ void projection(const ProjectionParams& params) {
    start_in_turn();
    const uint32_t num_rows = params.batch->num_projected_rows;
    if (tile_row<Tiling>() >= num_rows) {
        return;
    }
    StateOperands<T, Tiling> operands(params, num_rows);
    const uint32_t num_slabs = operands.num_slabs();
    start_pipeline<Tiling>(operands, num_slabs);
    Sums<Tiling> sums;
    multiply<T, Tiling>(sums, operands, num_slabs);
    finish_tile<Tiling>(sums, StoreCopies<T, Tiling>(params, num_rows));
}

extern "C" __global__ void __launch_bounds__(256, 1) projection_bf16_128x256(const __grid_constant__ ProjectionParams params) {
    projection<Bf16, Gemm128x256>(params);
}

extern "C" __global__ void __launch_bounds__(256, 1) projection_fp16_128x256(const __grid_constant__ ProjectionParams params) {
    projection<Fp16, Gemm128x256>(params);
}

extern "C" __global__ void __launch_bounds__(128, 2) projection_bf16_128x128(const __grid_constant__ ProjectionParams params) {
    projection<Bf16, Gemm128x128>(params);
}

extern "C" __global__ void __launch_bounds__(128, 2) projection_fp16_128x128(const __grid_constant__ ProjectionParams params) {
    projection<Fp16, Gemm128x128>(params);
}

extern "C" __global__ void __launch_bounds__(128, 3) projection_bf16_64x128(const __grid_constant__ ProjectionParams params) {
    projection<Bf16, Gemm64x128>(params);
}

extern "C" __global__ void __launch_bounds__(128, 3) projection_fp16_64x128(const __grid_constant__ ProjectionParams params) {
    projection<Fp16, Gemm64x128>(params);
}
