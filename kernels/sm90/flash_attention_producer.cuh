// The producer of flash_attention: one thread that takes works from the schedule and copies what they read.
#pragma once
#include <stdint.h>

#include <sm90/flash_attention_tiling.cuh>

// The place of a work in its group.
template <class Tiling>
__device__ __forceinline__ AttentionWork describe(const AttentionGroup& group, uint32_t place) {
    const uint32_t num_items = (group.num_queries + Tiling::ROWS - 1) / Tiling::ROWS;
    const uint32_t num_pieces = (group.num_keys + group.piece_keys - 1) / group.piece_keys;
    const uint32_t head = place / (num_items * num_pieces);
    const uint32_t item = place / num_pieces % num_items;
    const uint32_t piece = place % num_pieces;
    const uint32_t first_query = item * Tiling::ROWS;
    const uint32_t first_key = piece * group.piece_keys;
    const uint32_t num_queries = min(Tiling::ROWS, group.num_queries - first_query);
    // Of every item as many as of the first.
    const uint32_t num_tiles = (min(Tiling::ROWS, group.num_queries) + ATTENTION_TILE - 1) / ATTENTION_TILE;
    AttentionWork work;
    work.key_row = group.key_row;
    work.query_row = group.query_row + first_query;
    work.num_queries = num_queries;
    work.head = head;
    work.first_key = first_key;
    work.end_key = min(group.num_keys, first_key + group.piece_keys);
    work.first_multiple = group.first_multiple;
    work.piece = piece;
    work.num_pieces = num_pieces;
    work.first_ticket = group.first_ticket + place / num_pieces * num_tiles;
    return work;
}

// Copies a block of keys, with their logarithms where it needs them. The work stays in shared memory, here and below: a
// producer has few registers.
template <class Tiling>
__device__ __forceinline__ void load_keys(const HopperAttentionParams& params, const AttentionWork& work, uint32_t key,
                                          Ring<Tiling::STAGES>& ring) {
    const uint32_t shared = shared_address(dynamic_shared());
    const uint32_t full = shared + Tiling::KEYS_FULL + 8 * ring.stage;
    const int32_t row = static_cast<int32_t>(work.key_row + key);
    const int32_t head = static_cast<int32_t>(params.num_heads + work.head);
    mbarrier_wait(shared + Tiling::KEYS_EMPTY + 8 * ring.stage, ring.parity ^ 1);
    const bool has_biases = is_biased(work, key + Tiling::KEYS);
    mbarrier_arrive_expect(full, Tiling::BLOCK_BYTES + (has_biases ? Tiling::BIAS_BYTES : 0));
    if constexpr (Tiling::KEY_FORM == KeyForm::uniform) {
        const uint32_t place = shared + Tiling::BLOCK_KEYS + ring.stage * Tiling::BLOCK_BYTES;
        load_tensor(place, &params.keys, full, 0, row, head * static_cast<int32_t>(Tiling::CHUNKS));
    } else {
        const uint32_t wide = shared + Tiling::BLOCK_KEYS + ring.stage * Tiling::WIDE_BYTES;
        load_tensor(wide, &params.keys, full, 0, row, head);
        const uint32_t tail = shared + Tiling::KEY_TAILS + ring.stage * Tiling::TAIL_BYTES;
        load_tensor(tail, &params.key_tails, full, 0, row, head);
    }
    if (has_biases) {
        const uint32_t place = shared + Tiling::BIASES + ring.stage * Tiling::BIAS_STRIDE;
        load_tensor(place, &params.log2_multiplicity, full, row, 0);
    }
    ring.advance();
}

