// What a consumer warpgroup of flash_attention does with a block of keys: scores, weights, sums.
#pragma once
#include <stdint.h>

#include <sm90/flash_attention_tiling.cuh>

// What one thread holds of its warpgroup's 64 queries: of rows 16 * warp + lane / 4 and eight further, with warp the
// warp's number in its warpgroup, the columns that wgmma gives it.
template <class Tiling>
struct TileState {
    float sums[Tiling::HEAD / 2];
    // Of the scores, not scaled.
    float maxima[2];
    // Of this thread's keys.
    float totals[2];
};

template <class Tiling>
using BlockScores = float[Tiling::KEYS / 2];

// Weights of 16 keys lie as the first factor of a product.
template <class Tiling>
using BlockWeights = uint32_t[Tiling::KEY_STEPS][4];

// scores = Q K^T of one block of keys, under way.
template <class Tiling>
__device__ __forceinline__ void start_scores(BlockScores<Tiling>& scores, uint32_t tile, uint32_t stage) {
    const uint32_t shared = shared_address(dynamic_shared());
    const uint32_t queries = shared + Tiling::QUERIES + tile * Tiling::TILE_BYTES;
    wgmma_keep(scores);
    wgmma_fence();
#pragma unroll
    for (uint32_t step = 0; step < Tiling::STEPS; ++step) {
        // A step is 32 bytes on within a chunk's rows.
        const uint32_t chunk = step / Tiling::CHUNK_STEPS;
        const uint32_t offset = step % Tiling::CHUNK_STEPS * 32;
        const uint64_t a = matrix_descriptor(Tiling::SWIZZLE, queries + chunk * ATTENTION_TILE * Tiling::CHUNK_BYTES + offset,
                                             0, 8 * Tiling::CHUNK_BYTES);
        uint64_t b;
        if constexpr (Tiling::KEY_FORM == KeyForm::uniform) {
            const uint32_t keys = shared + Tiling::BLOCK_KEYS + stage * Tiling::BLOCK_BYTES;
            b = matrix_descriptor(Tiling::SWIZZLE, keys + chunk * Tiling::KEYS * Tiling::CHUNK_BYTES + offset, 0,
                                  8 * Tiling::CHUNK_BYTES);
        } else if (step < 4) {
            const uint32_t keys = shared + Tiling::BLOCK_KEYS + stage * Tiling::WIDE_BYTES;
            b = matrix_descriptor(Swizzle::bytes_128, keys + 32 * step, 0, 1024);
        } else {
            const uint32_t keys = shared + Tiling::KEY_TAILS + stage * Tiling::TAIL_BYTES;
            b = matrix_descriptor(Swizzle::bytes_32, keys, 0, 256);
        }
        wgmma<typename Tiling::T>(scores, a, b, step != 0);
    }
    wgmma_commit();
}

// sums += weights * V of one block, or the first of all, under way.
template <class Tiling>
__device__ __forceinline__ void start_sums(float (&sums)[Tiling::HEAD / 2], BlockWeights<Tiling>& weights, uint32_t stage,
                                           bool is_first) {
    const uint32_t values = shared_address(dynamic_shared()) + Tiling::VALUES + stage * Tiling::BLOCK_BYTES;
#pragma unroll
    for (uint32_t step = 0; step < Tiling::KEY_STEPS; ++step) {
        wgmma_keep(weights[step]);
    }
    wgmma_keep(sums);
    wgmma_fence();
#pragma unroll
    for (uint32_t step = 0; step < Tiling::KEY_STEPS; ++step) {
        const uint64_t b =
            matrix_descriptor(Tiling::SWIZZLE, values + step * 16 * Tiling::CHUNK_BYTES,
                              Tiling::KEYS * Tiling::CHUNK_BYTES, 8 * Tiling::CHUNK_BYTES);
        wgmma<typename Tiling::T, Major::mn>(sums, weights[step], b, step != 0 || !is_first);
    }
    wgmma_commit();
}

// After the wait for start_sums.
template <class Tiling>
__device__ __forceinline__ void keep_sums(float (&sums)[Tiling::HEAD / 2], BlockWeights<Tiling>& weights) {
#pragma unroll
    for (uint32_t step = 0; step < Tiling::KEY_STEPS; ++step) {
        wgmma_keep(weights[step]);
    }
    wgmma_keep(sums);
}

