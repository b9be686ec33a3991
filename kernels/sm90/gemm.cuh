// The matrix product of the Hopper kernels: input * weight^T, both row-major in their K, by TMA and wgmma.
//
// Blocks stay: as many as there are multiprocessors (or tiles, if fewer), each takes every gridDim-th tile. Of its three
// warpgroups one produces: a single thread of it loads slabs of 64 columns of K of both operands into stages, running
// ahead into the next tile as far as there are free stages. The other two consume: each multiplies 64 of the tile's 128
// rows with all of its columns, sums in registers, and finishes them by itself.
//
// What is hidden. A tile of 128x256 takes 1024 clocks of the tensor cores a slab (2048 multiplications a clock), half of
// them for each consumer; a half tile takes some 1000 to 3000 clocks to finish, in which its warpgroup multiplies
// nothing. So the first consumer is given a lead of all stages but one: while it finishes, the second still has that
// many slabs to multiply, 512 clocks each when alone; while the second finishes, the first is in the next tile, by as
// many slabs as there are stages. The lead renews itself, for who ends first begins first. Each could own a whole tile
// instead and be a half tile apart (ping-pong): with 64x256 a slab is 40 KiB for 512 clocks, with 128x128 32 KiB for
// 512, where two halves of 128x256 share 48 KiB for 1024: 66 % and 33 % more from L2, which is near its limit as it is.
//
// An element's sum takes K in steps of 16 from the first to the last, the last slab filled with zeros, in every tiling:
// tilings differ in speed only, never in bits. So no tiling splits K.
//
// Tiles go in groups of 8 row tiles down and then all column tiles across, so that blocks that run at the same time read
// the same operands from L2.
//
// Output leaves through panels (gemm_panels.cuh).
//
// Launch: block HOPPER_GEMM_THREADS, shared memory HOPPER_GEMM_SHARED_BYTES, any grid of one dimension. It may overlap
// the grid before it: only weights, and the batch's descriptor, which no kernel writes, are read before the wait.
#pragma once
#include <stdint.h>

#include <abi.h>
#include <ptx.cuh>
#include <sm90/gemm_panels.cuh>
#include <sm90/gemm_tiling.cuh>
#include <sm90/hopper.cuh>
#include <sm90/ring.cuh>

// The operands of a product of one matrix and one weight. A kernel with others brings a type with the same functions.
template <class Params>
struct Operands {
    const Params& params;
    uint32_t num_rows;

    __device__ __forceinline__ explicit Operands(const Params& params)
        : params(params), num_rows(*params.plain.num_rows) {
        prefetch_tensor_map(&params.weight);
        prefetch_tensor_map(&params.input);
    }

    __device__ __forceinline__ uint32_t row_tiles() const { return ceil_div(num_rows, HOPPER_GEMM_ROWS); }
    __device__ __forceinline__ uint32_t outputs() const { return params.plain.outputs; }
    __device__ __forceinline__ uint32_t num_slabs() const { return ceil_div(params.plain.inputs, HOPPER_GEMM_DEPTH); }

    __device__ __forceinline__ RowTile row_tile(uint32_t number) const {
        const uint32_t first = number * HOPPER_GEMM_ROWS;
        return {first, min(HOPPER_GEMM_ROWS, num_rows - first)};
    }

    __device__ __forceinline__ void load_input(uint32_t destination, uint32_t barrier, const RowTile& rows,
                                               uint32_t slab) const {
        load_tensor(destination, &params.input, barrier, static_cast<int32_t>(slab * HOPPER_GEMM_DEPTH),
                    static_cast<int32_t>(rows.first_row));
    }

    __device__ __forceinline__ void load_weight(uint32_t destination, uint32_t barrier, uint32_t column,
                                                uint32_t slab) const {
        load_tensor(destination, &params.weight, barrier, static_cast<int32_t>(slab * HOPPER_GEMM_DEPTH),
                    static_cast<int32_t>(column));
    }
};

// Loads the slabs of all tiles of this block. One thread.
template <class Tiling, class Operands>
__device__ __forceinline__ void produce(const Memory<Tiling>& memory, const Operands& operands, const Tiles& tiles) {
    const uint32_t num_slabs = operands.num_slabs();
    Ring<Tiling::stages> position;
    const auto start_stage = [&](uint32_t stage, uint32_t column_tile, uint32_t slab) {
        mbarrier_arrive_expect(memory.full(stage), Tiling::stage_bytes);
        operands.load_weight(memory.stage(stage) + Tiling::input_bytes, memory.full(stage),
                             column_tile * Tiling::columns, slab);
    };
    // The first stages are free, and weights are nobody's result.
    uint32_t early = blockIdx.x < tiles.count() ? min(Tiling::stages, num_slabs) : 0;
    for (uint32_t slab = 0; slab < early; ++slab) {
        start_stage(slab, tiles.at(blockIdx.x).y, slab);
    }
    wait_for_previous_grid();
    for (uint32_t number = blockIdx.x; number < tiles.count(); number += gridDim.x) {
        const uint2 tile = tiles.at(number);
        const auto rows = operands.row_tile(tile.x);
        for (uint32_t slab = 0; slab < num_slabs; ++slab) {
            if (early != 0) {
                early -= 1;
            } else {
                // The consumers' reads of what the stage held before the loads that overwrite it.
                mbarrier_wait(memory.empty(position.stage), position.parity ^ 1);
                start_stage(position.stage, tile.y, slab);
            }
            operands.load_input(memory.stage(position.stage), memory.full(position.stage), rows, slab);
            position.advance();
        }
    }
}

