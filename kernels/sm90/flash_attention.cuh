// output = softmax(scale Q K^T + ln multiplicity) V, as the portable flash_attention.cu has it, in the instructions of
// Hopper: tensors come by bulk copies, products are wgmma's, and a block has one producer and two or three warpgroups of
// consumers, each with 64 queries.
//
// Launch: a grid of as many blocks as there are multiprocessors, or fewer; each takes works until there are no more.
// Overlap: a consumer's product of the next block's keys and of this block's values are under way together; while the
// latter runs, the next block's scores become weights. Consumers take turns at giving products, so that one's softmax runs
// beside another's products.
// Precision: as the portable form; blocks of KEYS keys, counted from the image's first key. Rows that are too few for an item
// have their keys cut into pieces, at blocks, by the image's own numbers of rows and keys: nothing depends on the batch, or
// on who computes what.
#pragma once
#include <stdint.h>

#include <sm90/flash_attention_output.cuh>
#include <sm90/flash_attention_producer.cuh>

// One arrival for the warp, whose lanes are all done.
__device__ __forceinline__ void release(uint32_t barrier) {
    if (threadIdx.x % 32 == 0) {
        mbarrier_arrive(barrier);
    }
}

// Values beyond the last key become zeros, for a weight of zero would not make a NaN harmless. By all warpgroups, for all
// read all; by those without rows, too, lest one that is a work ahead wait for others than these.
template <class Tiling>
__device__ __forceinline__ void clear_values(uint32_t stage, uint32_t num_keys) {
    constexpr uint32_t NUM_THREADS = 128 * Tiling::CONSUMERS;
    constexpr uint32_t UNITS = Tiling::CHUNK_BYTES / 16;
    uint8_t* values = dynamic_shared() + Tiling::VALUES + stage * Tiling::BLOCK_BYTES;
    for (uint32_t index = num_keys * UNITS + threadIdx.x - 128; index < Tiling::KEYS * UNITS; index += NUM_THREADS) {
#pragma unroll
        for (uint32_t chunk = 0; chunk < Tiling::CHUNKS; ++chunk) {
            uint8_t* place = values + chunk * Tiling::KEYS * Tiling::CHUNK_BYTES + index * 16;
            *reinterpret_cast<uint4*>(place) = make_uint4(0, 0, 0, 0);
        }
    }
    fence_proxy_async();
    named_barrier_sync(Tiling::ALL, NUM_THREADS);
}

// What a consumer keeps from work to work.
template <class Tiling>
struct Consumer {
    uint32_t tile;
    Ring<Tiling::STAGES> keys, values;
    uint32_t queries_parity;

    __device__ __forceinline__ uint32_t barrier(uint32_t offset, uint32_t stage) const {
        return shared_address(dynamic_shared()) + offset + 8 * stage;
    }

    // A warpgroup without rows gives back what the others read. All lanes have seen a phase before it is given back: one that
    // was late could take a later phase of the same parity for it.
    __device__ __forceinline__ void pass(const AttentionWork& work) {
        mbarrier_wait(barrier(Tiling::QUERIES_FULL, 0), queries_parity);
        __syncwarp();
        release(barrier(Tiling::QUERIES_EMPTY, 0));
#pragma unroll 1
        for (uint32_t key = work.first_key; key < work.end_key; key += Tiling::KEYS) {
            mbarrier_wait(barrier(Tiling::KEYS_FULL, keys.stage), keys.parity);
            __syncwarp();
            release(barrier(Tiling::KEYS_EMPTY, keys.stage));
            mbarrier_wait(barrier(Tiling::VALUES_FULL, values.stage), values.parity);
            if (work.end_key - key < Tiling::KEYS) {
                clear_values<Tiling>(values.stage, work.end_key - key);
            }
            __syncwarp();
            release(barrier(Tiling::VALUES_EMPTY, values.stage));
            keys.advance();
            values.advance();
        }
    }

    // Scores that have come: with biases where the block needs them. Its stage is given back, and after the last block the
    // queries.
    __device__ __forceinline__ void take_scores(BlockScores<Tiling>& scores, const AttentionWork& work, uint32_t key,
                                                float inverse_scale) {
        wgmma_keep(scores);
        if (is_biased(work, key + Tiling::KEYS)) {
            add_biases<Tiling>(scores, work, key, keys.stage, inverse_scale);
        }
        release(barrier(Tiling::KEYS_EMPTY, keys.stage));
        if (key + Tiling::KEYS >= work.end_key) {
            release(barrier(Tiling::QUERIES_EMPTY, 0));
        }
        keys.advance();
    }

