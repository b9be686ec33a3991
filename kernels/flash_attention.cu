// output = softmax(scale Q K^T + ln multiplicity) V for the queries of one AttentionItem and one head a block, streaming over
// the keys: with x = scale_log2 s + log2 multiplicity of a block of keys,
//   m' = max(m, max x),  l' = l 2^(m - m') + sum 2^(x - m'),  o' = o 2^(m - m') + 2^(x - m') v,  output = o / l
// (Milakov & Gimelshein, arXiv:1805.02867; Dao, arXiv:2307.08691).
//
// Shapes: qkv T [rows, 3 * heads * head_size], queries, keys and values of all heads after one another; output T
// [rows, heads * head_size]. Head sizes are multiples of 16 up to 128; each has its entry points.
// Launch: grid (items, heads), so that blocks that run together read the keys and values of one head; ATTENTION_THREADS
// threads; ATTENTION_SHARED_BYTES (head_size + 1) bytes of shared memory.
// Precision: products of T summed in f32; softmax in f32, base 2; weights rounded to T for their product with V, the total l
// is of the unrounded ones. Key blocks are counted from the item's first key, so that nothing depends on the batch.
// FLOPs: 4 * queries * keys * head_size a head. Bytes: K and V of a head stay in L2; Q and the output pass once.
#include <stdint.h>
#include <abi.h>
#include <ptx.cuh>

template <class Element, int head_size>
struct FlashAttentionTiling {
    using T = Element;
    static_assert(head_size % 16 == 0 && head_size <= 128, "whole steps of an mma, and sums that fit in registers");

    // Four warps of 32 queries: with 16 queries a warp, loads of K and V from shared memory would take as long as their
    // products; 32 halve them. A thread then holds head_size sums and KEYS scores.
    static constexpr int WARPS = ATTENTION_THREADS / 32;
    static constexpr int WARP_QUERIES = ATTENTION_QUERIES / WARPS;
    static constexpr int QUERY_TILES = WARP_QUERIES / 16;

    // Up to 80, queries are held in registers, head_size / 2 a thread. Beyond, sums leave no room for them beside the scores
    // of 64 keys; with 32 keys, and queries loaded again for each, shared memory stays at two blocks an SM.
    static constexpr bool QUERIES_IN_REGISTERS = head_size <= 80;
    static constexpr int KEYS = QUERIES_IN_REGISTERS ? 64 : 32;
    static constexpr int STEPS = head_size / 16;

    // Shared memory is rows of one head: two stages of KEYS keys and KEYS values, and the queries. Queries that go to
    // registers pass through the second stage, which is as large as they are and not needed before.
    static constexpr int CHUNKS = head_size / 8;
    static constexpr int STAGE_ROWS = 2 * KEYS;
    static constexpr int QUERY_ROW = QUERIES_IN_REGISTERS ? STAGE_ROWS : 2 * STAGE_ROWS;
    static constexpr int ROWS = QUERY_ROW + ATTENTION_QUERIES;
    static constexpr int ROW_BYTES = head_size * 2;
    static constexpr int BIAS_BYTES = 2 * KEYS * 4;
    static_assert(2 * STAGE_ROWS <= ROWS, "both stages lie before the biases");
    static_assert(ROWS * ROW_BYTES + BIAS_BYTES <= ATTENTION_SHARED_BYTES * (head_size + 1), "what the host asks for");

    // Rows of CHUNKS 16-byte chunks repeat their banks after 8 / BANK_GROUPS rows; chunks of a row change places, within
    // groups of BANK_GROUPS, so that any chunk of 8 rows lies in 8 different groups of banks.
    static constexpr int BANK_GROUPS = CHUNKS % 8 == 0 ? 8 : CHUNKS % 4 == 0 ? 4 : 2;
    static_assert(CHUNKS % 2 == 0, "chunks that change places stay in their row");
    static_assert(KEYS % 8 == 0, "a value's chunk has the place of its key's");

    // Byte offset of a chunk.
    __device__ static __forceinline__ uint32_t chunk(uint32_t row, uint32_t column) {
        const uint32_t place = column ^ (row / (8 / BANK_GROUPS) % BANK_GROUPS);
        return row * ROW_BYTES + place * 16;
    }
};

