// The functions of the kernels' sm90/hopper.cuh, as the PTX manual defines their instructions. All of them are the
// machine's business (src/machine/hopper).
#pragma once
#include <stdint.h>

#include <abi.h>
#include <ptx.cuh>
#include <sm90/layout.cuh>

// src/machine/hopper reads them.
struct SimulatorWgmma {
    float* sums;
    const uint32_t* a_fragments;
    uint64_t a;
    uint64_t b;
    uint32_t length;
    uint32_t is_fp16;
    uint32_t b_major;
    uint32_t accumulate;
};
struct SimulatorMatrixStore {
    uint32_t row;
    uint32_t matrices[4];
};
struct SimulatorNamedBarrier {
    uint32_t number;
    uint32_t num_threads;
};

extern "C" {
void simulator_mbarrier_init(SimulatorThread* thread, uint32_t barrier, uint32_t count);
void simulator_mbarrier_fence_init(SimulatorThread* thread);
void simulator_mbarrier_arrive(SimulatorThread* thread, uint32_t barrier, uint32_t num_bytes);
void simulator_mbarrier_wait(SimulatorThread* thread, uint32_t barrier, uint32_t parity);
void simulator_fence_proxy_async(SimulatorThread* thread);
void simulator_prefetch_tensor_map(SimulatorThread* thread, const TensorMap* map);
void simulator_load_tensor(SimulatorThread* thread, uint32_t destination, const TensorMap* map, uint32_t barrier,
                           const int32_t* origin, uint32_t rank);
void simulator_store_tensor(SimulatorThread* thread, const TensorMap* map, uint32_t source, const int32_t* origin,
                            uint32_t rank);
void simulator_store_tensor_commit(SimulatorThread* thread);
void simulator_store_tensor_wait(SimulatorThread* thread, uint32_t pending, uint32_t until_written);
}

inline void mbarrier_init(uint32_t barrier, uint32_t count) {
    simulator_mbarrier_init(simulator_thread, barrier, count);
}

inline void mbarrier_fence_init() {
    simulator_mbarrier_fence_init(simulator_thread);
}

inline void mbarrier_arrive(uint32_t barrier) {
    simulator_mbarrier_arrive(simulator_thread, barrier, 0);
}

inline void mbarrier_arrive_expect(uint32_t barrier, uint32_t num_bytes) {
    simulator_mbarrier_arrive(simulator_thread, barrier, num_bytes);
}

inline void mbarrier_wait(uint32_t barrier, uint32_t parity) {
    simulator_mbarrier_wait(simulator_thread, barrier, parity);
}

inline void fence_proxy_async() {
    simulator_fence_proxy_async(simulator_thread);
}

struct CachePolicy {
    uint64_t bits;
};

inline CachePolicy evict_first() {
    return {1};
}

inline CachePolicy evict_last() {
    return {2};
}

inline void prefetch_tensor_map(const TensorMap* map) {
    simulator_prefetch_tensor_map(simulator_thread, map);
}

template <class... Coordinates>
inline void load_tensor(uint32_t shared_destination, const TensorMap* map, uint32_t barrier, int32_t x, int32_t y,
                        Coordinates... others) {
    static_assert(sizeof...(others) <= 2, "boxes of two to four dimensions");
    const int32_t origin[] = {x, y, others...};
    simulator_load_tensor(simulator_thread, shared_destination, map, barrier, origin, 2 + sizeof...(others));
}

// A policy is for L2, of which nothing can be seen here.
template <class... Coordinates>
inline void load_tensor(uint32_t shared_destination, const TensorMap* map, uint32_t barrier, CachePolicy, int32_t x,
                        int32_t y, Coordinates... others) {
    load_tensor(shared_destination, map, barrier, x, y, others...);
}

template <class... Coordinates>
inline void store_tensor(const TensorMap* map, uint32_t shared_source, int32_t x, int32_t y, Coordinates... others) {
    static_assert(sizeof...(others) <= 2, "boxes of two to four dimensions");
    const int32_t origin[] = {x, y, others...};
    simulator_store_tensor(simulator_thread, map, shared_source, origin, 2 + sizeof...(others));
}

inline void store_tensor_commit() {
    simulator_store_tensor_commit(simulator_thread);
}