// Adds to the scores of a block what their keys stand for: log2 of a multiplicity, in units of a score, or minus infinity
// where there is no key. What lies there is not looked at: it may be NaN.
template <class Tiling>
__device__ __forceinline__ void add_biases(BlockScores<Tiling>& scores, const AttentionWork& work, uint32_t block_key,
                                           uint32_t stage, float inverse_scale) {
    const uint32_t pair = threadIdx.x % 4 * 2;
    const uint8_t* place = dynamic_shared() + Tiling::BIASES + stage * Tiling::BIAS_STRIDE;
    const float* biases = reinterpret_cast<const float*>(place) + pair;
    if (block_key >= work.first_multiple && block_key + Tiling::KEYS <= work.end_key) {
#pragma unroll
        for (uint32_t keys = 0; keys < Tiling::KEYS; keys += 8) {
            const float2 bias = *reinterpret_cast<const float2*>(biases + keys);
            scores[keys / 2] = fmaf(bias.x, inverse_scale, scores[keys / 2]);
            scores[keys / 2 + 1] = fmaf(bias.y, inverse_scale, scores[keys / 2 + 1]);
            scores[keys / 2 + 2] = fmaf(bias.x, inverse_scale, scores[keys / 2 + 2]);
            scores[keys / 2 + 3] = fmaf(bias.y, inverse_scale, scores[keys / 2 + 3]);
        }
    } else {
#pragma unroll
        for (uint32_t keys = 0; keys < Tiling::KEYS; keys += 8) {
#pragma unroll
            for (uint32_t i = 0; i < 2; ++i) {
                const uint32_t key = block_key + keys + pair + i;
                const float bias = key < work.first_multiple ? 0.0f : biases[keys + i];
                float& low = scores[keys / 2 + i];
                float& high = scores[keys / 2 + 2 + i];
                low = key < work.end_key ? fmaf(bias, inverse_scale, low) : -INFINITY;
                high = key < work.end_key ? fmaf(bias, inverse_scale, high) : -INFINITY;
            }
        }
    }
    // Orders the loads above before an arrival for the whole warp.
    __syncwarp();
}

// scores = 2^(scale * (scores - maximum)), maxima and totals brought up to date; what the sums are to be multiplied by goes
// to corrections. The first block initialises.
template <class Tiling, bool is_first>
__device__ __forceinline__ void weigh(BlockScores<Tiling>& scores, TileState<Tiling>& state, float scale,
                                      float (&corrections)[2]) {
    float highest[2];
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
        float score = fmaxf(scores[2 * half], scores[2 * half + 1]);
#pragma unroll
        for (uint32_t i = 4; i < Tiling::KEYS / 2; i += 4) {
            score = fmaxf(score, fmaxf(scores[i + 2 * half], scores[i + 2 * half + 1]));
        }
        highest[half] = score;
    }
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
        highest[half] = fmaxf(highest[half], __shfl_xor_sync(0xffffffffu, highest[half], 1));
        highest[half] = fmaxf(highest[half], __shfl_xor_sync(0xffffffffu, highest[half], 2));
    }
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
        float maximum = highest[half];
        float total = 0.0f;
        corrections[half] = 1.0f;
        if constexpr (!is_first) {
            const float before = state.maxima[half];
            maximum = fmaxf(before, maximum);
            // 1 to the bit where the maximum stays.
            corrections[half] = exp2_approx((before - maximum) * scale);
            total = state.totals[half] * corrections[half];
        }
        state.maxima[half] = maximum;
        const float scaled = maximum * scale;
#pragma unroll
        for (uint32_t i = 0; i < Tiling::KEYS / 2; i += 4) {
            float& left = scores[i + 2 * half];
            float& right = scores[i + 2 * half + 1];
            left = exp2_approx(fmaf(left, scale, -scaled));
            right = exp2_approx(fmaf(right, scale, -scaled));
            total += left + right;
        }
        state.totals[half] = total;
    }
}

// Scores of two tiles of 8 keys lie as the first factor's registers do.
template <class Tiling>
__device__ __forceinline__ void round_weights(BlockWeights<Tiling>& weights, const BlockScores<Tiling>& scores) {
#pragma unroll
    for (uint32_t step = 0; step < Tiling::KEY_STEPS; ++step) {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            const uint32_t first = 8 * step + 2 * i;
            weights[step][i] = narrow_pair<typename Tiling::T>(scores[first], scores[first + 1]);
        }
    }
}

template <class Tiling>
__device__ __forceinline__ void rescale(TileState<Tiling>& state, const float (&corrections)[2]) {
    // A maximum seldom grows after the first blocks. The branch is the warp's, for what follows is done by whole warps.
    if (Tiling::RESCALING != Rescaling::always &&
        __any_sync(0xffffffffu, corrections[0] != 1.0f || corrections[1] != 1.0f) == 0) {
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < Tiling::HEAD / 2; ++i) {
        state.sums[i] *= corrections[i / 2 % 2];
    }
}
