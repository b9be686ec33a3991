// The instructions that only Hopper has, in inline PTX of sm_90a, one function an instruction: barriers in shared
// memory, bulk copies of tensors, products of a warpgroup, and what goes with them. Names and semantics are those of
// the PTX manual's sections named at each. A warpgroup is four warps in a row, the first one's number a multiple of
// four.
#pragma once
#include <stdint.h>

#include <abi.h>
#include <ptx.cuh>
#include <sm90/layout.cuh>
#include <sm90/wgmma.cuh>

// Barriers in shared memory ("mbarrier"): 8 bytes, aligned to 8. A phase is complete when `count` threads have arrived
// and all bytes that were announced have landed; then the next one begins. Phases count from 0.

// Once, by one thread. Others may use the barrier after mbarrier_fence_init by that thread and a __syncthreads.
__device__ __forceinline__ void mbarrier_init(uint32_t barrier, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" : : "r"(barrier), "r"(count) : "memory");
}

// Makes this thread's mbarrier_init known to the copies that complete on the barrier ("fence.mbarrier_init").
__device__ __forceinline__ void mbarrier_fence_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" : : : "memory");
}

// This thread's arrival; what it wrote before is seen by those who wait for the phase ("mbarrier.arrive.release").
__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" : : "r"(barrier) : "memory");
}

// The same, and the phase waits for num_bytes more of copies: announced by the thread that issues them, all bytes of a
// box, those outside of the tensor too ("mbarrier.arrive.expect_tx").
__device__ __forceinline__ void mbarrier_arrive_expect(uint32_t barrier, uint32_t num_bytes) {
    asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;"
                 :
                 : "r"(barrier), "r"(num_bytes)
                 : "memory");
}

// Waits until the phase of this parity is complete: 0 for phases 0, 2, 4; 1 for phases 1, 3, 5. Returns at once for the
// phase before the current one, so that a wait for parity 1 passes on a new barrier ("mbarrier.try_wait.parity").
__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity) {
    uint32_t complete;
    do {
        asm volatile("{\n"
                     ".reg .pred complete;\n"
                     "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 complete, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, complete;\n"
                     "}"
                     : "=r"(complete)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    } while (complete == 0);
}

// Orders this thread's plain accesses to shared memory before those of copies of tensors and of wgmma, which see what
// it wrote only after this and a barrier ("fence.proxy.async").
__device__ __forceinline__ void fence_proxy_async() {
    asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
}

// What L2 does with the lines of a copy ("createpolicy").
struct CachePolicy {
    uint64_t bits;
};

// For what is read once.
__device__ __forceinline__ CachePolicy evict_first() {
    CachePolicy policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy.bits));
    return policy;
}

// For what all blocks read.
__device__ __forceinline__ CachePolicy evict_last() {
    CachePolicy policy;
    asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy.bits));
    return policy;
}

// Copies of boxes of a tensor ("cp.async.bulk.tensor"), each by one thread, the map in the kernel's params. Coordinates
// are those of the box's first element, the innermost first, and may be outside of the tensor.

__device__ __forceinline__ void prefetch_tensor_map(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" : : "l"(map) : "memory");
}

// Tensor to shared memory, elements outside of the tensor as zeros. The destination is a multiple of 128; the barrier's
// phase completes no sooner than the bytes have landed, and who has waited for it sees them.
__device__ __forceinline__ void load_tensor(uint32_t shared_destination, const TensorMap* map, uint32_t barrier,
                                            int32_t x, int32_t y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];"
                 :
                 : "r"(shared_destination), "l"(map), "r"(barrier), "r"(x), "r"(y)
                 : "memory");
}

__device__ __forceinline__ void load_tensor(uint32_t shared_destination, const TensorMap* map, uint32_t barrier,
                                            int32_t x, int32_t y, int32_t z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5}], [%2];"
                 :
                 : "r"(shared_destination), "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
                 : "memory");
}

