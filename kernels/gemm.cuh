// The matrix product of the portable kernels (sm_80 and up): a block computes one tile of input * weight^T, both
// row-major in their K, and hands the f32 sums to what the kernel does with them, eight columns of a row at a time.
//
// Both operands pass through shared memory in slabs of GEMM_DEPTH columns of K, GEMM_STAGES of them under way at a time
// ("cp.async"); warps load fragments ("ldmatrix") one step ahead of the tensor cores ("mma.m16n8k16"). An element's sum
// takes K in steps of 16 from the first to the last, the last padded with zeros, in every tiling: tilings differ in
// speed only, never in bits. So no tiling splits K.
//
// Launch: grid [row tiles of a group, column tiles, groups of row tiles], block Tiling::threads, shared memory
// Tiling::pipeline_bytes and what the kernel keeps behind it. Blocks that run at the same time make a tile of tiles, a
// group down and as many column tiles as fit: their operands are read from L2, not from memory.
#pragma once
#include <stdint.h>

#include <abi.h>
#include <ptx.cuh>
#include <row_columns.cuh>

// 16 bytes, the unit of copies and of the swizzle, in elements; and how many make a row of a slab.
constexpr uint32_t CHUNK = 8;
constexpr uint32_t SLAB_CHUNKS = GEMM_DEPTH / CHUNK;
constexpr uint32_t SLAB_ROW_BYTES = 2 * GEMM_DEPTH;

// Sums leave registers for shared memory in passes of 32 rows of every warp: 64 KiB at most, within the slabs' own
// memory.
constexpr uint32_t PASS_ROWS = 32;

template <uint32_t tile_rows, uint32_t tile_columns, uint32_t rows_of_warp, uint32_t columns_of_warp>
struct GemmTiling {
    static constexpr uint32_t rows = tile_rows;
    static constexpr uint32_t columns = tile_columns;
    static constexpr uint32_t warp_rows = rows_of_warp;
    static constexpr uint32_t warp_columns = columns_of_warp;

    static constexpr uint32_t warps_down = rows / warp_rows;
    static constexpr uint32_t warps_across = columns / warp_columns;
    static constexpr uint32_t threads = 32 * warps_down * warps_across;
    static constexpr uint32_t row_fragments = warp_rows / 16;
    static constexpr uint32_t column_fragments = warp_columns / 8;

    // A stage is a slab of the input, then a slab of the weight.
    static constexpr uint32_t weight_slab = rows * SLAB_ROW_BYTES;
    static constexpr uint32_t stage_bytes = (rows + columns) * SLAB_ROW_BYTES;
    static constexpr uint32_t pipeline_bytes = GEMM_STAGES * stage_bytes;

    static constexpr uint32_t passes = warp_rows / PASS_ROWS;
    static constexpr uint32_t staged_rows = warps_down * PASS_ROWS;
    static constexpr uint32_t row_lanes = columns / LANE_COLUMNS;
    static constexpr uint32_t rows_at_once = threads / row_lanes;
    static constexpr uint32_t rows_a_thread = staged_rows / rows_at_once;

    static_assert(rows % warp_rows == 0 && columns % warp_columns == 0, "warps share a tile without rest");
    static_assert(warp_rows % PASS_ROWS == 0 && warp_columns % 16 == 0, "a load of weights is two fragments wide");
    static_assert(rows % (threads / SLAB_CHUNKS) == 0, "threads share the input's slab evenly");
    static_assert(columns % (threads / SLAB_CHUNKS) == 0, "threads share the weight's slab evenly");
    static_assert(threads / SLAB_CHUNKS % 8 == 0, "a thread's copies have one place in the swizzle");
    static_assert(columns % MOMENTS_COLUMNS == 0, "moments are made within a block");
    static_assert(PASS_ROWS % rows_at_once == 0, "a thread's rows follow from one");
    static_assert(staged_rows * columns * sizeof(float) <= pipeline_bytes, "a pass fits where the slabs were");
};

// What limits a tile is its traffic. From shared memory a warp of 64x64 loads 4 KiB for each 16 of K, 64x32 would load
// as much as 3 KiB for half the work, more than an SM delivers at the tensor cores' pace; 64x64 takes 128 registers for
// sums, so an SM holds 8 such warps. They make one block of 128x256, with the least traffic from L2; or two blocks of
// 128x128, of which one computes while the other starts or finishes. Where that leaves SMs idle, 64x128.
using Gemm128x256 = GemmTiling<128, 256, 64, 64>;
using Gemm128x128 = GemmTiling<128, 128, 64, 64>;
using Gemm64x128 = GemmTiling<64, 128, 32, 64>;

