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
// Output leaves through panels of 64 rows and 64 columns, two for each consumer in turn, by TMA; a half tile with rows
// that are not real by plain stores, for what is beyond the rows must stay as it is.
//
// Launch: block HOPPER_GEMM_THREADS, shared memory HOPPER_GEMM_SHARED_BYTES, any grid of one dimension. It may overlap
// the grid before it: only weights, and the batch's descriptor, which no kernel writes, are read before the wait.
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

// Where a warpgroup is in the ring of stages.
template <class Tiling>
struct Position {
    uint32_t stage = 0;
    uint32_t parity = 0;

    __device__ __forceinline__ void advance() {
        stage += 1;
        if (stage == Tiling::stages) {
            stage = 0;
            parity ^= 1;
        }
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
    Position<Tiling> position;
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
    Position<Tiling> position;
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

// The half of a tile that a consumer has.
struct HalfTile {
    uint32_t row;       // of the tile's rows, 0 or HALF_ROWS
    uint32_t num_rows;  // that are real, at most HALF_ROWS
    uint32_t column;
};

// The two panels of a consumer, and its threads' places in them.
struct Panels {
    uint32_t start;    // from the start of shared memory
    uint32_t barrier;  // the consumer's own
    uint32_t row;      // whose address this lane gives to loads and stores of matrices
    uint32_t unit;     // the higher bit of the unit
    bool is_storer;    // the one thread that issues copies

    __device__ __forceinline__ explicit Panels(uint32_t start) : start(start) {
        const uint32_t lane = threadIdx.x % 32;
        const uint32_t warp = threadIdx.x % WARPGROUP_THREADS / 32;
        barrier = FIRST_CONSUMER_BARRIER + threadIdx.x / WARPGROUP_THREADS;
        row = 16 * warp + lane % 16;
        unit = lane / 16;
        is_storer = warp == 0 && elect_one();
    }

    __device__ __forceinline__ uint32_t address(uint32_t panel) const {
        return shared_address(dynamic_shared() + start) + panel * PANEL_BYTES;
    }

    // Where this lane's row of matrices lies: rows 0 to 7 and 8 to 15 of its warp's, units 2 * pair and 2 * pair + 1.
    __device__ __forceinline__ uint32_t matrix_row(uint32_t panel, uint32_t pair) const {
        const uint32_t place = row * SWIZZLED_ROW_BYTES + (2 * pair + unit) * 16;
        return address(panel) + swizzled(Swizzle::bytes_128, place);
    }

    // All threads of the consumer are here: what each did to the panels comes before what the others do next, copies
    // included.
    __device__ __forceinline__ void sync() const {
        fence_proxy_async();
        named_barrier_sync(barrier, WARPGROUP_THREADS);
    }

    // The same, and all copies from the panels have read them.
    __device__ __forceinline__ void sync_after_stores() const {
        if (is_storer) {
            store_tensor_wait_read<0>();
        }
        sync();
    }

    // A panel's first rows and columns to where `destination(row)` says, nullptr for nowhere. After a sync.
    template <class T, class Destination>
    __device__ __forceinline__ void copy_rows(uint32_t panel, uint32_t num_columns, const Destination& destination) const {
        const uint32_t first = threadIdx.x % WARPGROUP_THREADS / PANEL_UNITS;
        const uint32_t column = threadIdx.x % PANEL_UNITS * UNIT_COLUMNS;
        const uint8_t* const bytes = dynamic_shared() + start + panel * PANEL_BYTES;
        for (uint32_t own_row = first; own_row < HALF_ROWS; own_row += WARPGROUP_THREADS / PANEL_UNITS) {
            T* const target = destination(own_row);
            if (target == nullptr || column >= num_columns) {
                continue;
            }
            const uint32_t place = swizzled(Swizzle::bytes_128, own_row * SWIZZLED_ROW_BYTES + column * 2);
            const uint4 vector = *reinterpret_cast<const uint4*>(bytes + place);
            if (column + UNIT_COLUMNS <= num_columns && reinterpret_cast<uintptr_t>(target + column) % 16 == 0) {
                *reinterpret_cast<uint4*>(target + column) = vector;
                continue;
            }
            const uint32_t pairs[] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
            for (uint32_t i = 0; i < UNIT_COLUMNS; ++i) {
                if (column + i < num_columns) {
                    target[column + i] = T{static_cast<uint16_t>(pairs[i / 2] >> 16 * (i % 2))};
                }
            }
        }
    }
};

// Rows of an output that a map describes, from the panels.
template <class T>
struct RowStore {
    const TensorMap& map;
    T* output;
    uint32_t outputs;
    uint32_t stride;

    // After a sync.
    __device__ __forceinline__ void store(const Panels& panels, uint32_t panel, const HalfTile& half, uint32_t first_row,
                                          uint32_t column) const {
        if (half.num_rows == HALF_ROWS) {
            if (panels.is_storer) {
                store_tensor(&map, panels.address(panel), static_cast<int32_t>(column), static_cast<int32_t>(first_row));
                store_tensor_commit();
            }
            return;
        }
        const uint32_t num_columns = outputs - min(outputs, column);
        panels.copy_rows<T>(panel, num_columns, [&](uint32_t row) {
            T* const start = output + static_cast<uint64_t>(first_row + row) * stride + column;
            return row < half.num_rows ? start : nullptr;
        });
    }
};

// Two neighbouring values of an array of f32 whose start is aligned to both; zeros from `len` on.
__device__ __forceinline__ float2 load_pair(const float* values, uint32_t first, uint32_t len) {
    if (first + 1 < len) {
        return *reinterpret_cast<const float2*>(values + first);
    }
    return make_float2(first < len ? values[first] : 0.0f, 0.0f);
}

// The column of the first of a lane's two neighbours in this unit of a half tile.
__device__ __forceinline__ uint32_t pair_column(const HalfTile& half, uint32_t unit) {
    return half.column + UNIT_COLUMNS * unit + 2 * (threadIdx.x % 4);
}

// Finishes a half tile, panel by panel: `finish.columns(column)` loads what a pair of columns needs, a panel ahead;
// `finish.value(columns, half_row, sums)` makes two values of row half_row * 8 of the lane's; `finish.store(panel,
// column)` sends a panel off.
template <class T, class Tiling, class Finish>
__device__ __forceinline__ void finish_panels(const Sums<Tiling>& sums, const Panels& panels, const HalfTile& half,
                                              const Finish& finish) {
    typename Finish::Columns columns[Tiling::panels][PANEL_UNITS];
    const auto load = [&](uint32_t panel) {
#pragma unroll
        for (uint32_t unit = 0; unit < PANEL_UNITS; ++unit) {
            columns[panel][unit] = finish.columns(pair_column(half, panel * PANEL_UNITS + unit));
        }
    };
    load(0);
#pragma unroll
    for (uint32_t panel = 0; panel < Tiling::panels; ++panel) {
        if (panel + 1 < Tiling::panels) {
            load(panel + 1);
        }
#pragma unroll
        for (uint32_t pair = 0; pair < PANEL_UNITS / 2; ++pair) {
            uint32_t matrices[4];
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) {
                const uint32_t unit = 2 * pair + i / 2;
                const uint32_t first = 4 * (panel * PANEL_UNITS + unit) + 2 * (i % 2);
                const float2 value =
                    finish.value(columns[panel][unit], i % 2, make_float2(sums[first], sums[first + 1]));
                matrices[i] = narrow_pair<T>(value.x, value.y);
            }
            store_matrices(panels.matrix_row(panel % PANELS, pair), matrices);
        }
        // All of the panel is written before it is stored, and the other one has been read before it is written again.
        panels.sync_after_stores();
        finish.store(panel % PANELS, half.column + panel * HOPPER_GEMM_PANEL);
    }
}

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
