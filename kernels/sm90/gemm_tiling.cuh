// How the matrix product of the Hopper kernels divides its work and its shared memory; gemm.cuh says why.
#pragma once
#include <stdint.h>

#include <abi.h>
#include <ptx.cuh>
#include <sm90/hopper.cuh>

constexpr uint32_t WARPGROUP_THREADS = 128;
constexpr uint32_t CONSUMERS = 2;  // warpgroups, which come first; the producer is the last one
constexpr uint32_t HALF_ROWS = HOPPER_GEMM_ROWS / CONSUMERS;
constexpr uint32_t GROUP_ROW_TILES = 8;

// A row of a slab or of a panel: a row of the swizzle, eight units of 16 bytes.
constexpr uint32_t SWIZZLED_ROW_BYTES = 128;
constexpr uint32_t UNIT_COLUMNS = 8;
constexpr uint32_t PANEL_UNITS = HOPPER_GEMM_PANEL / UNIT_COLUMNS;

constexpr uint32_t PIPELINE_BYTES = 192 << 10;
constexpr uint32_t PANEL_BYTES = HALF_ROWS * SWIZZLED_ROW_BYTES;
constexpr uint32_t PANELS = 2;  // of a consumer
constexpr uint32_t STAGING_BYTES = CONSUMERS * PANELS * PANEL_BYTES;

// Registers of a thread. A block starts with 168 for each of its 384.
constexpr int PRODUCER_REGISTERS = 24;
constexpr int CONSUMER_REGISTERS = 240;
static_assert(PRODUCER_REGISTERS + CONSUMERS * CONSUMER_REGISTERS <= 3 * 168, "registers are only handed over");

// Named barriers: one for each consumer alone, then the one that gives the first its lead.
constexpr uint32_t FIRST_CONSUMER_BARRIER = 1;
constexpr uint32_t LEAD_BARRIER = FIRST_CONSUMER_BARRIER + CONSUMERS;

static_assert(HOPPER_GEMM_DEPTH * 2 == SWIZZLED_ROW_BYTES, "a slab is as wide as the swizzle");
static_assert(HOPPER_GEMM_PANEL * 2 == SWIZZLED_ROW_BYTES, "a panel is as wide as the swizzle");
static_assert(HOPPER_GEMM_THREADS == (CONSUMERS + 1) * WARPGROUP_THREADS, "consumers and a producer");

template <uint32_t tile_columns>
struct Tiling {
    static constexpr uint32_t columns = tile_columns;
    static constexpr uint32_t input_bytes = HOPPER_GEMM_ROWS * SWIZZLED_ROW_BYTES;
    static constexpr uint32_t stage_bytes = input_bytes + columns * SWIZZLED_ROW_BYTES;
    static constexpr uint32_t stages = PIPELINE_BYTES / stage_bytes;
    static constexpr uint32_t lead = stages - 1;
    static constexpr uint32_t panels = columns / HOPPER_GEMM_PANEL;

    static_assert(stages * stage_bytes == PIPELINE_BYTES, "stages fill the pipeline");
    static_assert(PIPELINE_BYTES + STAGING_BYTES + 8 * (2 * stages + CONSUMERS) <= HOPPER_GEMM_SHARED_BYTES,
                  "stages, panels and barriers fit");
    static_assert(columns % MOMENTS_COLUMNS == 0, "moments are made within a tile");
};

using Tiling128x256 = Tiling<256>;
using Tiling128x128 = Tiling<128>;

// A thread's share of a half tile: as wgmma has them.
template <class Tiling>
using Sums = float[Tiling::columns / 2];

// Shared memory: the stages, the panels, the barriers.
template <class Tiling>
struct Memory {
    uint32_t base;

    __device__ __forceinline__ Memory() : base(shared_address(dynamic_shared())) {}

    // The slab of the input, then that of the weight.
    __device__ __forceinline__ uint32_t stage(uint32_t number) const { return base + number * Tiling::stage_bytes; }

    // Where a consumer's panels start, from the start of shared memory.
    __device__ __forceinline__ static uint32_t panels(uint32_t consumer) {
        return PIPELINE_BYTES + consumer * PANELS * PANEL_BYTES;
    }

    // A stage's slabs have landed.
    __device__ __forceinline__ uint32_t full(uint32_t stage) const {
        return base + PIPELINE_BYTES + STAGING_BYTES + 8 * stage;
    }

    // All warps of the consumers have multiplied a stage's slabs.
    __device__ __forceinline__ uint32_t empty(uint32_t stage) const { return full(Tiling::stages + stage); }

    // What a consumer has loaded into its panels has landed.
    __device__ __forceinline__ uint32_t loaded(uint32_t consumer) const {
        return full(2 * Tiling::stages + consumer);
    }

    // By one thread.
    __device__ __forceinline__ void init() const {
        for (uint32_t stage = 0; stage < Tiling::stages; ++stage) {
            mbarrier_init(full(stage), 1);
            mbarrier_init(empty(stage), CONSUMERS * WARPGROUP_THREADS / 32);
        }
        for (uint32_t consumer = 0; consumer < CONSUMERS; ++consumer) {
            mbarrier_init(loaded(consumer), 1);
        }
        mbarrier_fence_init();
    }
};

// The tiles of a product.
struct Tiles {
    uint32_t row_tiles;
    uint32_t column_tiles;

    __device__ __forceinline__ uint32_t count() const { return row_tiles * column_tiles; }

    // Row tile and column tile.
    __device__ __forceinline__ uint2 at(uint32_t number) const {
        const uint32_t group = number / (GROUP_ROW_TILES * column_tiles);
        const uint32_t first = GROUP_ROW_TILES * group;
        const uint32_t rows = min(GROUP_ROW_TILES, row_tiles - first);
        const uint32_t place = number - first * column_tiles;
        return make_uint2(first + place % rows, place / rows);
    }
};

__device__ __forceinline__ uint32_t ceil_div(uint32_t dividend, uint32_t divisor) {
    return (dividend + divisor - 1) / divisor;
}

// Rows of a tile that lie one after another: the first and how many there are.
struct RowTile {
    uint32_t first_row;
    uint32_t num_rows;
};

// The half of a tile that a consumer has.
struct HalfTile {
    uint32_t row;       // of the tile's rows, 0 or HALF_ROWS
    uint32_t num_rows;  // that are real, at most HALF_ROWS
    uint32_t column;
};
