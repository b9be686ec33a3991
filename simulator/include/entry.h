// What the build script puts after a kernel's file, once for each entry point.
#pragma once
#include <stdint.h>
#include <string.h>

// src/machine/entries.rs reads it.
struct SimulatorEntry {
    void (*function)(const void* params);
    uint64_t params_bytes;
    uint32_t max_threads;
};

constexpr uint32_t simulator_max_threads(uint32_t max_threads, uint32_t = 0, uint32_t = 0) {
    return max_threads;
}

#define SIMULATOR_ENTRY(symbol, Params, ...)                                      \
    static void simulator_run_##symbol(const void* bytes) {                       \
        Params params;                                                            \
        memcpy(&params, bytes, sizeof params);                                    \
        simulator_kernel_##symbol(params);                                        \
    }                                                                             \
    extern "C" const SimulatorEntry simulator_entry_##symbol;                     \
    const SimulatorEntry simulator_entry_##symbol = {                             \
        simulator_run_##symbol, sizeof(Params), simulator_max_threads(__VA_ARGS__)};