// What one thread holds of its warp's queries: of each of QUERY_TILES tiles, rows lane / 4 and lane / 4 + 8.
template <class Tiling>
struct QueryState {
    // In registers, or one step's at a time.
    uint32_t queries[Tiling::QUERIES_IN_REGISTERS ? Tiling::STEPS : 1][Tiling::QUERY_TILES][4];
    float sums[Tiling::QUERY_TILES][2 * Tiling::STEPS][4];
    float maxima[Tiling::QUERY_TILES][2];
    // Of this thread's keys.
    float totals[Tiling::QUERY_TILES][2];
};

template <class Tiling>
using Scores = float[Tiling::QUERY_TILES][Tiling::KEYS / 8][4];

// Starts copying one chunk of a row to shared memory; zeros where there is no such row, for a weight of zero would not make a
// NaN harmless.
template <class Tiling>
__device__ __forceinline__ void copy_chunk(uint32_t row, uint32_t column, const typename Tiling::T* source, bool exists) {
    copy_async(shared_address(dynamic_shared()) + Tiling::chunk(row, column), source, exists ? 16 : 0);
}

// Starts copying the item's queries.
template <class Tiling>
__device__ __forceinline__ void copy_queries(const typename Tiling::T* queries, uint32_t stride, uint32_t num_queries) {
#pragma unroll
    for (uint32_t index = threadIdx.x; index < ATTENTION_QUERIES * Tiling::CHUNKS; index += ATTENTION_THREADS) {
        const uint32_t row = index / Tiling::CHUNKS;
        const uint32_t column = index % Tiling::CHUNKS;
        const uint32_t place = row * stride + 8 * column;
        copy_chunk<Tiling>(Tiling::QUERY_ROW + row, column, queries + place, row < num_queries);
    }
}

// Starts copying a block of keys, and of values, which lie `width` elements further. Not unrolled: the addresses would be
// held all along, in registers that sums and scores need.
template <class Tiling>
__device__ __forceinline__ void copy_keys(uint32_t stage_row, const typename Tiling::T* keys, uint32_t width, uint32_t stride,
                                          uint32_t num_keys) {
#pragma unroll 1
    for (uint32_t index = threadIdx.x; index < Tiling::KEYS * Tiling::CHUNKS; index += ATTENTION_THREADS) {
        const uint32_t row = index / Tiling::CHUNKS;
        const uint32_t column = index % Tiling::CHUNKS;
        const typename Tiling::T* source = keys + (row * stride + 8 * column);
        const uint32_t destination = shared_address(dynamic_shared()) + Tiling::chunk(stage_row + row, column);
        const uint32_t num_bytes = row < num_keys ? 16 : 0;
        copy_async(destination, source, num_bytes);
        copy_async(destination + Tiling::KEYS * Tiling::ROW_BYTES, source + width, num_bytes);
    }
}

// Loads the queries of one step, 16 of the head's columns.
template <class Tiling>
__device__ __forceinline__ void load_queries(uint32_t (&queries)[Tiling::QUERY_TILES][4], uint32_t step) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t first = Tiling::QUERY_ROW + threadIdx.x / 32 * Tiling::WARP_QUERIES;
#pragma unroll
    for (uint32_t tile = 0; tile < Tiling::QUERY_TILES; ++tile) {
        const uint32_t chunk = Tiling::chunk(first + 16 * tile + lane % 16, 2 * step + lane / 16);
        load_matrices(queries[tile], shared_address(dynamic_shared()) + chunk);
    }
}

// scores = Q K^T of one block of keys.
template <class Tiling>
__device__ __forceinline__ void score_keys(Scores<Tiling>& scores, QueryState<Tiling>& state, uint32_t key_row) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t lane_row = key_row + lane / 16 * 8 + lane % 8;
#pragma unroll
    for (uint32_t step = 0; step < Tiling::STEPS; ++step) {
        auto& queries = state.queries[Tiling::QUERIES_IN_REGISTERS ? step : 0];
        if constexpr (!Tiling::QUERIES_IN_REGISTERS) {
            load_queries<Tiling>(queries, step);
        }
#pragma unroll
        for (uint32_t keys = 0; keys < Tiling::KEYS; keys += 16) {
            uint32_t matrices[4];
            const uint32_t chunk = Tiling::chunk(lane_row + keys, 2 * step + lane / 8 % 2);
            load_matrices(matrices, shared_address(dynamic_shared()) + chunk);
#pragma unroll
            for (uint32_t tile = 0; tile < Tiling::QUERY_TILES; ++tile) {
                multiply_add<typename Tiling::T>(scores[tile][keys / 8], queries[tile], matrices[0], matrices[1]);
                multiply_add<typename Tiling::T>(scores[tile][keys / 8 + 1], queries[tile], matrices[2], matrices[3]);
            }
        }
    }
}

