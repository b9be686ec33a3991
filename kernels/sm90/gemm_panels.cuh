// How the sums of the Hopper kernels' matrix product leave: through panels of 64 rows and 64 columns in shared memory,
// two for each consumer in turn, by TMA; a half tile with rows that are not real by plain stores, for what is beyond the
// rows must stay as it is.
#pragma once
#include <stdint.h>

#include <abi.h>
#include <ptx.cuh>
#include <sm90/gemm_tiling.cuh>
#include <sm90/hopper.cuh>

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

    template <class Params>
    __device__ __forceinline__ explicit RowStore(const Params& params)
        : map(params.output),
          output(static_cast<T*>(params.plain.output)),
          outputs(params.plain.outputs),
          stride(params.plain.output_stride) {}

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