// A warp's share of the tile, as fragments.
template <class Tiling>
using Sums = float[Tiling::row_fragments][Tiling::column_fragments][4];

// The operands of one step of 16 in K.
template <class Tiling>
struct Fragments {
    uint32_t input[Tiling::row_fragments][4];
    uint32_t weight[Tiling::column_fragments / 2][4];
};

// Where this block's tile starts.
template <class Tiling>
__device__ __forceinline__ uint32_t tile_row() {
    return (blockIdx.z * gridDim.x + blockIdx.x) * Tiling::rows;
}

template <class Tiling>
__device__ __forceinline__ uint32_t tile_column() {
    return blockIdx.y * Tiling::columns;
}

__device__ __forceinline__ uint32_t ceil_div(uint32_t dividend, uint32_t divisor) {
    return (dividend + divisor - 1) / divisor;
}

// Where a chunk of a slab's row lies, in bytes: two rows share 128 bytes, all banks, and the swizzle makes eight rows'
// chunks of one number lie in eight different places of them, so that neither copies nor loads meet in a bank.
__device__ __forceinline__ uint32_t slab_offset(uint32_t row, uint32_t chunk) {
    return row * SLAB_ROW_BYTES + (chunk ^ (row >> 1 & (SLAB_CHUNKS - 1))) * 16;
}

// This thread's share of the copies of one operand: the same chunk of every rows_apart-th row of its slabs.
template <class T, class Tiling, uint32_t rows>
struct SlabCopies {
    static constexpr uint32_t rows_apart = Tiling::threads / SLAB_CHUNKS;
    static constexpr uint32_t count = rows / rows_apart;

    const T* sources[count];

    __device__ __forceinline__ static uint32_t chunk() { return threadIdx.x % SLAB_CHUNKS; }

    // The row of the matrix that copy i reads. Rows past the last repeat it: what they give is never stored.
    __device__ __forceinline__ static uint32_t row(uint32_t i, uint32_t first_row, uint32_t num_rows) {
        return min(first_row + threadIdx.x / SLAB_CHUNKS + i * rows_apart, num_rows - 1);
    }

    // Sets copy i to the first slab of a row of K.
    __device__ __forceinline__ void start(uint32_t i, const T* matrix, uint32_t row, uint32_t stride) {
        sources[i] = matrix + static_cast<uint64_t>(row) * stride + chunk() * CHUNK;
    }

    __device__ __forceinline__ void start(const T* matrix, uint32_t stride, uint32_t first_row, uint32_t num_rows) {
#pragma unroll
        for (uint32_t i = 0; i < count; ++i) {
            start(i, matrix, row(i, first_row, num_rows), stride);
        }
    }

    // Copies a slab, of whose columns the first num_columns exist, and moves on to the next.
    __device__ __forceinline__ void copy(uint32_t slab, uint32_t num_columns) {
        const uint32_t before = min(num_columns, chunk() * CHUNK);
        const uint32_t num_bytes = 2 * min(num_columns - before, CHUNK);
        const uint32_t destination = slab + slab_offset(threadIdx.x / SLAB_CHUNKS, chunk());
#pragma unroll
        for (uint32_t i = 0; i < count; ++i) {
            copy_async(destination + i * rows_apart * SLAB_ROW_BYTES, sources[i], num_bytes);
            sources[i] += GEMM_DEPTH;
        }
    }
};

// The slabs of one matrix and one weight, in order; a kernel with others brings a type with the same two functions.
template <class T, class Tiling>
struct Operands {
    SlabCopies<T, Tiling, Tiling::rows> input;
    SlabCopies<T, Tiling, Tiling::columns> weight;
    uint32_t columns_left;

    // Slabs there are.
    __device__ __forceinline__ static uint32_t num_slabs(uint32_t inputs) { return ceil_div(inputs, GEMM_DEPTH); }

    // Copies the next slabs into a stage.
    __device__ __forceinline__ void copy(uint32_t stage) {
        input.copy(stage, columns_left);
        weight.copy(stage + Tiling::weight_slab, columns_left);
        columns_left -= min(columns_left, GEMM_DEPTH);
    }
};

template <class T, class Tiling, class Params>
__device__ __forceinline__ Operands<T, Tiling> operands_of(const Params& params, uint32_t num_rows) {
    Operands<T, Tiling> operands;
    operands.input.start(static_cast<const T*>(params.input), params.input_stride, tile_row<Tiling>(), num_rows);
    operands.weight.start(
        static_cast<const T*>(params.weight), params.weight_stride, tile_column<Tiling>(), params.outputs);
    operands.columns_left = params.inputs;
    return operands;
}