// What is added to the exponents of a key: nothing for most, log2 of its multiplicity from first_multiple on, minus infinity
// beyond the last.
__device__ __forceinline__ float key_bias(const FlashAttentionParams& params, const AttentionItem& item, uint32_t key) {
    if (key >= item.num_keys) {
        return -INFINITY;
    }
    return key < item.first_multiple ? 0.0f : params.log2_multiplicity[item.key_row + key];
}

// scores = scale * scores + bias, key by key.
template <class Tiling>
__device__ __forceinline__ void add_biases(Scores<Tiling>& scores, float scale, const float* biases) {
#pragma unroll
    for (uint32_t keys = 0; keys < Tiling::KEYS; keys += 8) {
        const float2 bias = *reinterpret_cast<const float2*>(biases + keys + threadIdx.x % 4 * 2);
#pragma unroll
        for (uint32_t tile = 0; tile < Tiling::QUERY_TILES; ++tile) {
            float(&four)[4] = scores[tile][keys / 8];
            four[0] = fmaf(four[0], scale, bias.x);
            four[1] = fmaf(four[1], scale, bias.y);
            four[2] = fmaf(four[2], scale, bias.x);
            four[3] = fmaf(four[3], scale, bias.y);
        }
    }
}

// The highest of a row's scores, in each of the four lanes that hold them.
template <class Tiling>
__device__ __forceinline__ float highest_score(const float (&scores)[Tiling::KEYS / 8][4], uint32_t half) {
    float highest = -INFINITY;
#pragma unroll
    for (const auto& four : scores) {
        highest = fmaxf(highest, fmaxf(four[2 * half], four[2 * half + 1]));
    }
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
    return fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
}

// scores = 2^(scale * scores - m), with maxima, totals and sums brought up to date.
template <class Tiling>
__device__ __forceinline__ void weigh(Scores<Tiling>& scores, QueryState<Tiling>& state, float scale) {
    // Of all rows before the first branch: no instruction moves across one, and the rows' shuffles are to overlap.
    float highest[Tiling::QUERY_TILES][2];
#pragma unroll
    for (uint32_t tile = 0; tile < Tiling::QUERY_TILES; ++tile) {
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            highest[tile][half] = scale * highest_score<Tiling>(scores[tile], half);
        }
    }
#pragma unroll
    for (uint32_t tile = 0; tile < Tiling::QUERY_TILES; ++tile) {
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            float& maximum = state.maxima[tile][half];
            float& total = state.totals[tile][half];
            // A maximum seldom grows after the first blocks; where it stays, the correction is 1. It is never left to lag
            // behind: the largest weight, which decides a peaked row, is 1 and rounds to itself. The first block meets
            // m = -inf, sums of zero and a correction of zero.
            if (highest[tile][half] > maximum) {
                const float correction = exp2_approx(maximum - highest[tile][half]);
                maximum = highest[tile][half];
                total *= correction;
#pragma unroll
                for (auto& four : state.sums[tile]) {
                    four[2 * half] *= correction;
                    four[2 * half + 1] *= correction;
                }
            }
#pragma unroll
            for (auto& four : scores[tile]) {
                four[2 * half] = exp2_approx(fmaf(four[2 * half], scale, -maximum));
                four[2 * half + 1] = exp2_approx(fmaf(four[2 * half + 1], scale, -maximum));
                total += four[2 * half] + four[2 * half + 1];
            }
        }
    }
}

