// What nvcc knows without being told: the words of CUDA C++, the vector types, the built-in variables and functions, as
// the CUDA programming guide defines them. Included before every kernel. What a thread needs others for, it asks the
// machine (src/machine) for, which suspends it until they have all asked.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

struct uint2 {
    alignas(8) uint32_t x;
    uint32_t y;
};
struct uint3 {
    uint32_t x, y, z;
};
struct uint4 {
    alignas(16) uint32_t x;
    uint32_t y, z, w;
};
struct float2 {
    alignas(8) float x;
    float y;
};
struct float3 {
    float x, y, z;
};
struct float4 {
    alignas(16) float x;
    float y, z, w;
};

inline uint2 make_uint2(uint32_t x, uint32_t y) {
    return {x, y};
}
inline uint3 make_uint3(uint32_t x, uint32_t y, uint32_t z) {
    return {x, y, z};
}
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
    return {x, y, z, w};
}
inline float2 make_float2(float x, float y) {
    return {x, y};
}
inline float3 make_float3(float x, float y, float z) {
    return {x, y, z};
}
inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}

// The thread that runs; src/machine/thread.rs reads the same fields.
struct SimulatorThread {
    uint3 thread_index;
    uint3 block_index;
    uint3 block_size;
    uint3 grid_size;
    uint8_t* shared;
    uint32_t shared_bytes;
    uint32_t lane;
    uint32_t* writers;
    const uint32_t* is_early;
    uintptr_t stack_start;
    uintptr_t stack_end;
    uint32_t writer;
};

// Set by the machine whenever another thread runs. The model of access is the fast one: a library that is loaded late
// has room for one such pointer.
extern thread_local SimulatorThread* simulator_thread __attribute__((tls_model("initial-exec")));

#define threadIdx (simulator_thread->thread_index)
#define blockIdx (simulator_thread->block_index)
#define blockDim (simulator_thread->block_size)
#define gridDim (simulator_thread->grid_size)
constexpr int warpSize = 32;

// What threads meet at; src/machine/operation.rs has the same numbers.
enum class SimulatorOperation : uint32_t {
    sync_threads = 0,
    sync_warp = 1,
    shuffle = 2,
    shuffle_up = 3,
    shuffle_down = 4,
    shuffle_xor = 5,
    load_matrices = 6,
    load_matrices_transposed = 7,
    multiply_bf16 = 8,
    multiply_fp16 = 9,
    mbarrier_wait = 10,
    wgmma = 11,
    wgmma_fence = 12,
    wgmma_commit = 13,
    wgmma_wait = 14,
    store_matrices = 15,
    store_matrices_transposed = 16,
    elect = 17,
    named_barrier_sync = 18,
    named_barrier_arrive = 19,
    give_registers = 20,
    take_registers = 21,
    any = 22,
};

extern "C" {
// Returns when all lanes of the mask are here and the operation has been done on the operands of all of them.
void simulator_meet(SimulatorThread* thread, SimulatorOperation operation, uint32_t mask, void* operands);
}

inline void __syncthreads() {
    simulator_meet(simulator_thread, SimulatorOperation::sync_threads, 0xffffffffu, nullptr);
}

inline void __syncwarp(uint32_t mask = 0xffffffffu) {
    simulator_meet(simulator_thread, SimulatorOperation::sync_warp, mask, nullptr);
}

// src/machine/warp.rs reads it.
struct SimulatorShuffle {
    uint32_t value;
    uint32_t source;
};

// "shfl.sync": lanes come in groups of `width`, a power of two; a lane whose source is beyond its group, at the end
// that the direction leads to, keeps its own value.
template <class T>
inline T simulator_shuffle(SimulatorOperation operation, uint32_t mask, T value, int32_t source, int32_t width) {
    static_assert(sizeof(T) == 4, "a shuffle moves one register");
    const int32_t lane = static_cast<int32_t>(simulator_thread->lane);
    const int32_t first = lane & ~(width - 1);
    const bool up = operation == SimulatorOperation::shuffle_up;
    const bool within = up ? source >= first : source < first + width;
    SimulatorShuffle operands;
    __builtin_memcpy(&operands.value, &value, 4);
    operands.source = static_cast<uint32_t>(within ? source : lane);
    simulator_meet(simulator_thread, operation, mask, &operands);
    __builtin_memcpy(&value, &operands.value, 4);
    return value;
}

template <class T>
inline T __shfl_sync(uint32_t mask, T value, int32_t source, int32_t width = 32) {
    const int32_t first = static_cast<int32_t>(simulator_thread->lane) & ~(width - 1);
    return simulator_shuffle(SimulatorOperation::shuffle, mask, value, first + (source & (width - 1)), width);
}

template <class T>
inline T __shfl_up_sync(uint32_t mask, T value, uint32_t delta, int32_t width = 32) {
    const int32_t source = static_cast<int32_t>(simulator_thread->lane) - static_cast<int32_t>(delta);
    return simulator_shuffle(SimulatorOperation::shuffle_up, mask, value, source, width);
}

template <class T>
inline T __shfl_down_sync(uint32_t mask, T value, uint32_t delta, int32_t width = 32) {
    const int32_t source = static_cast<int32_t>(simulator_thread->lane + delta);
    return simulator_shuffle(SimulatorOperation::shuffle_down, mask, value, source, width);
}

template <class T>
inline T __shfl_xor_sync(uint32_t mask, T value, int32_t lane_mask, int32_t width = 32) {
    const int32_t source = static_cast<int32_t>(simulator_thread->lane) ^ lane_mask;
    return simulator_shuffle(SimulatorOperation::shuffle_xor, mask, value, source, width);
}

// "vote.sync.any".
inline int __any_sync(uint32_t mask, bool holds) {
    uint32_t operand = holds;
    simulator_meet(simulator_thread, SimulatorOperation::any, mask, &operand);
    return static_cast<int>(operand);
}

// "fence.acq_rel.gpu" and more: other blocks see the stores before it once they see one after it.
inline void __threadfence() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

// Threads of a block take turns, but launches on other streams may run beside it.
inline uint32_t atomicAdd(uint32_t* address, uint32_t value) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

inline float __uint_as_float(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t __float_as_uint(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
}

inline float rsqrtf(float value) {
    return 1.0f / sqrtf(value);
}

template <class T>
constexpr T min(T a, T b) {
    return b < a ? b : a;
}

template <class T>
constexpr T max(T a, T b) {
    return a < b ? b : a;
}