// Sends the first slabs on their way. What a kernel reads besides, it reads now, while they travel.
template <class Tiling, class Slabs>
__device__ __forceinline__ void start_pipeline(Slabs& slabs, uint32_t num_slabs) {
    const uint32_t stages = shared_address(dynamic_shared());
#pragma unroll
    for (uint32_t slab = 0; slab < GEMM_STAGES - 1; ++slab) {
        if (slab < num_slabs) {
            slabs.copy(stages + slab * Tiling::stage_bytes);
        }
        copy_async_commit();
    }
}

// Which share of the tile is this warp's.
template <class Tiling>
__device__ __forceinline__ uint32_t warp_tile_row() {
    return threadIdx.x / 32 / Tiling::warps_across * Tiling::warp_rows;
}

template <class Tiling>
__device__ __forceinline__ uint32_t warp_tile_column() {
    return threadIdx.x / 32 % Tiling::warps_across * Tiling::warp_columns;
}

// What each lane adds to a stage's address to load its row of the fragments of one step of K.
template <class Tiling>
struct FragmentOffsets {
    uint32_t input;
    uint32_t weight;

    // Matrices in the order of multiply_add's a[0] to a[3]; and for the weight b0 and b1 of one fragment, then of the
    // next.
    __device__ __forceinline__ explicit FragmentOffsets(uint32_t step) {
        const uint32_t lane = threadIdx.x % 32;
        input = slab_offset(warp_tile_row<Tiling>() + lane % 16, 2 * step + lane / 16);
        const uint32_t weight_row = warp_tile_column<Tiling>() + lane / 16 * 8 + lane % 8;
        weight = Tiling::weight_slab + slab_offset(weight_row, 2 * step + lane / 8 % 2);
    }
};

template <class Tiling>
__device__ __forceinline__ void load_fragments(
    Fragments<Tiling>& fragments, uint32_t stage, const FragmentOffsets<Tiling>& offsets) {
#pragma unroll
    for (uint32_t i = 0; i < Tiling::row_fragments; ++i) {
        load_matrices(fragments.input[i], stage + offsets.input + i * 16 * SLAB_ROW_BYTES);
    }
#pragma unroll
    for (uint32_t j = 0; j < Tiling::column_fragments / 2; ++j) {
        load_matrices(fragments.weight[j], stage + offsets.weight + j * 16 * SLAB_ROW_BYTES);
    }
}

template <class T, class Tiling>
__device__ __forceinline__ void multiply_add(Sums<Tiling>& sums, const Fragments<Tiling>& fragments) {
#pragma unroll
    for (uint32_t i = 0; i < Tiling::row_fragments; ++i) {
#pragma unroll
        for (uint32_t j = 0; j < Tiling::column_fragments; ++j) {
            const uint32_t(&weight)[4] = fragments.weight[j / 2];
            multiply_add<T>(sums[i][j], fragments.input[i], weight[j % 2 * 2], weight[j % 2 * 2 + 1]);
        }
    }
}

// The product of a tile, after start_pipeline. All threads; shared memory is free for other use when it returns, and
// what was written behind the pipeline before is visible to all.
template <class T, class Tiling, class Slabs>
__device__ __forceinline__ void multiply(Sums<Tiling>& sums, Slabs& slabs, uint32_t num_slabs) {
    static_assert(GEMM_DEPTH == 32, "a slab is two steps of 16");
    const uint32_t first_stage = shared_address(dynamic_shared());
    const uint32_t last_stage = first_stage + (GEMM_STAGES - 1) * Tiling::stage_bytes;
    const FragmentOffsets<Tiling> offsets[2] = {FragmentOffsets<Tiling>(0), FragmentOffsets<Tiling>(1)};
    uint32_t stage = first_stage;
    uint32_t free_stage = last_stage;
    Fragments<Tiling> fragments[2];
#pragma unroll
    for (uint32_t i = 0; i < Tiling::row_fragments; ++i) {
#pragma unroll
        for (uint32_t j = 0; j < Tiling::column_fragments; ++j) {
#pragma unroll
            for (uint32_t k = 0; k < 4; ++k) {
                sums[i][j][k] = 0.0f;
            }
        }
    }

    copy_async_wait<GEMM_STAGES - 2>();
    // Every thread's copies of the first slabs before all threads' loads from them.
    __syncthreads();
    load_fragments(fragments[0], stage, offsets[0]);
    for (uint32_t slab = 0; slab < num_slabs; ++slab) {
        load_fragments(fragments[1], stage, offsets[1]);
        if (slab + GEMM_STAGES - 1 < num_slabs) {
            slabs.copy(free_stage);
        }
        copy_async_commit();
        multiply_add<T, Tiling>(sums, fragments[0]);

        free_stage = stage;
        stage = stage == last_stage ? first_stage : stage + Tiling::stage_bytes;
        copy_async_wait<GEMM_STAGES - 2>();
        // Every thread's copies of the next slabs before all threads' loads from them; and all loads from this stage
        // before the copies that overwrite it.
        __syncthreads();
        if (slab + 1 < num_slabs) {
            load_fragments(fragments[0], stage, offsets[0]);
        }
        multiply_add<T, Tiling>(sums, fragments[1]);
    }
}

