// Kernels of the simulator's own tests, no part of the engine: a product of two matrices by load_tensor and wgmma, a
// producer warp and a consumer warpgroup with two stages between them; and what goes wrong where a wait is left out.
#include <stdint.h>

#include <abi.h>
#include <ptx.cuh>
#include <sm90/hopper.cuh>

// What is left out; zero is nothing.
constexpr uint32_t FULL_WAIT = 1;      // the consumers' wait for a stage
constexpr uint32_t EMPTY_WAIT = 2;     // the producer's wait before it writes a stage again
constexpr uint32_t PRODUCT_WAIT = 3;   // the wait before the sums are read
constexpr uint32_t RELEASE_WAIT = 4;   // the wait before a stage is given back
constexpr uint32_t PRODUCT_FENCE = 5;  // wgmma_fence
constexpr uint32_t SOME_BYTES = 6;     // half of what is announced
constexpr uint32_t INIT_FENCE = 7;     // mbarrier_fence_init
// What is added.
constexpr uint32_t MORE_BYTES = 8;      // to what is announced
constexpr uint32_t OTHER_PARITY = 9;    // the consumers wait for the other phase
constexpr uint32_t WRITTEN_SUMS = 10;   // sums are written under a product
constexpr uint32_t WRITTEN_STAGE = 11;  // a stage is written by a plain store before its product

// Nothing is wrong: a product goes on while the next one is given, and its stage is given back after that.
constexpr uint32_t OVERLAPPED = 12;

struct ProductParams {
    TensorMap a;             // T [64, depth]
    TensorMap b;             // T [columns, depth], or [depth, columns] where N-major
    const uint16_t* a_rows;  // the same as a, for fragments
    float* output;           // [64, columns]
    uint32_t depth;          // a multiple of a stage's
    uint32_t fault;
    uint32_t shift;  // of all tiles in shared memory, a multiple of 128
};

template <Swizzle swizzle, Major b_major, uint32_t columns>
struct ProductTiling {
    static constexpr uint32_t ROW_BYTES = swizzle_bytes(swizzle);
    // K of a stage: a row of a swizzled box. Without a swizzle, 32 elements in boxes of 8.
    static constexpr uint32_t DEPTH = swizzle == Swizzle::none ? 32 : ROW_BYTES / 2;
    static constexpr uint32_t A_BOX_BYTES = 64 * ROW_BYTES;
    static constexpr uint32_t A_BYTES = 64 * DEPTH * 2;
    static constexpr uint32_t B_BOX_COLUMNS = b_major == Major::k ? columns : ROW_BYTES / 2;
    static constexpr uint32_t B_BOXES =
        b_major == Major::k ? DEPTH * 2 / ROW_BYTES : (columns + B_BOX_COLUMNS - 1) / B_BOX_COLUMNS;
    static constexpr uint32_t B_BOX_BYTES = b_major == Major::k ? columns * ROW_BYTES : DEPTH * ROW_BYTES;
    static constexpr uint32_t STAGE_BYTES = (A_BYTES + B_BOXES * B_BOX_BYTES + 1023) / 1024 * 1024;
    static constexpr uint32_t TRANSACTION_BYTES = A_BYTES + B_BOXES * B_BOX_BYTES;
    // Two stages, then full and empty barriers of each.
    static constexpr uint32_t SHARED_BYTES = 2 * STAGE_BYTES + 32;
};

