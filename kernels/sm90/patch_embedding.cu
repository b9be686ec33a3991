// patch_embedding of Hopper: output = patches * weight^T, what a convolution of stride p comes to once its patches lie in
// rows.
//
// Shapes: patches [rows, patch_len], weight [C, patch_len], output [rows, C]; launch as sm90/gemm.cuh has it. f32 sums,
// rounded once. 2 * rows * patch_len * C FLOPs; moves each matrix once.
#include <stdint.h>

#include <abi.h>
#include <ptx.cuh>
#include <sm90/gemm.cuh>
#include <sm90/hopper.cuh>

template <class T, class Tiling>
struct StoreRows {
    // Of one half tile.
    struct Panel {
        struct Columns {};

        const StoreRows& all;
        const HalfTile& half;
        uint32_t first_row;

        __device__ __forceinline__ Columns columns(uint32_t) const { return {}; }
        __device__ __forceinline__ float2 value(Columns, uint32_t, float2 sums) const { return sums; }
        __device__ __forceinline__ void store(uint32_t panel, uint32_t column) const {
            all.rows.store(all.panels, panel, half, first_row, column);
        }
    };

    const Panels& panels;
    RowStore<T> rows;

    __device__ __forceinline__ StoreRows(const HopperPatchEmbeddingParams& params, const Panels& panels, uint32_t)
        : panels(panels),
          rows(params) {}

    __device__ __forceinline__ void start(const RowTile&, const HalfTile&) {}

    __device__ __forceinline__ void finish(const Sums<Tiling>& sums, const RowTile& tile, const HalfTile& half) const {
        finish_panels<T, Tiling>(sums, panels, half, Panel{*this, half, tile.first_row + half.row});
    }
};

template <class T, class Tiling>
__device__ __forceinline__ void patch_embedding(const HopperPatchEmbeddingParams& params) {
    gemm<T, Tiling, Operands<HopperPatchEmbeddingParams>, StoreRows<T, Tiling>>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) patch_embedding_bf16_128x256(const __grid_constant__ HopperPatchEmbeddingParams params) {
    patch_embedding<Bf16, Tiling128x256>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) patch_embedding_fp16_128x256(const __grid_constant__ HopperPatchEmbeddingParams params) {
    patch_embedding<Fp16, Tiling128x256>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) patch_embedding_bf16_128x128(const __grid_constant__ HopperPatchEmbeddingParams params) {
    patch_embedding<Bf16, Tiling128x128>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) patch_embedding_fp16_128x128(const __grid_constant__ HopperPatchEmbeddingParams params) {
    patch_embedding<Fp16, Tiling128x128>(params);
}