// Where four columns of a row of sums lie in shared memory, in units of 16 bytes. The first swizzle sets every other
// eight of them off by one, so that lanes that read every second meet in no bank; the other sets rows off, so that the
// rows of a fragment do not.
template <class Tiling>
__device__ __forceinline__ uint32_t staged(uint32_t row, uint32_t four) {
    return row * (Tiling::columns / 4) + (four ^ (four >> 3 & 1) ^ (row & 3) << 1);
}

// The columns that this thread finishes, LANE_COLUMNS from this one on: GROUP_LANES lanes in a row hold a group.
template <class Tiling>
__device__ __forceinline__ uint32_t finished_column() {
    return tile_column<Tiling>() + threadIdx.x % Tiling::row_lanes * LANE_COLUMNS;
}

// Calls for every row of the tile `finish.read(row)` and later `finish.write(row, sums, read)`, with the sums of the
// columns from finished_column on. All threads, after `multiply`; rows and columns that do not exist are among them,
// and all lanes of a warp are in a call. A pass's reads are under way before its first write.
template <class Tiling, class Finish>
__device__ __forceinline__ void finish_tile(const Sums<Tiling>& sums, const Finish& finish) {
    float* const staging = reinterpret_cast<float*>(dynamic_shared());
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t fragment_row = warp_tile_row<Tiling>() / Tiling::warp_rows * PASS_ROWS + lane / 4;
    const uint32_t fragment_four = warp_tile_column<Tiling>() / 4 + lane % 4 / 2;
    const uint32_t first_row = threadIdx.x / Tiling::row_lanes;
    const uint32_t four = threadIdx.x % Tiling::row_lanes * (LANE_COLUMNS / 4);
#pragma unroll
    for (uint32_t pass = 0; pass < Tiling::passes; ++pass) {
        // The row of the output whose sums are staged in this row.
        const auto output_row = [pass](uint32_t row) {
            return tile_row<Tiling>() + row / PASS_ROWS * Tiling::warp_rows + pass * PASS_ROWS + row % PASS_ROWS;
        };
        typename Finish::Read reads[Tiling::rows_a_thread];
#pragma unroll
        for (uint32_t i = 0; i < Tiling::rows_a_thread; ++i) {
            reads[i] = finish.read(output_row(first_row + i * Tiling::rows_at_once));
        }
        if (pass > 0) {
            // All loads of the last pass's sums before this one's overwrite them.
            __syncthreads();
        }
#pragma unroll
        for (uint32_t i = 0; i < PASS_ROWS / 8; ++i) {
            const float(&fragments)[Tiling::column_fragments][4] = sums[pass * (PASS_ROWS / 16) + i / 2];
#pragma unroll
            for (uint32_t j = 0; j < Tiling::column_fragments; ++j) {
                float* const place = staging + 4 * staged<Tiling>(fragment_row + i * 8, fragment_four + j * 2);
                const float2 pair = make_float2(fragments[j][i % 2 * 2], fragments[j][i % 2 * 2 + 1]);
                *reinterpret_cast<float2*>(place + lane % 2 * 2) = pair;
            }
        }
        // All sums of the pass before they are loaded by rows.
        __syncthreads();
#pragma unroll (Finish::unrolled_rows)
        for (uint32_t i = 0; i < Tiling::rows_a_thread; ++i) {
            const uint32_t row = first_row + i * Tiling::rows_at_once;
            const float4 low = reinterpret_cast<const float4*>(staging)[staged<Tiling>(row, four)];
            const float4 high = reinterpret_cast<const float4*>(staging)[staged<Tiling>(row, four + 1)];
            float values[LANE_COLUMNS] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
            finish.write(output_row(row), values, reads[i]);
        }
    }
}

// Of a kernel that writes rows and reads none.
struct NoRead {};