template <class T, Swizzle swizzle, Major b_major, uint32_t columns, bool a_is_in_registers>
__device__ void tma_product(const ProductParams& params) {
    using Tiling = ProductTiling<swizzle, b_major, columns>;
    uint8_t* tiles = dynamic_shared() + params.shift;
    const uint32_t shared = shared_address(tiles);
    const uint32_t full = shared + 2 * Tiling::STAGE_BYTES;
    const uint32_t empty = full + 16;
    const uint32_t steps = params.depth / Tiling::DEPTH;
    if (threadIdx.x == 0) {
        for (uint32_t stage = 0; stage < 2; ++stage) {
            mbarrier_init(full + 8 * stage, 1);
            mbarrier_init(empty + 8 * stage, 128);
        }
        if (params.fault != INIT_FENCE) {
            mbarrier_fence_init();
        }
    }
    // The barriers are initialised before anyone uses them.
    __syncthreads();
    if (threadIdx.x >= 128) {
        if (!elect_one()) {
            return;
        }
        for (uint32_t step = 0; step < steps; ++step) {
            const uint32_t stage = step % 2;
            const uint32_t tile = shared + stage * Tiling::STAGE_BYTES;
            const int32_t k = static_cast<int32_t>(step * Tiling::DEPTH);
            if (params.fault != EMPTY_WAIT) {
                mbarrier_wait(empty + 8 * stage, (step / 2 + 1) % 2);
            }
            const uint32_t more = params.fault == MORE_BYTES ? 16 : 0;
            const uint32_t announced = Tiling::TRANSACTION_BYTES / (params.fault == SOME_BYTES ? 2 : 1) + more;
            mbarrier_arrive_expect(full + 8 * stage, announced);
            for (uint32_t box = 0; box < Tiling::DEPTH * 2 / Tiling::ROW_BYTES; ++box) {
                load_tensor(tile + box * Tiling::A_BOX_BYTES, &params.a, full + 8 * stage, evict_first(),
                            k + static_cast<int32_t>(box * Tiling::ROW_BYTES / 2), 0);
            }
            for (uint32_t box = 0; box < Tiling::B_BOXES; ++box) {
                const int32_t offset = static_cast<int32_t>(box * Tiling::ROW_BYTES / 2);
                const uint32_t destination = tile + Tiling::A_BYTES + box * Tiling::B_BOX_BYTES;
                if (b_major == Major::k) {
                    load_tensor(destination, &params.b, full + 8 * stage, k + offset, 0);
                } else {
                    load_tensor(destination, &params.b, full + 8 * stage, offset, k);
                }
            }
        }
        return;
    }
    const uint32_t group = threadIdx.x % 32 / 4;
    const uint32_t pair = 2 * (threadIdx.x % 4);
    const uint32_t row = threadIdx.x / 32 * 16 + group;
    float sums[columns / 2];
    for (uint32_t step = 0; step < steps; ++step) {
        const uint32_t stage = step % 2;
        const uint32_t a_tile = shared + stage * Tiling::STAGE_BYTES;
        const uint32_t b_tile = a_tile + Tiling::A_BYTES;
        if (params.fault != FULL_WAIT) {
            mbarrier_wait(full + 8 * stage, (step / 2 + (params.fault == OTHER_PARITY ? 1 : 0)) % 2);
        }
        if (params.fault == WRITTEN_STAGE && threadIdx.x == 77) {
            reinterpret_cast<uint16_t*>(tiles + stage * Tiling::STAGE_BYTES + Tiling::A_BYTES)[0] = 0;
        }
        constexpr uint32_t products = Tiling::DEPTH / 16;
        uint32_t fragments[products][4];
        if (a_is_in_registers) {
#pragma unroll
            for (uint32_t product = 0; product < products; ++product) {
                const uint32_t k = step * Tiling::DEPTH + 16 * product + pair;
#pragma unroll
                for (uint32_t i = 0; i < 4; ++i) {
                    const uint16_t* source = params.a_rows + (row + i % 2 * 8) * params.depth + k + i / 2 * 8;
                    fragments[product][i] = source[0] | static_cast<uint32_t>(source[1]) << 16;
                }
                wgmma_keep(fragments[product]);
            }
        }
        wgmma_keep(sums);
        if (params.fault != PRODUCT_FENCE) {
            wgmma_fence();
        }
#pragma unroll
        for (uint32_t product = 0; product < products; ++product) {
            // Along K, 16 elements on: two boxes without a swizzle, 32 bytes of a row with one.
            const uint32_t a_start = a_tile + (swizzle == Swizzle::none ? 2 * Tiling::A_BOX_BYTES : 32) * product;
            const uint64_t a = matrix_descriptor(swizzle, a_start, Tiling::A_BOX_BYTES, 8 * Tiling::ROW_BYTES);
            uint64_t b;
            if (b_major == Major::k) {
                const uint32_t start = b_tile + (swizzle == Swizzle::none ? 2 * Tiling::B_BOX_BYTES : 32) * product;
                b = matrix_descriptor(swizzle, start, Tiling::B_BOX_BYTES, 8 * Tiling::ROW_BYTES);
            } else {
                const uint32_t start = b_tile + 16 * Tiling::ROW_BYTES * product;
                const uint32_t next_columns = Tiling::B_BOX_BYTES;
                const uint32_t next_depth = 8 * Tiling::ROW_BYTES;
                b = swizzle == Swizzle::none ? matrix_descriptor(swizzle, start, next_depth, next_columns)
                                             : matrix_descriptor(swizzle, start, next_columns, next_depth);
            }
            const uint32_t accumulate = step != 0 || product != 0;
            if (a_is_in_registers) {
                wgmma<T, b_major>(sums, fragments[product], b, accumulate);
            } else {
                wgmma<T, b_major>(sums, a, b, accumulate);
            }
        }
        wgmma_commit();
        if (params.fault == WRITTEN_SUMS) {
            sums[threadIdx.x % 2] = 1.0f;
        }
        const bool is_last = step + 1 == steps;
        if (params.fault == RELEASE_WAIT || params.fault == OVERLAPPED || (params.fault == PRODUCT_WAIT && is_last)) {
            wgmma_wait<1>();
        } else {
            wgmma_wait<0>();
        }
        if (a_is_in_registers) {
#pragma unroll
            for (uint32_t product = 0; product < products; ++product) {
                wgmma_keep(fragments[product]);
            }
        }
        wgmma_keep(sums);
        if (params.fault != OVERLAPPED) {
            mbarrier_arrive(empty + 8 * stage);
        } else if (step != 0) {
            mbarrier_arrive(empty + 8 * (1 - stage));
        }
    }
    if (params.fault == RELEASE_WAIT || params.fault == OVERLAPPED) {
        wgmma_wait<0>();
        wgmma_keep(sums);
    }
#pragma unroll
    for (uint32_t i = 0; i < columns / 2; ++i) {
        const uint32_t column = 8 * (i / 4) + pair + i % 2;
        params.output[(row + i / 2 % 2 * 8) * columns + column] = sums[i];
    }
    if (params.fault == PRODUCT_WAIT) {
        wgmma_wait<0>();
    }
}

