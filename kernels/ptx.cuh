// Inline PTX of all architectures, one function an instruction: elements and their conversions, asynchronous copies,
// matrix loads, matrix products, the order of grids. sm90/hopper.cuh has what Hopper adds, and there is no other. Names
// and semantics are those of the PTX manual's sections named at each.
#pragma once
#include <stdint.h>

// Storage of one element. Arithmetic is always f32.
struct Bf16 {
    uint16_t bits;
};
struct Fp16 {
    uint16_t bits;
};

// Block-wide dynamic shared memory, the only kind in use; 1024 bytes is what the widest swizzle of a tensor map asks for.
__device__ __forceinline__ uint8_t* dynamic_shared() {
    extern __shared__ __align__(1024) uint8_t bytes[];
    return bytes;
}

// A generic pointer into shared memory as an address of that state space ("cvta.to.shared").
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Conversions ("cvt"), to nearest even; fp16 overflows to infinity.

__device__ __forceinline__ float widen(Bf16 value) {
    return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}

__device__ __forceinline__ float widen(Fp16 value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
}

template <class T>
__device__ __forceinline__ T narrow(float value);

template <>
__device__ __forceinline__ Bf16 narrow<Bf16>(float value) {
    Bf16 element;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(element.bits) : "f"(value));
    return element;
}

template <>
__device__ __forceinline__ Fp16 narrow<Fp16>(float value) {
    Fp16 element;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(element.bits) : "f"(value));
    return element;
}

// Two elements in one register, the first in the low half.
template <class T>
__device__ __forceinline__ uint32_t narrow_pair(float low, float high);

template <>
__device__ __forceinline__ uint32_t narrow_pair<Bf16>(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

template <>
__device__ __forceinline__ uint32_t narrow_pair<Fp16>(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

template <class T>
__device__ __forceinline__ float2 widen_pair(uint32_t pair) {
    const T low{static_cast<uint16_t>(pair & 0xffffu)};
    const T high{static_cast<uint16_t>(pair >> 16)};
    return make_float2(widen(low), widen(high));
}

// 2^x within 2 ulp, subnormal results as zero; 2^-inf is 0 ("ex2.approx.ftz.f32").
__device__ __forceinline__ float exp2_approx(float exponent) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
    return power;
}

// Asynchronous copies ("cp.async"): 16 bytes past the L1 cache, both addresses multiples of 16; of the source only the
// first num_bytes (0 to 16) are read, the rest of the destination becomes zero. Visible to the copying thread after the
// wait, to others after a barrier that follows it.
__device__ __forceinline__ void copy_async(uint32_t shared_destination, const void* global_source, uint32_t num_bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_destination), "l"(__cvta_generic_to_global(global_source)), "r"(num_bytes)
                 : "memory");
}

// Closes a group: the copies of this thread since the last one.
__device__ __forceinline__ void copy_async_commit() {
    asm volatile("cp.async.commit_group;" : : : "memory");
}

// Waits until at most `pending` of this thread's youngest groups are under way.
template <int pending>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" : : "n"(pending) : "memory");
}

// Loads four 8x8 matrices of 16-bit elements ("ldmatrix.x4"): lanes 8i to 8i+7 give the addresses of matrix i's rows, 16
// bytes each; lane l gets of matrix i elements 2(l%4) and 2(l%4)+1 of row l/4 in matrices[i].
__device__ __forceinline__ void load_matrices(uint32_t (&matrices)[4], uint32_t shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(shared_row)
                 : "memory");
}

// The same with every matrix transposed ("ldmatrix.x4.trans").
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&matrices)[4], uint32_t shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(shared_row)
                 : "memory");
}

// sums += a * b with a 16x16 row-major, b 16x8 column-major, sums 16x8 in f32 ("mma.m16n8k16"). With group = lane / 4 and
// pair = 2 * (lane % 4): a[0] holds row group, columns pair and pair + 1; a[1] row group + 8; a[2] and a[3] the same rows
// at columns pair + 8; b[0] rows pair and pair + 1 of column group, b[1] rows pair + 8; sums[0..1] row group, columns pair
// and pair + 1, sums[2..3] row group + 8.
template <class T>
__device__ __forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void multiply_add<Bf16>(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void multiply_add<Fp16>(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Waits until the grids that this one depends on have ended, and what they wrote can be seen; returns at once in a
// launch that does not overlap another ("griddepcontrol.wait", from compute capability 9.0 on; before, no launch
// overlaps). By every block, before it touches what they may have written and before it writes.
__device__ __forceinline__ void wait_for_previous_grid() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" : : : "memory");
#endif
}

// Once all blocks have done this or ended, the next grid may start ("griddepcontrol.launch_dependents"). It promises
// nothing about what this grid has written.
__device__ __forceinline__ void launch_next_grid() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" : : : "memory");
#endif
}

// What every kernel does first, blocks without work too, unless it has something to do before it may touch the arena:
// the next grid's blocks may take their places, and this one's go on once it is their turn.
__device__ __forceinline__ void start_in_turn() {
    launch_next_grid();
    wait_for_previous_grid();
}
