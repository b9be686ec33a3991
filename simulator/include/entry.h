// What the build script puts after a kernel's file, once for each entry point.
//
// Padding of params holds whatever the stack had there, which may look like an address. A compiler that cannot clear it
// leaves it, and a launch may then be told, once in some hundred runs, to use memory that it does not.
#pragma once
#include <stdint.h>
#include <string.h>

// src/machine/entries.rs reads it.
struct SimulatorEntry {
    void (*function)(const void* params);
    void (*clear_padding)(void* params);
    uint64_t params_bytes;
    uint32_t max_threads;
};

constexpr uint32_t simulator_max_threads(uint32_t max_threads, uint32_t = 0, uint32_t = 0) {
    return max_threads;
}

// The host calls it, where no kernel runs whose stores could be noted.
template <class Params>
__attribute__((no_sanitize("kernel-address"))) void simulator_clear_padding([[maybe_unused]] void* bytes) {
#if __has_builtin(__builtin_clear_padding)
    Params params;
    memcpy(&params, bytes, sizeof params);
    __builtin_clear_padding(&params);
    memcpy(bytes, &params, sizeof params);
#endif
}

#define SIMULATOR_ENTRY(symbol, Params, ...)                                        \
    static void simulator_run_##symbol(const void* bytes) {                         \
        Params params;                                                              \
        memcpy(&params, bytes, sizeof params);                                      \
        simulator_kernel_##symbol(params);                                          \
    }                                                                               \
    extern "C" const SimulatorEntry simulator_entry_##symbol;                       \
    const SimulatorEntry simulator_entry_##symbol = {                               \
        simulator_run_##symbol, simulator_clear_padding<Params>, sizeof(Params),    \
        simulator_max_threads(__VA_ARGS__)};
