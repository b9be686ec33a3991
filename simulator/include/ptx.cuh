// The functions of the kernels' ptx.cuh as the PTX manual defines their instructions, in plain C++. What one thread
// does alone is here; what a warp does together, and copies that land later, the machine does (src/machine).
#pragma once
#include <stdint.h>

struct Bf16 {
    uint16_t bits;
};
struct Fp16 {
    uint16_t bits;
};

// src/machine/shared.rs has the same number: a null pointer is no shared address.
constexpr uint32_t SIMULATOR_SHARED_BASE = 1024;

// src/machine/matrix.rs reads them.
struct SimulatorMatrixLoad {
    uint32_t row;
    uint32_t matrices[4];
};
struct SimulatorProduct {
    float sums[4];
    uint32_t a[4];
    uint32_t b[2];
};

extern "C" {
void simulator_not_shared(SimulatorThread* thread, int64_t offset);
void simulator_copy_async(SimulatorThread* thread, uint32_t destination, const void* source, uint32_t num_bytes);
void simulator_copy_async_commit(SimulatorThread* thread);
void simulator_copy_async_wait(SimulatorThread* thread, uint32_t pending);
void simulator_wait_for_previous_grid(SimulatorThread* thread);
}

inline uint8_t* dynamic_shared() {
    return simulator_thread->shared;
}

inline uint32_t shared_address(const void* pointer) {
    const int64_t offset = static_cast<const uint8_t*>(pointer) - simulator_thread->shared;
    if (offset < 0 || offset > simulator_thread->shared_bytes) {
        simulator_not_shared(simulator_thread, offset);
    }
    return SIMULATOR_SHARED_BASE + static_cast<uint32_t>(offset);
}

inline float widen(Bf16 value) {
    return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}

// Exponent and significand move to their places in a float; the product puts the bias right, subnormals included.
inline float widen(Fp16 value) {
    const uint32_t sign = (value.bits & 0x8000u) << 16;
    const uint32_t rest = value.bits & 0x7fffu;
    if (rest >= 0x7c00u) {
        return __uint_as_float(sign | 0x7f800000u | (rest & 0x03ffu) << 13);
    }
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(rest << 13) * 0x1p112f));
}

template <class T>
T narrow(float value);

// "cvt.rn" to nearest even; every NaN becomes the canonical one, 0x7fff.
template <>
inline Bf16 narrow<Bf16>(float value) {
    const uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return {0x7fffu};
    }
    return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

template <>
inline Fp16 narrow<Fp16>(float value) {
    const uint32_t bits = __float_as_uint(value);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return {0x7fffu};
    }
    // 65520 is half way between the largest finite number and the one that would follow it.
    if (magnitude >= 0x477ff000u) {
        return {static_cast<uint16_t>(sign | 0x7c00u)};
    }
    // Below 2^-14 the result counts multiples of 2^-24. Added to 0.5, whose last place is 2^-24, a number is rounded
    // there.
    if (magnitude < 0x38800000u) {
        const float rounded = __uint_as_float(magnitude) + 0.5f;
        return {static_cast<uint16_t>(sign | (__float_as_uint(rounded) - 0x3f000000u))};
    }
    // A carry out of the significand raises the exponent, as it should.
    const uint32_t rounded = magnitude + 0x0fffu + (magnitude >> 13 & 1u);
    return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

template <class T>
inline uint32_t narrow_pair(float low, float high) {
    return static_cast<uint32_t>(narrow<T>(low).bits) | static_cast<uint32_t>(narrow<T>(high).bits) << 16;
}

template <class T>
inline float2 widen_pair(uint32_t pair) {
    return make_float2(widen(T{static_cast<uint16_t>(pair)}), widen(T{static_cast<uint16_t>(pair >> 16)}));
}

// "ex2.approx.ftz.f32": subnormal inputs and results are zeros of their sign. Exact where the device is within 2 ulp.
inline float exp2_approx(float exponent) {
    const float power = exp2f(exponent);
    return power < 0x1p-126f ? 0.0f : power;
}

inline void copy_async(uint32_t shared_destination, const void* global_source, uint32_t num_bytes) {
    simulator_copy_async(simulator_thread, shared_destination, global_source, num_bytes);
}

inline void copy_async_commit() {
    simulator_copy_async_commit(simulator_thread);
}

template <int pending>
inline void copy_async_wait() {
    static_assert(pending >= 0, "a count of groups");
    simulator_copy_async_wait(simulator_thread, pending);
}

inline void simulator_load_matrices(SimulatorOperation operation, uint32_t (&matrices)[4], uint32_t shared_row) {
    SimulatorMatrixLoad operands;
    operands.row = shared_row;
    simulator_meet(simulator_thread, operation, 0xffffffffu, &operands);
    __builtin_memcpy(matrices, operands.matrices, sizeof matrices);
}

inline void load_matrices(uint32_t (&matrices)[4], uint32_t shared_row) {
    simulator_load_matrices(SimulatorOperation::load_matrices, matrices, shared_row);
}

inline void load_matrices_transposed(uint32_t (&matrices)[4], uint32_t shared_row) {
    simulator_load_matrices(SimulatorOperation::load_matrices_transposed, matrices, shared_row);
}

inline void simulator_multiply(SimulatorOperation operation, float (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                               uint32_t b1) {
    SimulatorProduct operands{{sums[0], sums[1], sums[2], sums[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}};
    simulator_meet(simulator_thread, operation, 0xffffffffu, &operands);
    __builtin_memcpy(sums, operands.sums, sizeof sums);
}

template <class T>
void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
inline void multiply_add<Bf16>(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    simulator_multiply(SimulatorOperation::multiply_bf16, sums, a, b0, b1);
}

template <>
inline void multiply_add<Fp16>(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    simulator_multiply(SimulatorOperation::multiply_fp16, sums, a, b0, b1);
}

inline void wait_for_previous_grid() {
    simulator_wait_for_previous_grid(simulator_thread);
}

// Grids run one after another.
inline void launch_next_grid() {
}

inline void start_in_turn() {
    launch_next_grid();
    wait_for_previous_grid();
}