template <int pending>
inline void store_tensor_wait_read() {
    static_assert(pending >= 0, "a count of groups");
    simulator_store_tensor_wait(simulator_thread, pending, 0);
}

template <int pending>
inline void store_tensor_wait() {
    static_assert(pending >= 0, "a count of groups");
    simulator_store_tensor_wait(simulator_thread, pending, 1);
}

inline void simulator_warp(SimulatorOperation operation, void* operands) {
    simulator_meet(simulator_thread, operation, 0xffffffffu, operands);
}

inline void wgmma_fence() {
    simulator_warp(SimulatorOperation::wgmma_fence, nullptr);
}

inline void wgmma_commit() {
    simulator_warp(SimulatorOperation::wgmma_commit, nullptr);
}

template <int pending>
inline void wgmma_wait() {
    static_assert(pending >= 0 && pending <= 7, "a count of groups");
    uint32_t operand = pending;
    simulator_warp(SimulatorOperation::wgmma_wait, &operand);
}

// Arrays are in memory here, and who calls the machine has them there.
template <uint32_t length>
inline void wgmma_keep(float (&)[length]) {
}

template <uint32_t length>
inline void wgmma_keep(uint32_t (&)[length]) {
}

template <class T>
constexpr uint32_t simulator_is_fp16 = 0;
template <>
constexpr uint32_t simulator_is_fp16<Fp16> = 1;

// The N that the kernels' sm90/wgmma.cuh has.
constexpr bool simulator_has_columns(uint32_t columns) {
    return columns >= 16 && columns <= 256 && (columns % 16 == 0 || columns == 104);
}

template <class T, Major b_major = Major::k, uint32_t length>
inline void wgmma(float (&sums)[length], uint64_t a, uint64_t b, uint32_t accumulate) {
    static_assert(simulator_has_columns(2 * length), "sm90/wgmma.cuh does not list this N");
    SimulatorWgmma operands{sums, nullptr, a, b, length, simulator_is_fp16<T>, static_cast<uint32_t>(b_major), accumulate};
    simulator_warp(SimulatorOperation::wgmma, &operands);
}

template <class T, Major b_major = Major::k, uint32_t length>
inline void wgmma(float (&sums)[length], const uint32_t (&a)[4], uint64_t b, uint32_t accumulate) {
    static_assert(simulator_has_columns(2 * length), "sm90/wgmma.cuh does not list this N");
    SimulatorWgmma operands{sums, a, 0, b, length, simulator_is_fp16<T>, static_cast<uint32_t>(b_major), accumulate};
    simulator_warp(SimulatorOperation::wgmma, &operands);
}

inline void simulator_store_matrices(SimulatorOperation operation, uint32_t row, const uint32_t (&matrices)[4]) {
    SimulatorMatrixStore operands{row, {matrices[0], matrices[1], matrices[2], matrices[3]}};
    simulator_warp(operation, &operands);
}

inline void store_matrices(uint32_t shared_row, const uint32_t (&matrices)[4]) {
    simulator_store_matrices(SimulatorOperation::store_matrices, shared_row, matrices);
}

inline void store_matrices_transposed(uint32_t shared_row, const uint32_t (&matrices)[4]) {
    simulator_store_matrices(SimulatorOperation::store_matrices_transposed, shared_row, matrices);
}

inline bool elect_one() {
    uint32_t elected = 0;
    simulator_warp(SimulatorOperation::elect, &elected);
    return elected != 0;
}

inline void named_barrier_sync(uint32_t number, uint32_t num_threads) {
    SimulatorNamedBarrier operands{number, num_threads};
    simulator_warp(SimulatorOperation::named_barrier_sync, &operands);
}

inline void named_barrier_arrive(uint32_t number, uint32_t num_threads) {
    SimulatorNamedBarrier operands{number, num_threads};
    simulator_warp(SimulatorOperation::named_barrier_arrive, &operands);
}

template <int registers>
inline void give_registers() {
    static_assert(registers >= 24 && registers <= 256 && registers % 8 == 0, "what setmaxnreg takes");
    uint32_t operand = registers;
    simulator_warp(SimulatorOperation::give_registers, &operand);
}

template <int registers>
inline void take_registers() {
    static_assert(registers >= 24 && registers <= 256 && registers % 8 == 0, "what setmaxnreg takes");
    uint32_t operand = registers;
    simulator_warp(SimulatorOperation::take_registers, &operand);
}