// sums += weights * V of one block of keys.
template <class Tiling>
__device__ __forceinline__ void add_values(QueryState<Tiling>& state, const Scores<Tiling>& weights, uint32_t value_row) {
    using T = typename Tiling::T;
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (uint32_t keys = 0; keys < Tiling::KEYS; keys += 16) {
        // Sums of two tiles of 8 keys lie as the first factor's registers do.
        uint32_t rounded[Tiling::QUERY_TILES][4];
#pragma unroll
        for (uint32_t tile = 0; tile < Tiling::QUERY_TILES; ++tile) {
            const float(&low)[4] = weights[tile][keys / 8];
            const float(&high)[4] = weights[tile][keys / 8 + 1];
            rounded[tile][0] = narrow_pair<T>(low[0], low[1]);
            rounded[tile][1] = narrow_pair<T>(low[2], low[3]);
            rounded[tile][2] = narrow_pair<T>(high[0], high[1]);
            rounded[tile][3] = narrow_pair<T>(high[2], high[3]);
        }
#pragma unroll
        for (uint32_t step = 0; step < Tiling::STEPS; ++step) {
            uint32_t matrices[4];
            const uint32_t chunk = Tiling::chunk(value_row + keys + lane % 16, 2 * step + lane / 16);
            load_matrices_transposed(matrices, shared_address(dynamic_shared()) + chunk);
#pragma unroll
            for (uint32_t tile = 0; tile < Tiling::QUERY_TILES; ++tile) {
                multiply_add<T>(state.sums[tile][2 * step], rounded[tile], matrices[0], matrices[1]);
                multiply_add<T>(state.sums[tile][2 * step + 1], rounded[tile], matrices[2], matrices[3]);
            }
        }
    }
}

// Divides the sums by the totals and writes the warp's rows, through shared memory from first_row on, which only this warp
// touches.
template <class Tiling>
__device__ __forceinline__ void store_output(const QueryState<Tiling>& state, uint32_t first_row, typename Tiling::T* output,
                                             uint32_t stride, uint32_t num_rows) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (uint32_t tile = 0; tile < Tiling::QUERY_TILES; ++tile) {
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            float total = state.totals[tile][half];
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            const float inverse = 1.0f / total;
            const uint32_t row = first_row + 16 * tile + 8 * half + lane / 4;
#pragma unroll
            for (uint32_t column = 0; column < Tiling::CHUNKS; ++column) {
                const float(&four)[4] = state.sums[tile][column];
                uint8_t* pair = dynamic_shared() + Tiling::chunk(row, column) + lane % 4 * 4;
                *reinterpret_cast<uint32_t*>(pair) =
                    narrow_pair<typename Tiling::T>(four[2 * half] * inverse, four[2 * half + 1] * inverse);
            }
        }
    }
    // Orders the pairs above before the vectors below.
    __syncwarp();
#pragma unroll
    for (uint32_t index = lane; index < Tiling::WARP_QUERIES * Tiling::CHUNKS; index += 32) {
        const uint32_t row = index / Tiling::CHUNKS;
        const uint32_t column = index % Tiling::CHUNKS;
        if (row < num_rows) {
            const uint8_t* vector = dynamic_shared() + Tiling::chunk(first_row + row, column);
            uint4* place = reinterpret_cast<uint4*>(output + static_cast<size_t>(row) * stride + 8 * column);
            *place = *reinterpret_cast<const uint4*>(vector);
        }
    }
}