    // The work's result, not yet divided.
    __device__ __forceinline__ void attend(const HopperAttentionParams& params, const AttentionWork& work,
                                           TileState<Tiling>& state) {
        const uint32_t num_tiles = (work.num_queries + ATTENTION_TILE - 1) / ATTENTION_TILE;
        const uint32_t next = tile + 1 == num_tiles ? 0 : tile + 1;
        const bool takes_turns = num_tiles > 1;
        const float scale = params.scale_log2;
        const float inverse_scale = 1.0f / scale;
        BlockScores<Tiling> scores;
        BlockWeights<Tiling> weights;
        float corrections[2];
        mbarrier_wait(barrier(Tiling::QUERIES_FULL, 0), queries_parity);
        mbarrier_wait(barrier(Tiling::KEYS_FULL, keys.stage), keys.parity);
        start_scores<Tiling>(scores, tile, keys.stage);
        wgmma_wait<0>();
        take_scores(scores, work, work.first_key, inverse_scale);
        weigh<Tiling, true>(scores, state, scale, corrections);
        round_weights<Tiling>(weights, scores);
        bool is_first = true;
#pragma unroll 1
        for (uint32_t key = work.first_key + Tiling::KEYS; key < work.end_key; key += Tiling::KEYS) {
            mbarrier_wait(barrier(Tiling::KEYS_FULL, keys.stage), keys.parity);
            if (takes_turns) {
                named_barrier_sync(Tiling::TURN + tile, 256);
            }
            start_scores<Tiling>(scores, tile, keys.stage);
            mbarrier_wait(barrier(Tiling::VALUES_FULL, values.stage), values.parity);
            start_sums<Tiling>(state.sums, weights, values.stage, is_first);
            is_first = false;
            if (takes_turns) {
                named_barrier_arrive(Tiling::TURN + next, 256);
            }
            wgmma_wait<1>();
            take_scores(scores, work, key, inverse_scale);
            weigh<Tiling, false>(scores, state, scale, corrections);
            // Has been waited for: what comes of it is a loop that ptxas moves no wait across. It would have the one below
            // before the exponentials above, and the weights would not become beside the product of the values.
            mbarrier_wait(barrier(Tiling::VALUES_FULL, values.stage), values.parity);
            wgmma_wait<0>();
            keep_sums<Tiling>(state.sums, weights);
            release(barrier(Tiling::VALUES_EMPTY, values.stage));
            values.advance();
            round_weights<Tiling>(weights, scores);
            rescale<Tiling>(state, corrections);
        }
        mbarrier_wait(barrier(Tiling::VALUES_FULL, values.stage), values.parity);
        const uint32_t last_keys = (work.end_key - work.first_key) % Tiling::KEYS;
        if (last_keys != 0) {
            clear_values<Tiling>(values.stage, last_keys);
        }
        start_sums<Tiling>(state.sums, weights, values.stage, is_first);
        wgmma_wait<0>();
        keep_sums<Tiling>(state.sums, weights);
        release(barrier(Tiling::VALUES_EMPTY, values.stage));
        values.advance();
    }
};

template <class Tiling>
__device__ __forceinline__ void consume(const HopperAttentionParams& params, uint32_t tile) {
    Consumer<Tiling> consumer{};
    consumer.tile = tile;
    Ring<Tiling::WORKS> works;
    if (tile + 1 == Tiling::CONSUMERS) {
        // The first turn is the first warpgroup's.
        named_barrier_arrive(Tiling::TURN, 256);
    }
#pragma unroll 1
    for (;;) {
        mbarrier_wait(consumer.barrier(Tiling::WORK_FULL, works.stage), works.parity);
        const uint8_t* place = dynamic_shared() + Tiling::WORK + works.stage * Tiling::WORK_BYTES;
        const AttentionWork work = *reinterpret_cast<const AttentionWork*>(place);
        // Orders all lanes' loads before the arrival.
        __syncwarp();
        release(consumer.barrier(Tiling::WORK_EMPTY, works.stage));
        works.advance();
        if (work.num_queries == 0) {
            break;
        }
        if (tile * ATTENTION_TILE < work.num_queries) {
            TileState<Tiling> state;
            consumer.attend(params, work, state);
            if (work.num_pieces == 1 || merge_pieces<Tiling>(params, work, tile, state)) {
                store_output<Tiling>(params, work, tile, state);
            }
        } else {
            consumer.pass(work);
        }
        consumer.queries_parity ^= 1;
    }
    if (threadIdx.x % 128 == 0) {
        store_tensor_wait_read<0>();
    }
}

template <class Tiling>
__device__ __forceinline__ void flash_attention(const HopperAttentionParams& params) {
    const uint32_t shared = shared_address(dynamic_shared());
    if (threadIdx.x == 0) {
        constexpr uint32_t CONSUMER_WARPS = 4 * Tiling::CONSUMERS;
        for (uint32_t stage = 0; stage < Tiling::STAGES; ++stage) {
            mbarrier_init(shared + Tiling::KEYS_FULL + 8 * stage, 1);
            mbarrier_init(shared + Tiling::KEYS_EMPTY + 8 * stage, CONSUMER_WARPS);
            mbarrier_init(shared + Tiling::VALUES_FULL + 8 * stage, 1);
            mbarrier_init(shared + Tiling::VALUES_EMPTY + 8 * stage, CONSUMER_WARPS);
        }
        for (uint32_t stage = 0; stage < Tiling::WORKS; ++stage) {
            mbarrier_init(shared + Tiling::WORK_FULL + 8 * stage, 1);
            mbarrier_init(shared + Tiling::WORK_EMPTY + 8 * stage, CONSUMER_WARPS);
        }
        mbarrier_init(shared + Tiling::QUERIES_FULL, 1);
        mbarrier_init(shared + Tiling::QUERIES_EMPTY, CONSUMER_WARPS);
        mbarrier_fence_init();
        prefetch_tensor_map(&params.queries);
        prefetch_tensor_map(&params.keys);
        prefetch_tensor_map(&params.values);
    }
    // The barriers are initialised before anyone uses them.
    __syncthreads();
    launch_next_grid();
    wait_for_previous_grid();
    // Warpgroup 0 produces. The number is the warp's, and the shuffle tells the compiler so.
    const uint32_t warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    if (warpgroup == 0) {
        give_registers<Tiling::PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) {
            produce<Tiling>(params);
        }
    } else {
        take_registers<Tiling::CONSUMER_REGISTERS>();
        consume<Tiling>(params, warpgroup - 1);
    }
}
