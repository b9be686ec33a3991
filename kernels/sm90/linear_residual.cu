// linear_residual of Hopper: output = residual + gate * (input * weight^T + bias), and the moments of the output's rows,
// which the norm that comes next is made of.
//
// Shapes: input [rows, inputs], weight [C, inputs], residual and output [rows, C], moments [rows, ceil(C /
// MOMENTS_COLUMNS)]; launch as sm90/gemm.cuh has it. Sums in f32, rounded once; moments in f32, of the rounded values.
// 2 * rows * inputs * C FLOPs; moves each matrix once.
//
// A consumer's two panels are just a group of columns with moments of its own. The first group's residual is loaded while
// the products go on. Where a tile has two groups, the second's is loaded as soon as the first's has been read into
// registers, where the first's result then waits until the second's has gone by the panels: no load is waited for in
// full. A consumer reads of the residual what it writes of the output, before it writes it, so the two may be one.
#include <stdint.h>

#include <abi.h>
#include <ptx.cuh>
#include <row_moments.cuh>
#include <sm90/gemm.cuh>
#include <sm90/hopper.cuh>

constexpr uint32_t GROUP_UNITS = MOMENTS_COLUMNS / UNIT_COLUMNS;

template <class T, class Tiling>
struct AddRows {
    static_assert(PANELS * HOPPER_GEMM_PANEL == MOMENTS_COLUMNS, "two panels are a group");
    static constexpr uint32_t groups = Tiling::columns / MOMENTS_COLUMNS;
    static_assert(groups <= 2, "one group's result waits in registers");

    // A lane's elements of a group: two neighbours in each word, a word for each of its rows, unit by unit.
    using Words = uint32_t[2 * GROUP_UNITS];

    const HopperLinearResidualParams& params;
    const Panels& panels;
    uint32_t loaded;  // a barrier
    uint32_t parity;
    RowStore<T> rows;

    __device__ __forceinline__ AddRows(const HopperLinearResidualParams& params, const Panels& panels, uint32_t loaded)
        : params(params),
          panels(panels),
          loaded(loaded),
          parity(0),
          rows(params) {}

    // Sends a group's residual on its way. The storer, when nobody uses the panels.
    __device__ __forceinline__ void load(uint32_t row, uint32_t column) const {
        mbarrier_arrive_expect(loaded, PANELS * PANEL_BYTES);
#pragma unroll
        for (uint32_t panel = 0; panel < PANELS; ++panel) {
            load_tensor(panels.address(panel), &params.residual, loaded,
                        static_cast<int32_t>(column + panel * HOPPER_GEMM_PANEL), static_cast<int32_t>(row));
        }
    }

    __device__ __forceinline__ void start(const RowTile& tile, const HalfTile& half) {
        if (panels.is_storer) {
            // The last tile's stores read the panels before the loads that overwrite them.
            store_tensor_wait_read<0>();
            load(tile.first_row + half.row, half.column);
        }
    }

    __device__ __forceinline__ void finish(const Sums<Tiling>& sums, const RowTile& tile, const HalfTile& half) {
        const uint32_t row = tile.first_row + half.row;
        Words words[groups];
        read(words[0]);
        if (groups == 2) {
            // All of the first group's residual is read before the second's overwrites it.
            panels.sync();
            if (panels.is_storer) {
                load(row, half.column + MOMENTS_COLUMNS);
            }
        }
        add<0>(words[0], sums, row, half);
        if (groups == 2) {
            read(words[groups - 1]);
            add<groups - 1>(words[groups - 1], sums, row, half);
            store(words[groups - 1], row, half, half.column + MOMENTS_COLUMNS);
            // The second group has left the panels before the first is written there.
            panels.sync_after_stores();
        }
        store(words[0], row, half, half.column);
        if (half.num_rows != HALF_ROWS) {
            // All plain stores have read the panels before the next loads overwrite them.
            panels.sync();
        }
    }

