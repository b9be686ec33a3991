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

// What a copy of a tensor does to global memory; its other side is the machine's own.
void simulator_move(uint8_t* destination, const uint8_t* source, size_t num_bytes) {
    memcpy(destination, source, num_bytes);
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

#if !defined(__SANITIZE_ADDRESS__)
void simulator_early_store(SimulatorThread* thread, uintptr_t address);

// Kernels for Hopper call it before every store: the compiler's outlined check of addresses, put to another use. Shared
// memory remembers who wrote it, so that it can be told what the asynchronous proxy must not read yet; global memory must
// not be written before the grids that come before have ended.
static void simulator_note_store(uintptr_t address, size_t num_bytes) {
    SimulatorThread* thread = simulator_thread;
    const uintptr_t offset = address - reinterpret_cast<uintptr_t>(thread->shared);
    if (offset < thread->shared_bytes) {
        const uintptr_t end = offset + num_bytes < thread->shared_bytes ? offset + num_bytes : thread->shared_bytes;
        for (uintptr_t element = offset / 2; 2 * element < end; ++element) {
            thread->writers[element] = thread->writer;
        }
        return;
    }
    const bool is_local = address >= thread->stack_start && address < thread->stack_end;
    if (*thread->is_early != 0 && !is_local) {
        simulator_early_store(thread, address);
    }
}

void __asan_store1_noabort(uintptr_t address) {
    simulator_note_store(address, 1);
}
void __asan_store2_noabort(uintptr_t address) {
    simulator_note_store(address, 2);
}
void __asan_store4_noabort(uintptr_t address) {
    simulator_note_store(address, 4);
}
void __asan_store8_noabort(uintptr_t address) {
    simulator_note_store(address, 8);
}
void __asan_store16_noabort(uintptr_t address) {
    simulator_note_store(address, 16);
}
void __asan_storeN_noabort(uintptr_t address, size_t num_bytes) {
    simulator_note_store(address, num_bytes);
}
#endif
}
