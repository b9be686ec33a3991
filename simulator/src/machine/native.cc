// What the machine does in C++ rather than Rust: the pointer to the running thread, which kernels read on every use of
// threadIdx, and the accesses to global memory on a kernel's behalf, so that the sanitizers see them.
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

thread_local SimulatorThread* simulator_thread = nullptr;

extern "C" {

// Where this host thread keeps its pointer to the running thread.
SimulatorThread** simulator_thread_slot() {
    return &simulator_thread;
}

void simulator_copy(uint8_t* destination, const uint8_t* source, uint32_t num_bytes) {
    memcpy(destination, source, num_bytes);
    memset(destination + num_bytes, 0, 16 - num_bytes);
}

// Makes the bytes out of bounds for AddressSanitizer, where it watches, or in bounds again.
void simulator_forbid(const uint8_t* bytes, size_t num_bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(bytes, num_bytes);
#else
    static_cast<void>(bytes), static_cast<void>(num_bytes);
#endif
}

void simulator_allow(const uint8_t* bytes, size_t num_bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(bytes, num_bytes);
#else
    static_cast<void>(bytes), static_cast<void>(num_bytes);
#endif
}
}
