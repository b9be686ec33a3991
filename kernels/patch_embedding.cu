// patch_embedding: output = patches * weight^T, what a convolution of stride p comes to once its patches lie in rows.
//
// Shapes: patches [rows, patch_len], weight [C, patch_len], output [rows, C]; launch as gemm.cuh has it, without shared
// memory beside the pipeline. f32 sums, rounded once. 2 * rows * patch_len * C FLOPs; moves each matrix once,
// 2 * (rows * (patch_len + C) + C * patch_len) bytes.
#include <stdint.h>

#include <abi.h>
#include <gemm.cuh>
#include <ptx.cuh>
#include <row_columns.cuh>

template <class T, class Tiling>
struct StoreRows {
    using Read = NoRead;
    static constexpr uint32_t unrolled_rows = 4;

    const PatchEmbeddingParams& params;
    uint32_t num_rows;

    __device__ __forceinline__ Read read(uint32_t) const { return {}; }

    __device__ __forceinline__ void write(uint32_t row, float (&sums)[LANE_COLUMNS], Read) const {
        if (row < num_rows) {
            T* const output = static_cast<T*>(params.output) + static_cast<uint64_t>(row) * params.output_stride;
            store_columns(output, finished_column<Tiling>(), params.outputs, sums);
        }
    }
};

template <class T, class Tiling>
__device__ __forceinline__ void patch_embedding(const PatchEmbeddingParams& params) {
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
    finish_tile<Tiling>(sums, StoreRows<T, Tiling>{params, num_rows});
}

extern "C" __global__ void __launch_bounds__(256, 1) patch_embedding_bf16_128x256(const __grid_constant__ PatchEmbeddingParams params) {
    patch_embedding<Bf16, Gemm128x256>(params);
}

extern "C" __global__ void __launch_bounds__(256, 1) patch_embedding_fp16_128x256(const __grid_constant__ PatchEmbeddingParams params) {
    patch_embedding<Fp16, Gemm128x256>(params);
}

extern "C" __global__ void __launch_bounds__(128, 2) patch_embedding_bf16_128x128(const __grid_constant__ PatchEmbeddingParams params) {
    patch_embedding<Bf16, Gemm128x128>(params);
}

extern "C" __global__ void __launch_bounds__(128, 2) patch_embedding_fp16_128x128(const __grid_constant__ PatchEmbeddingParams params) {
    patch_embedding<Fp16, Gemm128x128>(params);
}

extern "C" __global__ void __launch_bounds__(128, 3) patch_embedding_bf16_64x128(const __grid_constant__ PatchEmbeddingParams params) {
    patch_embedding<Bf16, Gemm64x128>(params);
}

extern "C" __global__ void __launch_bounds__(128, 3) patch_embedding_fp16_64x128(const __grid_constant__ PatchEmbeddingParams params) {
    patch_embedding<Fp16, Gemm64x128>(params);
}
