// A token's way into the transformer, in one pass: output = norm(x) with, for patches,
// x = patch + tanh(pre gate) pre_tile[block] + (1 - gamma) local[token] + gamma global[block, token],
// for class tokens the class embedding in place of the first two terms, and nothing of a table where the tile has no
// block. Alignment rows are zeros that no norm has met.
//
// Semantics: torchtune's VisionTransformer.forward up to ln_pre; Meta's VisionEncoder.forward.
// Launch: a warp a row, 8 rows a block; grid ceil(rows / 8); no shared memory.
// Precision: f32 until the one rounding to T; statistics as in row_moments.cuh. The sum is computed twice, for the statistics
// and for the result, rather than kept: it fits in no register file where C is large, and the second reading hits L1.
// Bytes: a patch, a row of the local and one of the global table read, a row written: 8 C a row.
#include <stdint.h>
#include <abi.h>
#include <ptx.cuh>
#include <row_columns.cuh>
#include <row_moments.cuh>

// What is added up for one token; null for what is not.
template <class T>
struct TokenTerms {
    const float* class_embedding;
    const T* patch;
    const T* pre_tile;
    const T* local;
    const T* global;
};

template <class T>
__device__ __forceinline__ TokenTerms<T> find_terms(const TilePositionParams& params, TokenRow row) {
    const uint32_t width = params.width;
    const int32_t block = params.tiles[row.tile].block;
    const T* pre_tile = static_cast<const T*>(params.pre_tile);
    const T* global = static_cast<const T*>(params.global);
    TokenTerms<T> terms{nullptr, nullptr, nullptr, nullptr, nullptr};
    if (row.token == 0) {
        terms.class_embedding = params.class_embedding;
    } else {
        const size_t patch = static_cast<size_t>(row.tile) * (params.tokens - 1) + row.token - 1;
        terms.patch = static_cast<const T*>(params.patches) + patch * params.patches_stride;
        if (block >= 0 && pre_tile != nullptr) {
            terms.pre_tile = pre_tile + static_cast<size_t>(block) * width;
        }
    }
    terms.local = static_cast<const T*>(params.local) + static_cast<size_t>(row.token) * width;
    if (block >= 0 && global != nullptr) {
        terms.global = global + (static_cast<size_t>(block) * params.tokens + row.token) * width;
    }
    return terms;
}

// The sum of a token's terms at this lane's columns.
template <class T>
__device__ __forceinline__ void add_terms(float (&values)[LANE_COLUMNS], const TilePositionParams& params,
                                          const TokenTerms<T>& terms, uint32_t column) {
    float added[LANE_COLUMNS];
    if (terms.class_embedding != nullptr) {
        load_columns(values, terms.class_embedding, column, params.width);
    } else {
        load_columns(values, terms.patch, column, params.width);
    }
    if (terms.pre_tile != nullptr) {
        load_columns(added, terms.pre_tile, column, params.width);
        add_scaled(values, added, params.pre_tile_gate);
    }
    load_columns(added, terms.local, column, params.width);
    add_scaled(values, added, 1.0f - params.global_gate);
    if (terms.global != nullptr) {
        load_columns(added, terms.global, column, params.width);
        add_scaled(values, added, params.global_gate);
    }
}

template <class T>
__device__ __forceinline__ void tile_position(const TilePositionParams& params) {
    start_in_turn();
    const uint32_t number = warp_row();
    if (number >= params.batch->num_rows[0]) {
        return;
    }
    const uint32_t width = params.width;
    const TokenRow row = params.rows[number];
    const bool is_token = row.tile >= 0;
    TokenTerms<T> terms{nullptr, nullptr, nullptr, nullptr, nullptr};
    RowMoments moments{0.0f, 0.0f};
    if (is_token) {
        terms = find_terms<T>(params, row);
        moments = warp_row_moments(width, [&](float (&values)[LANE_COLUMNS], uint32_t column) {
            add_terms(values, params, terms, column);
        });
    }
    const float scale = inverse_deviation(moments, width);
    T* output = static_cast<T*>(params.output) + static_cast<size_t>(number) * params.output_stride;
    for (uint32_t column = lane_column(); column < width + lane_column(); column += WARP_COLUMNS) {
        float values[LANE_COLUMNS] = {};
        if (is_token) {
            add_terms(values, params, terms, column);
            normalise(values, moments, scale, params.norm_weight, params.norm_bias, column, width);
        }
        store_columns(output, column, width, values);
        if (params.moments != nullptr) {
            store_moments(params.moments + static_cast<size_t>(number) * num_moments(width), column, width, values);
        }
    }
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) tile_position_bf16(const __grid_constant__ TilePositionParams params) {
    tile_position<Bf16>(params);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS) tile_position_fp16(const __grid_constant__ TilePositionParams params) {
    tile_position<Fp16>(params);
}