// A consumer: its number, its place in the ring, and what it says of its lead.
template <class T, class Tiling>
struct Consumer {
    const Memory<Tiling>& memory;
    uint32_t number;
    uint32_t lane;
    Ring<Tiling::stages> position;
    uint32_t lead;  // the slab of the first tile after which the second consumer may start; 0 for none

    __device__ __forceinline__ Consumer(const Memory<Tiling>& memory, uint32_t num_slabs)
        : memory(memory),
          number(threadIdx.x / WARPGROUP_THREADS),
          lane(threadIdx.x % 32),
          lead(number == 0 ? min(Tiling::lead, num_slabs) : 0) {}

    // Gives a stage back, a warp's share of it.
    __device__ __forceinline__ void release(uint32_t stage) const {
        if (lane == 0) {
            mbarrier_arrive(memory.empty(stage));
        }
    }

    // Starts the products of a slab once it is there.
    __device__ __forceinline__ void start_slab(Sums<Tiling>& sums, bool is_first) const {
        mbarrier_wait(memory.full(position.stage), position.parity);
        const uint32_t slab = memory.stage(position.stage);
        const uint32_t weight = slab + Tiling::input_bytes;
        const uint32_t input = slab + number * HALF_ROWS * SWIZZLED_ROW_BYTES;
        wgmma_fence();
#pragma unroll
        for (uint32_t step = 0; step < HOPPER_GEMM_DEPTH / 16; ++step) {
            constexpr uint32_t eight_rows = 8 * SWIZZLED_ROW_BYTES;
            const uint64_t a = matrix_descriptor(Swizzle::bytes_128, input + 32 * step, 16, eight_rows);
            const uint64_t b = matrix_descriptor(Swizzle::bytes_128, weight + 32 * step, 16, eight_rows);
            wgmma<T>(sums, a, b, !is_first || step != 0);
        }
        wgmma_commit();
    }

    // The product of a half tile. A slab's stage is given back when the next one's products are under way, so that the
    // tensor cores always have something to do; `meanwhile` is done beside the first ones.
    template <class Meanwhile>
    __device__ __forceinline__ void multiply(Sums<Tiling>& sums, uint32_t num_slabs, const Meanwhile& meanwhile) {
        wgmma_keep(sums);
        start_slab(sums, true);
        announce(0);
        uint32_t last = position.stage;
        position.advance();
        meanwhile();
        for (uint32_t slab = 1; slab < num_slabs; ++slab) {
            start_slab(sums, false);
            announce(slab);
            wgmma_wait<1>();
            release(last);
            last = position.stage;
            position.advance();
        }
        wgmma_wait<0>();
        wgmma_keep(sums);
        release(last);
    }

    // The same of a half tile that has no rows.
    __device__ __forceinline__ void skip(uint32_t num_slabs) {
        for (uint32_t slab = 0; slab < num_slabs; ++slab) {
            mbarrier_wait(memory.full(position.stage), position.parity);
            // All lanes have seen the phase before one says so: the next one of this parity would look the same.
            __syncwarp();
            release(position.stage);
            position.advance();
        }
    }

    // The first consumer has its lead.
    __device__ __forceinline__ void announce(uint32_t slab) {
        if (slab + 1 == lead) {
            named_barrier_arrive(LEAD_BARRIER, CONSUMERS * WARPGROUP_THREADS);
            lead = 0;
        }
    }
};

// A kernel: `Finish` is made once by each thread of the consumers, with `start(rows, half)` beside the first products of
// a half tile, and `finish(sums, rows, half)` after the last.
template <class T, class Tiling, class Operands, class Finish, class Params>
__device__ __forceinline__ void gemm(const Params& params) {
    const Memory<Tiling> memory;
    if (threadIdx.x == 0) {
        memory.init();
    }
    launch_next_grid();
    // The barriers are there before anyone uses them.
    __syncthreads();
    if (threadIdx.x >= CONSUMERS * WARPGROUP_THREADS) {
        give_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x < CONSUMERS * WARPGROUP_THREADS + 32 && elect_one()) {
            const Operands operands(params);
            produce(memory, operands, Tiles{operands.row_tiles(), ceil_div(operands.outputs(), Tiling::columns)});
        }
        return;
    }
    take_registers<CONSUMER_REGISTERS>();
    wait_for_previous_grid();
    const Operands operands(params);
    const Tiles tiles{operands.row_tiles(), ceil_div(operands.outputs(), Tiling::columns)};
    const uint32_t num_slabs = operands.num_slabs();
    Consumer<T, Tiling> consumer(memory, num_slabs);
    const Panels panels(memory.panels(consumer.number));
    Finish finish(params, panels, memory.loaded(consumer.number));
    if (consumer.number != 0 && blockIdx.x < tiles.count()) {
        // The first consumer starts ahead.
        named_barrier_sync(LEAD_BARRIER, CONSUMERS * WARPGROUP_THREADS);
    }
    for (uint32_t number = blockIdx.x; number < tiles.count(); number += gridDim.x) {
        const uint2 tile = tiles.at(number);
        const auto rows = operands.row_tile(tile.x);
        HalfTile half;
        half.row = consumer.number * HALF_ROWS;
        half.num_rows = min(HALF_ROWS, rows.num_rows - min(rows.num_rows, half.row));
        half.column = tile.y * Tiling::columns;
        if (half.num_rows == 0) {
            consumer.skip(num_slabs);
            continue;
        }
        Sums<Tiling> sums;
        consumer.multiply(sums, num_slabs, [&] { finish.start(rows, half); });
        finish.finish(sums, rows, half);
    }
    if (panels.is_storer) {
        store_tensor_wait<0>();
    }
}