template <class Tiling>
__device__ __forceinline__ void load_values(const HopperAttentionParams& params, const AttentionWork& work, uint32_t key,
                                            Ring<Tiling::STAGES>& ring) {
    const uint32_t shared = shared_address(dynamic_shared());
    const uint32_t full = shared + Tiling::VALUES_FULL + 8 * ring.stage;
    mbarrier_wait(shared + Tiling::VALUES_EMPTY + 8 * ring.stage, ring.parity ^ 1);
    mbarrier_arrive_expect(full, Tiling::BLOCK_BYTES);
    load_tensor(shared + Tiling::VALUES + ring.stage * Tiling::BLOCK_BYTES, &params.values, full, 0,
                static_cast<int32_t>(work.key_row + key),
                static_cast<int32_t>((2 * params.num_heads + work.head) * Tiling::CHUNKS));
    ring.advance();
}

template <class Tiling>
__device__ __forceinline__ void load_queries(const HopperAttentionParams& params, const AttentionWork& work,
                                             uint32_t parity) {
    const uint32_t shared = shared_address(dynamic_shared());
    const uint32_t full = shared + Tiling::QUERIES_FULL;
    const uint32_t num_tiles = (work.num_queries + ATTENTION_TILE - 1) / ATTENTION_TILE;
    mbarrier_wait(shared + Tiling::QUERIES_EMPTY, parity ^ 1);
    mbarrier_arrive_expect(full, num_tiles * Tiling::TILE_BYTES);
    for (uint32_t tile = 0; tile < num_tiles; ++tile) {
        load_tensor(shared + Tiling::QUERIES + tile * Tiling::TILE_BYTES, &params.queries, full, evict_first(), 0,
                    static_cast<int32_t>(work.query_row + tile * ATTENTION_TILE),
                    static_cast<int32_t>(work.head * Tiling::CHUNKS));
    }
}

// A block's first work is that of its own number, so that the first wave waits for no atomic; the others come from a
// counter, so that who is early does more. What is computed does not depend on who does it.
template <class Tiling>
__device__ __forceinline__ void produce(const HopperAttentionParams& params) {
    const uint32_t shared = shared_address(dynamic_shared());
    const uint32_t num_groups = *params.num_groups;
    const uint32_t num_works = num_groups == 0 ? 0 : params.groups[num_groups - 1].end_work;
    Ring<Tiling::WORKS> works;
    Ring<Tiling::STAGES> keys, values;
    uint32_t queries_parity = 0;
    uint32_t group = 0, first_work = 0;
    for (uint32_t next = blockIdx.x;; next = gridDim.x + atomicAdd(params.counters, 1u)) {
        uint8_t* place = dynamic_shared() + Tiling::WORK + works.stage * Tiling::WORK_BYTES;
        AttentionWork& work = *reinterpret_cast<AttentionWork*>(place);
        mbarrier_wait(shared + Tiling::WORK_EMPTY + 8 * works.stage, works.parity ^ 1);
        if (next < num_works) {
            while (next >= params.groups[group].end_work) {
                first_work = params.groups[group].end_work;
                ++group;
            }
            work = describe<Tiling>(params.groups[group], next - first_work);
        } else {
            work.num_queries = 0;
        }
        mbarrier_arrive(shared + Tiling::WORK_FULL + 8 * works.stage);
        works.advance();
        if (next >= num_works) {
            break;
        }
        // Keys first, as those of the work before are given back first, and values a block behind: as they are used.
        uint32_t key = work.first_key;
        load_keys<Tiling>(params, work, key, keys);
        load_queries<Tiling>(params, work, queries_parity);
        queries_parity ^= 1;
        for (key += Tiling::KEYS; key < work.end_key; key += Tiling::KEYS) {
            load_keys<Tiling>(params, work, key, keys);
            load_values<Tiling>(params, work, key - Tiling::KEYS, values);
        }
        load_values<Tiling>(params, work, key - Tiling::KEYS, values);
    }
    // The last block to find no more leaves the counters as it found them: the next launch has the same.
    if (atomicAdd(params.counters + 1, 1u) + 1 == gridDim.x) {
        params.counters[0] = 0;
        params.counters[1] = 0;
    }
}