__device__ __forceinline__ void load_tensor(uint32_t shared_destination, const TensorMap* map, uint32_t barrier,
                                            int32_t x, int32_t y, int32_t z, int32_t w) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2];"
                 :
                 : "r"(shared_destination), "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}

// The same with a policy for L2.
__device__ __forceinline__ void load_tensor(uint32_t shared_destination, const TensorMap* map, uint32_t barrier,
                                            CachePolicy policy, int32_t x, int32_t y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1, {%4, %5}], [%2], %3;"
                 :
                 : "r"(shared_destination), "l"(map), "r"(barrier), "l"(policy.bits), "r"(x), "r"(y)
                 : "memory");
}

__device__ __forceinline__ void load_tensor(uint32_t shared_destination, const TensorMap* map, uint32_t barrier,
                                            CachePolicy policy, int32_t x, int32_t y, int32_t z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1, {%4, %5, %6}], [%2], %3;"
                 :
                 : "r"(shared_destination), "l"(map), "r"(barrier), "l"(policy.bits), "r"(x), "r"(y), "r"(z)
                 : "memory");
}

__device__ __forceinline__ void load_tensor(uint32_t shared_destination, const TensorMap* map, uint32_t barrier,
                                            CachePolicy policy, int32_t x, int32_t y, int32_t z, int32_t w) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1, {%4, %5, %6, %7}], [%2], %3;"
                 :
                 : "r"(shared_destination), "l"(map), "r"(barrier), "l"(policy.bits), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}

// Shared memory to tensor; elements outside of the tensor are not written. Whoever wrote the source has done
// fence_proxy_async, and a barrier after it.
__device__ __forceinline__ void store_tensor(const TensorMap* map, uint32_t shared_source, int32_t x, int32_t y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];"
                 :
                 : "l"(map), "r"(shared_source), "r"(x), "r"(y)
                 : "memory");
}

__device__ __forceinline__ void store_tensor(const TensorMap* map, uint32_t shared_source, int32_t x, int32_t y,
                                             int32_t z) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];"
                 :
                 : "l"(map), "r"(shared_source), "r"(x), "r"(y), "r"(z)
                 : "memory");
}

__device__ __forceinline__ void store_tensor(const TensorMap* map, uint32_t shared_source, int32_t x, int32_t y,
                                             int32_t z, int32_t w) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];"
                 :
                 : "l"(map), "r"(shared_source), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}

// Closes a group: this thread's stores since the last one.
__device__ __forceinline__ void store_tensor_commit() {
    asm volatile("cp.async.bulk.commit_group;" : : : "memory");
}

// Waits until all but this thread's `pending` youngest groups have read their sources, which may then be written again.
// A block must not end before its stores have read.
template <int pending>
__device__ __forceinline__ void store_tensor_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" : : "n"(pending) : "memory");
}

// Waits until they have also written the tensor, as far as this thread can see.
template <int pending>
__device__ __forceinline__ void store_tensor_wait() {
    asm volatile("cp.async.bulk.wait_group %0;" : : "n"(pending) : "memory");
}

// Products of a warpgroup ("wgmma"): wgmma_fence, any number of wgmma, wgmma_commit; wgmma_wait. Between a wgmma and
// the wait for its group nobody may touch its sums or its fragments of A, nor write what its descriptors point to.

// Orders this warp's accesses to registers before the products that follow: needed before the first wgmma of a group.
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" : : : "memory");
}

__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" : : : "memory");
}

// Waits until at most `pending` of the youngest groups are under way. The sums, and A's fragments, of those that are
// done can be used: pass them to wgmma_keep first.
template <int pending>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(pending) : "memory");
}

// No instruction: the compiler neither moves accesses to these registers across this, nor keeps older copies of them.
// Sums and fragments of A need it where wgmma_fence or wgmma_wait orders them, for asm's operands do not say so.
template <uint32_t length>
__device__ __forceinline__ void wgmma_keep(float (&sums)[length]) {
#pragma unroll
    for (uint32_t i = 0; i < length; ++i) {
        asm volatile("" : "+f"(sums[i]) : : "memory");
    }
}

