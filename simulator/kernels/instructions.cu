// Kernels of the simulator's own tests, no part of the engine: one warp, one instruction, its operands from memory.
#include <stdint.h>

#include <ptx.cuh>

struct LoadParams {
    const uint8_t* image;   // what shared memory holds, 512 bytes
    const uint32_t* rows;   // [32], each lane's row as bytes from the start of shared memory
    uint32_t* fragments;    // [32, 4]
    uint32_t transposed;
};

extern "C" __global__ void __launch_bounds__(32) load_matrices_once(const __grid_constant__ LoadParams params) {
    uint8_t* shared = dynamic_shared();
    for (uint32_t byte = threadIdx.x; byte < 512; byte += 32) {
        shared[byte] = params.image[byte];
    }
    __syncwarp();  // the image before the loads of matrices
    const uint32_t row = shared_address(shared) + params.rows[threadIdx.x];
    uint32_t matrices[4];
    if (params.transposed != 0) {
        load_matrices_transposed(matrices, row);
    } else {
        load_matrices(matrices, row);
    }
    for (uint32_t i = 0; i < 4; ++i) {
        params.fragments[4 * threadIdx.x + i] = matrices[i];
    }
}

struct CopyParams {
    const uint8_t* source;      // [32, 16]
    const uint32_t* num_bytes;  // [32]
    uint8_t* copies;            // [32, 16]
};

extern "C" __global__ void __launch_bounds__(32) copy_once(const __grid_constant__ CopyParams params) {
    uint8_t* shared = dynamic_shared() + 16 * threadIdx.x;
    copy_async(shared_address(shared), params.source + 16 * threadIdx.x, params.num_bytes[threadIdx.x]);
    copy_async_commit();
    copy_async_wait<0>();
    for (uint32_t byte = 0; byte < 16; ++byte) {
        params.copies[16 * threadIdx.x + byte] = shared[byte];
    }
}

struct CopyGroupsParams {
    const uint8_t* source;  // [64]
    uint8_t* copies;        // [3, 64], after each of three waits
};

// One thread: groups of 1, 2 and 0 copies, a copy that is in none, waits until 2, 1 and 0 groups are under way.
extern "C" __global__ void __launch_bounds__(1) copy_groups(const __grid_constant__ CopyGroupsParams params) {
    const uint32_t shared = shared_address(dynamic_shared());
    copy_async(shared, params.source, 16);
    copy_async_commit();
    copy_async(shared + 16, params.source + 16, 16);
    copy_async(shared + 32, params.source + 32, 16);
    copy_async_commit();
    copy_async_commit();
    copy_async(shared + 48, params.source + 48, 16);
    copy_async_wait<2>();
    for (uint32_t byte = 0; byte < 64; ++byte) {
        params.copies[byte] = dynamic_shared()[byte];
    }
    copy_async_wait<1>();
    for (uint32_t byte = 0; byte < 64; ++byte) {
        params.copies[64 + byte] = dynamic_shared()[byte];
    }
    copy_async_wait<0>();
    for (uint32_t byte = 0; byte < 64; ++byte) {
        params.copies[128 + byte] = dynamic_shared()[byte];
    }
}

struct MultiplyParams {
    const uint32_t* a;  // [32, 4]
    const uint32_t* b;  // [32, 2]
    float* sums;        // [32, 4]
    uint32_t repeats;
};

template <class T>
__device__ void multiply(const MultiplyParams& params) {
    const uint32_t lane = threadIdx.x % 32;
    uint32_t a[4];
    float sums[4];
    for (uint32_t i = 0; i < 4; ++i) {
        a[i] = params.a[4 * lane + i];
        sums[i] = params.sums[4 * lane + i];
    }
    for (uint32_t repeat = 0; repeat < params.repeats; ++repeat) {
        multiply_add<T>(sums, a, params.b[2 * lane], params.b[2 * lane + 1]);
    }
    for (uint32_t i = 0; i < 4; ++i) {
        params.sums[4 * lane + i] = sums[i];
    }
}

extern "C" __global__ void __launch_bounds__(32) multiply_once_bf16(const __grid_constant__ MultiplyParams params) {
    multiply<Bf16>(params);
}

extern "C" __global__ void __launch_bounds__(32) multiply_once_fp16(const __grid_constant__ MultiplyParams params) {
    multiply<Fp16>(params);
}

struct ShuffleParams {
    uint32_t* values;  // [32], replaced
    uint32_t mask;     // lanes outside of it do nothing
    uint32_t mode;     // 0 by index, 1 up, 2 down, 3 xor
    uint32_t operand;
    uint32_t width;
};

extern "C" __global__ void __launch_bounds__(32) shuffle_once(const __grid_constant__ ShuffleParams params) {
    const uint32_t lane = threadIdx.x;
    const int32_t width = static_cast<int32_t>(params.width);
    uint32_t value = params.values[lane];
    if ((params.mask >> lane & 1u) != 0) {
        if (params.mode == 0) {
            value = __shfl_sync(params.mask, value, params.operand, width);
        } else if (params.mode == 1) {
            value = __shfl_up_sync(params.mask, value, params.operand, width);
        } else if (params.mode == 2) {
            value = __shfl_down_sync(params.mask, value, params.operand, width);
        } else {
            value = __shfl_xor_sync(params.mask, value, params.operand, width);
        }
    }
    params.values[lane] = value;
}

struct VoteParams {
    const uint32_t* holds;  // [32]
    uint32_t* any;          // [32]; lanes outside of the mask leave theirs alone
    uint32_t mask;
};

extern "C" __global__ void __launch_bounds__(32) vote_once(const __grid_constant__ VoteParams params) {
    const uint32_t lane = threadIdx.x;
    if ((params.mask >> lane & 1u) != 0) {
        params.any[lane] = static_cast<uint32_t>(__any_sync(params.mask, params.holds[lane] == 7));
    }
}

struct ConvertParams {
    const float* wide;   // [num_values]
    uint16_t* bf16;      // [num_values]
    uint16_t* fp16;      // [num_values]
    float* back;         // [num_values, 2], from bf16 and from fp16
    uint32_t* pairs;     // [num_values, 2], the value low and its negative high, bf16 and fp16
    float* power;        // [num_values], 2^wide
    uint32_t num_values;
};

extern "C" __global__ void __launch_bounds__(32) convert(const __grid_constant__ ConvertParams params) {
    for (uint32_t i = threadIdx.x; i < params.num_values; i += 32) {
        const float wide = params.wide[i];
        params.bf16[i] = narrow<Bf16>(wide).bits;
        params.fp16[i] = narrow<Fp16>(wide).bits;
        params.back[2 * i] = widen(narrow<Bf16>(wide));
        params.back[2 * i + 1] = widen(narrow<Fp16>(wide));
        params.pairs[2 * i] = narrow_pair<Bf16>(wide, -wide);
        params.pairs[2 * i + 1] = narrow_pair<Fp16>(wide, -wide);
        params.power[i] = exp2_approx(wide);
    }
}

struct WidenParams {
    float* bf16;  // [65536], of each pattern of bits
    float* fp16;  // [65536]
};

extern "C" __global__ void __launch_bounds__(128) widen_all(const __grid_constant__ WidenParams params) {
    for (uint32_t bits = threadIdx.x; bits < 65536; bits += 128) {
        params.bf16[bits] = widen_pair<Bf16>(bits).x;
        params.fp16[bits] = widen_pair<Fp16>(bits << 16).y;
    }
}
