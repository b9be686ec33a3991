// projection of Hopper: embeddings = [head | hidden state 0 | hidden state 1 | ...] * weight^T + bias. The states are read
// where they lie, one after another along K; rows that stand for several equal ones are stored to all their places.
//
// Shapes: head [rows of the gated layers, C], hidden states [rows of the transformer, C], at most HOPPER_PROJECTION_STATES
// together, weight [states, E, C], embeddings [output rows, E] without gaps, at an address that only the descriptor
// knows, so that no map describes them; launch as sm90/gemm.cuh has it, a ProjectionItem a row tile. f32 sums, rounded
// once. 2 * rows * states * C * E FLOPs; moves every state, the weight and the embeddings once.
#include <stdint.h>

#include <abi.h>
#include <ptx.cuh>
#include <sm90/gemm.cuh>
#include <sm90/hopper.cuh>

// The slabs of all states. A state's last slab is filled up with zeros, so that no slab has columns of two.
struct StateOperands {
    const HopperProjectionParams& params;
    uint32_t num_items;
    uint32_t state_slabs;

    __device__ __forceinline__ explicit StateOperands(const HopperProjectionParams& params)
        : params(params),
          num_items(params.batch->num_projection_items),
          state_slabs(ceil_div(params.width, HOPPER_GEMM_DEPTH)) {
        prefetch_tensor_map(&params.weight);
        for (uint32_t state = 0; state < params.num_states; ++state) {
            prefetch_tensor_map(&params.states[state]);
        }
    }

    __device__ __forceinline__ uint32_t row_tiles() const { return num_items; }
    __device__ __forceinline__ uint32_t outputs() const { return params.outputs; }
    __device__ __forceinline__ uint32_t num_slabs() const { return params.num_states * state_slabs; }
    __device__ __forceinline__ ProjectionItem row_tile(uint32_t number) const { return params.items[number]; }

    __device__ __forceinline__ void load_input(uint32_t destination, uint32_t barrier, const ProjectionItem& rows,
                                               uint32_t slab) const {
        const uint32_t state = slab / state_slabs;
        const uint32_t column = (slab - state * state_slabs) * HOPPER_GEMM_DEPTH;
        const uint32_t row = state == 0 ? rows.head_row : rows.hidden_row;
        load_tensor(destination, &params.states[state], barrier, static_cast<int32_t>(column), static_cast<int32_t>(row));
    }

    __device__ __forceinline__ void load_weight(uint32_t destination, uint32_t barrier, uint32_t output,
                                                uint32_t slab) const {
        const uint32_t state = slab / state_slabs;
        const uint32_t column = (slab - state * state_slabs) * HOPPER_GEMM_DEPTH;
        load_tensor(destination, &params.weight, barrier, static_cast<int32_t>(column), static_cast<int32_t>(output),
                    static_cast<int32_t>(state));
    }
};

template <class T, class Tiling>
struct StoreCopies {
    // Of one half tile.
    struct Panel {
        using Columns = float2;

        const StoreCopies& all;
        const ProjectionItem& item;
        const HalfTile& half;

        __device__ __forceinline__ Columns columns(uint32_t column) const {
            return load_pair(all.params.bias, column, all.params.outputs);
        }

        __device__ __forceinline__ float2 value(Columns bias, uint32_t, float2 sums) const {
            return make_float2(sums.x + bias.x, sums.y + bias.y);
        }

        __device__ __forceinline__ void store(uint32_t panel, uint32_t column) const {
            const uint32_t outputs = all.params.outputs;
            T* const embeddings = static_cast<T*>(all.params.batch->embeddings);
            for (uint32_t copy = 0; copy < item.copies; ++copy) {
                const uint64_t first = item.output_row + half.row + static_cast<uint64_t>(copy) * all.params.tokens;
                all.panels.template copy_rows<T>(panel, outputs - min(outputs, column), [&](uint32_t row) {
                    T* const start = embeddings + (first + row) * outputs + column;
                    return row < half.num_rows ? start : nullptr;
                });
            }
        }
    };

    const HopperProjectionParams& params;
    const Panels& panels;

    __device__ __forceinline__ StoreCopies(const HopperProjectionParams& params, const Panels& panels, uint32_t)
        : params(params), panels(panels) {}

    __device__ __forceinline__ void start(const ProjectionItem&, const HalfTile&) {}

    __device__ __forceinline__ void finish(const Sums<Tiling>& sums, const ProjectionItem& item,
                                           const HalfTile& half) const {
        finish_panels<T, Tiling>(sums, panels, half, Panel{*this, item, half});
    }
};

template <class T, class Tiling>
__device__ __forceinline__ void projection(const HopperProjectionParams& params) {
    gemm<T, Tiling, StateOperands, StoreCopies<T, Tiling>>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) projection_bf16_128x256(const __grid_constant__ HopperProjectionParams params) {
    projection<Bf16, Tiling128x256>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) projection_fp16_128x256(const __grid_constant__ HopperProjectionParams params) {
    projection<Fp16, Tiling128x256>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) projection_bf16_128x128(const __grid_constant__ HopperProjectionParams params) {
    projection<Bf16, Tiling128x128>(params);
}

extern "C" __global__ void __launch_bounds__(384, 1) projection_fp16_128x128(const __grid_constant__ HopperProjectionParams params) {
    projection<Fp16, Tiling128x128>(params);
}