template <uint32_t length>
__device__ __forceinline__ void wgmma_keep(uint32_t (&fragments)[length]) {
#pragma unroll
    for (uint32_t i = 0; i < length; ++i) {
        asm volatile("" : "+r"(fragments[i]) : : "memory");
    }
}

// sums = a * b, or sums += a * b where accumulate is not zero: a 64x16 and b 16xN, of bf16 or fp16; sums 64xN in f32, N
// = 2 * length, a multiple of 8 that sm90/wgmma.cuh lists ("wgmma.mma_async.m64nNk16"). Both descriptors are of
// sm90/layout.cuh, and the same in all threads; a is K-major. With warp = the warp's number in its warpgroup, group =
// lane / 4 and pair = 2 * (lane % 4), sums[4j .. 4j + 1] are row 16 * warp + group, columns 8j + pair and 8j + pair +
// 1; sums[4j + 2 .. 4j + 3] the same of row 16 * warp + group + 8.
template <class T, Major b_major = Major::k, uint32_t length>
__device__ __forceinline__ void wgmma(float (&sums)[length], uint64_t a, uint64_t b, uint32_t accumulate) {
    WgmmaOf<2 * length>::template shared<T, static_cast<int>(b_major)>(sums, a, b, accumulate);
}

// The same with a in registers, laid out as multiply_add's in ptx.cuh: row 16 * warp + group in a[0] and a[2].
template <class T, Major b_major = Major::k, uint32_t length>
__device__ __forceinline__ void wgmma(float (&sums)[length], const uint32_t (&a)[4], uint64_t b, uint32_t accumulate) {
    WgmmaOf<2 * length>::template registers<T, static_cast<int>(b_major)>(sums, a, b, accumulate);
}

// Stores four 8x8 matrices of 16-bit elements ("stmatrix.x4"): the inverse of load_matrices.
__device__ __forceinline__ void store_matrices(uint32_t shared_row, const uint32_t (&matrices)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                 :
                 : "r"(shared_row), "r"(matrices[0]), "r"(matrices[1]), "r"(matrices[2]), "r"(matrices[3])
                 : "memory");
}

// The inverse of load_matrices_transposed ("stmatrix.x4.trans").
__device__ __forceinline__ void store_matrices_transposed(uint32_t shared_row, const uint32_t (&matrices)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};"
                 :
                 : "r"(shared_row), "r"(matrices[0]), "r"(matrices[1]), "r"(matrices[2]), "r"(matrices[3])
                 : "memory");
}

// True in one lane of a warp whose lanes are all here, and in the same one every time ("elect.sync").
__device__ __forceinline__ bool elect_one() {
    uint32_t elected;
    asm volatile("{\n"
                 ".reg .pred elected;\n"
                 "elect.sync _|elected, 0xffffffff;\n"
                 "selp.u32 %0, 1, 0, elected;\n"
                 "}"
                 : "=r"(elected));
    return elected != 0;
}

// Barriers by number ("bar.sync", "bar.arrive"), 0 being __syncthreads': num_threads, a multiple of 32, of which some
// may only arrive. Whole warps.
__device__ __forceinline__ void named_barrier_sync(uint32_t number, uint32_t num_threads) {
    asm volatile("bar.sync %0, %1;" : : "r"(number), "r"(num_threads) : "memory");
}

__device__ __forceinline__ void named_barrier_arrive(uint32_t number, uint32_t num_threads) {
    asm volatile("bar.arrive %0, %1;" : : "r"(number), "r"(num_threads) : "memory");
}

// Registers of each thread of this warpgroup from now on, 24 to 256 by eights ("setmaxnreg"): all that a block starts
// with stay its own, and more are given only as others give theirs back. The kernel has __launch_bounds__(threads, 1).
template <int registers>
__device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" : : "n"(registers));
}

template <int registers>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" : : "n"(registers));
}
