// How a consumer warpgroup of flash_attention gives its result away: to the output, or, of a piece, to be merged.
#pragma once
#include <stdint.h>

#include <sm90/flash_attention_softmax.cuh>

// Leaves a piece's sums, maxima and totals, and says whether it is the last one of its rows to do so: then they become
// those of all pieces, merged in the order of their numbers, whoever was the last.
template <class Tiling>
__device__ __forceinline__ bool merge_pieces(const HopperAttentionParams& params, const AttentionWork& work, uint32_t tile,
                                             TileState<Tiling>& state) {
    constexpr uint32_t NUM_SUMS = Tiling::HEAD / 2;
    const uint32_t thread = threadIdx.x % 128;
    const uint32_t ticket = work.first_ticket + tile;
    float* pieces = params.partials + static_cast<size_t>(ticket) * ATTENTION_PIECES * Tiling::PARTIAL + thread;
    float* own = pieces + work.piece * Tiling::PARTIAL;
#pragma unroll
    for (uint32_t i = 0; i < NUM_SUMS; ++i) {
        own[128 * i] = state.sums[i];
    }
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
        own[128 * (NUM_SUMS + half)] = state.maxima[half];
        own[128 * (NUM_SUMS + 2 + half)] = state.totals[half];
    }
    uint32_t* arrivals = reinterpret_cast<uint32_t*>(dynamic_shared() + Tiling::ARRIVALS);
    // Orders the warpgroup's stores before the ticket.
    named_barrier_sync(Tiling::OWN + tile, 128);
    if (thread == 0) {
        uint32_t* counter = params.counters + ATTENTION_COUNTERS + ticket;
        __threadfence();
        const uint32_t arrival = atomicAdd(counter, 1u);
        __threadfence();
        if (arrival + 1 == work.num_pieces) {
            // The next launch has the same tickets.
            *counter = 0;
        }
        arrivals[tile] = arrival;
    }
    // Orders the ticket before the loads, and what was drawn before its use.
    named_barrier_sync(Tiling::OWN + tile, 128);
    if (arrivals[tile] + 1 != work.num_pieces) {
        return false;
    }
    state.maxima[0] = state.maxima[1] = -INFINITY;
    for (uint32_t piece = 0; piece < work.num_pieces; ++piece) {
        const float* partial = pieces + piece * Tiling::PARTIAL + 128 * NUM_SUMS;
        state.maxima[0] = fmaxf(state.maxima[0], partial[0]);
        state.maxima[1] = fmaxf(state.maxima[1], partial[128]);
    }
    state.totals[0] = state.totals[1] = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < NUM_SUMS; ++i) {
        state.sums[i] = 0.0f;
    }
#pragma unroll 1
    for (uint32_t piece = 0; piece < work.num_pieces; ++piece) {
        const float* partial = pieces + piece * Tiling::PARTIAL;
        float corrections[2];
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            const float maximum = partial[128 * (NUM_SUMS + half)];
            corrections[half] = exp2_approx((maximum - state.maxima[half]) * params.scale_log2);
            state.totals[half] = fmaf(partial[128 * (NUM_SUMS + 2 + half)], corrections[half], state.totals[half]);
        }
#pragma unroll
        for (uint32_t i = 0; i < NUM_SUMS; ++i) {
            state.sums[i] = fmaf(partial[128 * i], corrections[i / 2 % 2], state.sums[i]);
        }
    }
    return true;
}

// Divides the sums by the totals and writes the warpgroup's rows, as a box where all of them are there.
template <class Tiling>
__device__ __forceinline__ void store_output(const HopperAttentionParams& params, const AttentionWork& work, uint32_t tile,
                                             const TileState<Tiling>& state) {
    using T = typename Tiling::T;
    const uint32_t thread = threadIdx.x % 128;
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t warp_row = thread / 32 * 16;
    const uint32_t place = shared_address(dynamic_shared()) + Tiling::OUTPUT + tile * Tiling::TILE_BYTES;
    // Address of the 16-byte unit that has these eight columns of a row, in the order of a box.
    const auto unit = [&](uint32_t row, uint32_t column) {
        const uint32_t chunk = place + column / Tiling::CHUNK * ATTENTION_TILE * Tiling::CHUNK_BYTES;
        return swizzled(Tiling::SWIZZLE, chunk + row * Tiling::CHUNK_BYTES + column % Tiling::CHUNK * 2);
    };
    float inverses[2];
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
        float total = state.totals[half];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        inverses[half] = 1.0f / total;
    }
    if (thread == 0) {
        store_tensor_wait_read<0>();
    }
    // Orders the last box's reading, and the last rows' loads, before the stores below.
    named_barrier_sync(Tiling::OWN + tile, 128);
#pragma unroll
    for (uint32_t column = 0; column < Tiling::HEAD; column += 16) {
        uint32_t matrices[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            const uint32_t first = column / 2 + 2 * i;
            matrices[i] = narrow_pair<T>(state.sums[first] * inverses[i % 2], state.sums[first + 1] * inverses[i % 2]);
        }
        store_matrices(unit(warp_row + lane % 16, column + lane / 16 * 8), matrices);
    }
    const uint32_t first_row = tile * ATTENTION_TILE;
    if (work.num_queries >= first_row + ATTENTION_TILE) {
        fence_proxy_async();
        named_barrier_sync(Tiling::OWN + tile, 128);
        if (thread == 0) {
            store_tensor(&params.output_tiles, place, 0, static_cast<int32_t>(work.query_row + first_row),
                         static_cast<int32_t>(work.head * Tiling::CHUNKS));
            store_tensor_commit();
        }
        return;
    }
    // Orders the matrices above before the vectors below, which are the same warp's.
    __syncwarp();
    constexpr uint32_t UNITS = Tiling::HEAD / 8;
    T* output = static_cast<T*>(params.output) + work.head * Tiling::HEAD;
    const uint8_t* shared = dynamic_shared() - shared_address(dynamic_shared());
#pragma unroll 1
    for (uint32_t index = lane; index < 16 * UNITS; index += 32) {
        const uint32_t row = warp_row + index / UNITS;
        const uint32_t column = index % UNITS * 8;
        if (first_row + row < work.num_queries) {
            const size_t output_row = work.query_row + first_row + row;
            const uint4 vector = *reinterpret_cast<const uint4*>(shared + unit(row, column));
            *reinterpret_cast<uint4*>(output + output_row * params.output_stride + column) = vector;
        }
    }
}
