// patches[(tile, r, c), (channel, y, x)] = pixels[source of tile, channel, r p + y, c p + x]; zeros for a tile of zeros.
//
// Shapes: pixels in f32, bf16 or fp16 [tiles of the input, channels, s, s]; patches T [tiles * g * g, channels * p * p].
// Launch: a warp a patch, 8 patches a block; grid ceil(patches / 8); no shared memory. Neighbouring warps take neighbouring
// patches, so that the sectors their pixels share are read from DRAM once.
// Precision: one rounding to T. Bytes: 4 a pixel read, or 2, and 2 written. No arithmetic.
#include <stdint.h>
#include <abi.h>
#include <ptx.cuh>
#include <stored.cuh>

// What a lane stores at once: 32 lanes fill 128 bytes.
constexpr uint32_t LANE_PIXELS = 2;

// One patch of one tile.
struct Patch {
    const void* pixels;  // the batch'; null in a tile of zeros
    uint32_t type;       // STORED_*
    size_t first;        // its first pixel
    uint32_t side;       // p
    uint32_t tile_size;  // s
};

__device__ __forceinline__ float pixel(const Patch& patch, uint32_t column) {
    if (patch.pixels == nullptr) {
        return 0.0f;
    }
    const uint32_t line = column / patch.side;
    const uint32_t channel = line / patch.side;
    const size_t row = static_cast<size_t>(channel) * patch.tile_size + line % patch.side;
    return stored_element(patch.pixels, patch.type, patch.first + row * patch.tile_size + column % patch.side);
}

__device__ __forceinline__ Patch find_patch(const PatchifyParams& params, uint32_t number) {
    const uint32_t patches = params.grid_size * params.grid_size;
    const uint32_t within = number % patches;
    const uint32_t y = within / params.grid_size * params.patch_size;
    const uint32_t x = within % params.grid_size * params.patch_size;
    const int32_t source = params.tiles[number / patches].pixels;
    if (source < 0) {
        return {nullptr, STORED_F32, 0, params.patch_size, params.tile_size};
    }
    const size_t rows = static_cast<size_t>(source) * params.channels * params.tile_size + y;
    const size_t first = rows * params.tile_size + x;
    return {params.batch->pixels, params.batch->pixels_type, first, params.patch_size, params.tile_size};
}

template <class T>
__device__ __forceinline__ void patchify(const PatchifyParams& params) {
    start_in_turn();
    const uint32_t number = blockIdx.x * ROW_WARPS + threadIdx.x / 32;
    if (number >= params.batch->num_patches) {
        return;
    }
    const Patch patch = find_patch(params, number);
    const uint32_t patch_len = params.channels * params.patch_size * params.patch_size;
    T* output = static_cast<T*>(params.patches) + static_cast<size_t>(number) * params.stride;
    constexpr uint32_t STEP = 32 * LANE_PIXELS;
    for (uint32_t column = threadIdx.x % 32 * LANE_PIXELS; column < patch_len; column += STEP) {
        const float first = pixel(patch, column);
        if (column + 1 < patch_len) {
            *reinterpret_cast<uint32_t*>(output + column) = narrow_pair<T>(first, pixel(patch, column + 1));
        } else {
            output[column] = narrow<T>(first);
        }
    }
}

extern "C" __global__ void __launch_bounds__(32 * ROW_WARPS) patchify_bf16(const __grid_constant__ PatchifyParams params) {
    patchify<Bf16>(params);
}

extern "C" __global__ void __launch_bounds__(32 * ROW_WARPS) patchify_fp16(const __grid_constant__ PatchifyParams params) {
    patchify<Fp16>(params);
}