template <class T, int head_size>
__device__ __forceinline__ void flash_attention(const FlashAttentionParams& params) {
    using Tiling = FlashAttentionTiling<T, head_size>;
    start_in_turn();
    constexpr uint32_t KEYS = Tiling::KEYS;
    if (blockIdx.x >= *params.num_items) {
        return;
    }
    const AttentionItem item = params.items[blockIdx.x];
    const uint32_t stride = params.qkv_stride;
    const uint32_t width = params.num_heads * head_size;
    const T* head = static_cast<const T*>(params.qkv) + blockIdx.y * head_size;
    float* biases = reinterpret_cast<float*>(dynamic_shared() + Tiling::ROWS * Tiling::ROW_BYTES);

    const T* keys = head + width + static_cast<size_t>(item.key_row) * stride;
    const auto copy_block = [&](uint32_t block) {
        const uint32_t key = block * KEYS;
        const T* first = keys + static_cast<size_t>(key) * stride;
        copy_keys<Tiling>(block % 2 * Tiling::STAGE_ROWS, first, width, stride, item.num_keys - key);
        copy_async_commit();
    };
    // Keys before this one need no bias.
    const uint32_t first_biased = min(item.first_multiple, item.num_keys);
    const uint32_t num_blocks = (item.num_keys + KEYS - 1) / KEYS;

    QueryState<Tiling> state{};
    for (auto& tile : state.maxima) {
        tile[0] = tile[1] = -INFINITY;
    }
    copy_queries<Tiling>(head + static_cast<size_t>(item.query_row) * stride, stride, item.num_queries);
    copy_block(0);
    if (threadIdx.x < KEYS) {
        biases[threadIdx.x] = key_bias(params, item, threadIdx.x);
    }
    if constexpr (Tiling::QUERIES_IN_REGISTERS) {
        copy_async_wait<0>();
        // Orders all threads' copies of the queries before the loads below.
        __syncthreads();
#pragma unroll
        for (uint32_t step = 0; step < Tiling::STEPS; ++step) {
            load_queries<Tiling>(state.queries[step], step);
        }
    }
    for (uint32_t block = 0; block < num_blocks; ++block) {
        copy_async_wait<0>();
        // Orders all threads' copies and biases of this block before their use, and all use of the other stage, queries
        // that passed through it included, before it is overwritten.
        __syncthreads();
        // The next block's biases travel in a register while this one is computed.
        float next_bias = 0.0f;
        if (block + 1 < num_blocks) {
            copy_block(block + 1);
            next_bias = threadIdx.x < KEYS ? key_bias(params, item, (block + 1) * KEYS + threadIdx.x) : 0.0f;
        }
        const uint32_t key_row = block % 2 * Tiling::STAGE_ROWS;
        Scores<Tiling> scores = {};
        score_keys<Tiling>(scores, state, key_row);
        float scale = params.scale_log2;
        if ((block + 1) * KEYS > first_biased) {
            add_biases<Tiling>(scores, scale, biases + block % 2 * KEYS);
            scale = 1.0f;
        }
        weigh<Tiling>(scores, state, scale);
        add_values<Tiling>(state, scores, key_row + KEYS);
        if (threadIdx.x < KEYS) {
            biases[(block + 1) % 2 * KEYS + threadIdx.x] = next_bias;
        }
    }
    // No copy is under way, and the stage that the last block left alone has no readers since the last barrier.
    const uint32_t free_row = Tiling::QUERIES_IN_REGISTERS ? num_blocks % 2 * Tiling::STAGE_ROWS : Tiling::QUERY_ROW;
    const uint32_t warp_query = threadIdx.x / 32 * Tiling::WARP_QUERIES;
    const size_t row = item.query_row + warp_query;
    T* output = static_cast<T*>(params.output) + blockIdx.y * head_size + row * params.output_stride;
    const uint32_t num_rows = max(item.num_queries, warp_query) - warp_query;
    store_output<Tiling>(state, free_row + warp_query, output, params.output_stride, num_rows);
}

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) flash_attention_bf16_16(const __grid_constant__ FlashAttentionParams params) {
    flash_attention<Bf16, 16>(params);
}

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) flash_attention_fp16_16(const __grid_constant__ FlashAttentionParams params) {
    flash_attention<Fp16, 16>(params);
}

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) flash_attention_bf16_32(const __grid_constant__ FlashAttentionParams params) {
    flash_attention<Bf16, 32>(params);
}

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) flash_attention_fp16_32(const __grid_constant__ FlashAttentionParams params) {
    flash_attention<Fp16, 32>(params);
}

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) flash_attention_bf16_48(const __grid_constant__ FlashAttentionParams params) {
    flash_attention<Bf16, 48>(params);
}

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) flash_attention_fp16_48(const __grid_constant__ FlashAttentionParams params) {
    flash_attention<Fp16, 48>(params);
}

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) flash_attention_bf16_64(const __grid_constant__ FlashAttentionParams params) {
    flash_attention<Bf16, 64>(params);
}

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) flash_attention_fp16_64(const __grid_constant__ FlashAttentionParams params) {
    flash_attention<Fp16, 64>(params);
}

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) flash_attention_bf16_80(const __grid_constant__ FlashAttentionParams params) {
    flash_attention<Bf16, 80>(params);
}

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) flash_attention_fp16_80(const __grid_constant__ FlashAttentionParams params) {
    flash_attention<Fp16, 80>(params);
}

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) flash_attention_bf16_96(const __grid_constant__ FlashAttentionParams params) {
    flash_attention<Bf16, 96>(params);
}

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) flash_attention_fp16_96(const __grid_constant__ FlashAttentionParams params) {
    flash_attention<Fp16, 96>(params);
}

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) flash_attention_bf16_112(const __grid_constant__ FlashAttentionParams params) {
    flash_attention<Bf16, 112>(params);
}

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) flash_attention_fp16_112(const __grid_constant__ FlashAttentionParams params) {
    flash_attention<Fp16, 112>(params);
}

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) flash_attention_bf16_128(const __grid_constant__ FlashAttentionParams params) {
    flash_attention<Bf16, 128>(params);
}

extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) flash_attention_fp16_128(const __grid_constant__ FlashAttentionParams params) {
    flash_attention<Fp16, 128>(params);
}