    // This lane's elements of what was loaded.
    __device__ __forceinline__ void read(Words& words) {
        mbarrier_wait(loaded, parity);
        parity ^= 1;
#pragma unroll
        for (uint32_t pair = 0; pair < GROUP_UNITS / 2; ++pair) {
            uint32_t matrices[4];
            load_matrices(matrices, panels.matrix_row(pair / (PANEL_UNITS / 2), pair % (PANEL_UNITS / 2)));
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) {
                words[4 * pair + i] = matrices[i];
            }
        }
    }

    // Residual to output, rounded, and its moments.
    template <uint32_t group>
    __device__ __forceinline__ void add(Words& words, const Sums<Tiling>& sums, uint32_t row, const HalfTile& half) const {
        const LinearResidualParams& plain = params.plain;
        const uint32_t biased = plain.bias == nullptr ? 0 : plain.outputs;
        float totals[2] = {0.0f, 0.0f};
#pragma unroll
        for (uint32_t i = 0; i < 2 * GROUP_UNITS; ++i) {
            const uint32_t first = 2 * (group * 2 * GROUP_UNITS + i);
            const float2 bias = load_pair(plain.bias, pair_column(half, group * GROUP_UNITS + i / 2), biased);
            const float2 residual = widen_pair<T>(words[i]);
            const float low = fmaf(plain.gate, sums[first] + bias.x, residual.x);
            const float high = fmaf(plain.gate, sums[first + 1] + bias.y, residual.y);
            words[i] = narrow_pair<T>(low, high);
            // Columns that do not exist are zeros of the residual, the sum and the bias.
            const float2 rounded = widen_pair<T>(words[i]);
            totals[i % 2] += rounded.x + rounded.y;
        }
        const uint32_t start = half.column + group * MOMENTS_COLUMNS;
        if (plain.moments == nullptr || start >= plain.outputs) {
            return;
        }
        const uint32_t len = min(MOMENTS_COLUMNS, plain.outputs - start);
        RowMoments moments[2];
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
            moments[i].mean = row_sum(totals[i]) / static_cast<float>(len);
        }
        if (len == MOMENTS_COLUMNS) {
            deviations<group, true>(moments, words, half);
        } else {
            deviations<group, false>(moments, words, half);
        }
        const uint32_t own = threadIdx.x % WARPGROUP_THREADS / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
            if (threadIdx.x % 4 == 0 && own + 8 * i < half.num_rows) {
                const uint64_t groups_before = static_cast<uint64_t>(row + own + 8 * i) * num_moments(plain.outputs);
                plain.moments[groups_before + start / MOMENTS_COLUMNS] = moments[i];
            }
        }
    }

    // The sum over the four lanes that have a row.
    __device__ __forceinline__ static float row_sum(float value) {
        value += __shfl_xor_sync(0xffffffffu, value, 1);
        return value + __shfl_xor_sync(0xffffffffu, value, 2);
    }

    // The second pass: squares of deviations from the means.
    template <uint32_t group, bool is_whole>
    __device__ __forceinline__ void deviations(RowMoments (&moments)[2], const Words& words, const HalfTile& half) const {
        float squares[2] = {0.0f, 0.0f};
#pragma unroll
        for (uint32_t i = 0; i < 2 * GROUP_UNITS; ++i) {
            const uint32_t column = pair_column(half, group * GROUP_UNITS + i / 2);
            const float2 values = widen_pair<T>(words[i]);
            const float mean = moments[i % 2].mean;
            const float low = is_whole || column < params.plain.outputs ? values.x - mean : 0.0f;
            const float high = is_whole || column + 1 < params.plain.outputs ? values.y - mean : 0.0f;
            squares[i % 2] = fmaf(high, high, fmaf(low, low, squares[i % 2]));
        }
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
            moments[i].squares = row_sum(squares[i]);
        }
    }

    // A group through the panels, which nobody else uses.
    __device__ __forceinline__ void store(const Words& words, uint32_t row, const HalfTile& half, uint32_t column) const {
#pragma unroll
        for (uint32_t pair = 0; pair < GROUP_UNITS / 2; ++pair) {
            const uint32_t matrices[4] = {words[4 * pair], words[4 * pair + 1], words[4 * pair + 2], words[4 * pair + 3]};
            store_matrices(panels.matrix_row(pair / (PANEL_UNITS / 2), pair % (PANEL_UNITS / 2)), matrices);
        }
        // Both panels are written before they are stored.
        panels.sync();
#pragma unroll
        for (uint32_t panel = 0; panel < PANELS; ++panel) {
            rows.store(panels, panel, half, row, column + panel * HOPPER_GEMM_PANEL);
        }
    }
};

template <class T, class Tiling>
__device__ __forceinline__ void linear_residual(const HopperLinearResidualParams& params) {
    gemm<T, Tiling, Operands<HopperLinearResidualParams>, AddRows<T, Tiling>>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) linear_residual_bf16_128x256(const __grid_constant__ HopperLinearResidualParams params) {
    linear_residual<Bf16, Tiling128x256>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) linear_residual_fp16_128x256(const __grid_constant__ HopperLinearResidualParams params) {
    linear_residual<Fp16, Tiling128x256>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) linear_residual_bf16_128x128(const __grid_constant__ HopperLinearResidualParams params) {
    linear_residual<Bf16, Tiling128x128>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) linear_residual_fp16_128x128(const __grid_constant__ HopperLinearResidualParams params) {
    linear_residual<Fp16, Tiling128x128>(params);
}