extern "C" __global__ void __launch_bounds__(160) product_bf16_none(const __grid_constant__ ProductParams params) {
    tma_product<Bf16, Swizzle::none, Major::k, 96, false>(params);
}

extern "C" __global__ void __launch_bounds__(160) product_bf16_32(const __grid_constant__ ProductParams params) {
    tma_product<Bf16, Swizzle::bytes_32, Major::k, 96, false>(params);
}

extern "C" __global__ void __launch_bounds__(160) product_bf16_64(const __grid_constant__ ProductParams params) {
    tma_product<Bf16, Swizzle::bytes_64, Major::k, 96, false>(params);
}

extern "C" __global__ void __launch_bounds__(160) product_bf16_128(const __grid_constant__ ProductParams params) {
    tma_product<Bf16, Swizzle::bytes_128, Major::k, 96, false>(params);
}

extern "C" __global__ void __launch_bounds__(160) product_fp16_128(const __grid_constant__ ProductParams params) {
    tma_product<Fp16, Swizzle::bytes_128, Major::k, 96, false>(params);
}

extern "C" __global__ void __launch_bounds__(160) product_n_bf16_none(const __grid_constant__ ProductParams params) {
    tma_product<Bf16, Swizzle::none, Major::mn, 96, false>(params);
}

extern "C" __global__ void __launch_bounds__(160) product_n_bf16_32(const __grid_constant__ ProductParams params) {
    tma_product<Bf16, Swizzle::bytes_32, Major::mn, 96, false>(params);
}

extern "C" __global__ void __launch_bounds__(160) product_n_bf16_64(const __grid_constant__ ProductParams params) {
    tma_product<Bf16, Swizzle::bytes_64, Major::mn, 96, false>(params);
}

extern "C" __global__ void __launch_bounds__(160) product_n_bf16_128(const __grid_constant__ ProductParams params) {
    tma_product<Bf16, Swizzle::bytes_128, Major::mn, 96, false>(params);
}

extern "C" __global__ void __launch_bounds__(160) product_a_bf16_128(const __grid_constant__ ProductParams params) {
    tma_product<Bf16, Swizzle::bytes_128, Major::k, 96, true>(params);
}

extern "C" __global__ void __launch_bounds__(160) product_a_n_fp16_128(const __grid_constant__ ProductParams params) {
    tma_product<Fp16, Swizzle::bytes_128, Major::mn, 96, true>(params);
}

extern "C" __global__ void __launch_bounds__(160) product_16_bf16_128(const __grid_constant__ ProductParams params) {
    tma_product<Bf16, Swizzle::bytes_128, Major::k, 16, false>(params);
}

extern "C" __global__ void __launch_bounds__(160) product_104_bf16_64(const __grid_constant__ ProductParams params) {
    tma_product<Bf16, Swizzle::bytes_64, Major::k, 104, false>(params);
}

extern "C" __global__ void __launch_bounds__(160) product_256_fp16_128(const __grid_constant__ ProductParams params) {
    tma_product<Fp16, Swizzle::bytes_128, Major::mn, 256, false>(params);
}
