//! Memory: what the host may do to it while copies are under way, limits, and what is found out of its misuse.

use std::ffi::c_void;

use super::bindings::*;
use super::gpu::*;

#[test]
fn pinned_memory_is_read_when_the_copy_is_done() {
    let reused = |seed, waits: bool| {
        let gpu = Gpu::new(seed);
        let (stream, other, memory, staging) = (gpu.stream(), gpu.stream(), gpu.memory(4), gpu.pinned(1));
        staging[0] = 1.0;
        ok(cuMemcpyHtoDAsync_v2(memory, staging.as_ptr().cast(), 4, stream));
        ok(cuStreamSynchronize(if waits { stream } else { other }));
        staging[0] = 2.0;
        gpu.download(memory, 1, stream)[0]
    };
    assert!(seeds().all(|seed| reused(seed, true) == 1.0));
    assert!(seeds().any(|seed| reused(seed, false) == 2.0), "memory reused too early never showed");
}

#[test]
fn pinned_memory_is_written_when_the_copy_is_done() {
    for seed in seeds() {
        let gpu = Gpu::new(seed);
        let (stream, memory, result) = (gpu.stream(), gpu.upload(&[5.0]), gpu.pinned(1));
        assert!(result[0].is_nan(), "fresh memory is not poisoned");
        ok(cuMemcpyDtoHAsync_v2(result.as_mut_ptr().cast(), memory, 4, stream));
        assert!(result[0].is_nan(), "a copy was done before anybody waited");
        ok(cuStreamSynchronize(stream));
        assert_eq!(result[0], 5.0);
    }
}

#[test]
fn pageable_memory_is_free_again_when_the_call_returns() {
    for seed in seeds() {
        let gpu = Gpu::new(seed);
        let (stream, memory) = (gpu.stream(), gpu.memory(4));
        let mut value = 1.0f32;
        ok(cuMemcpyHtoDAsync_v2(memory, (&raw const value).cast(), 4, stream));
        value += 1.0;
        assert_eq!(gpu.download(memory, 1, stream), [1.0]);
        ok(cuMemcpyHtoD_v2(memory, (&raw const value).cast(), 4));
        let mut read = 0.0f32;
        ok(cuMemcpyDtoH_v2((&raw mut read).cast(), memory, 4));
        assert_eq!(read, 2.0);
    }
}

#[test]
fn allocations_are_aligned_poisoned_and_limited() {
    let simulator = Simulator::new();
    tilesight_simulator_set_memory(1 << 20);
    let gpu = Gpu::on(simulator, 0);
    let memory = gpu.memory(1000);
    assert_eq!(memory % 256, 0);
    assert!(gpu.download(memory, 250, gpu.stream()).iter().all(|value| value.is_nan()));
    let (mut free, mut total, mut address) = (0, 0, 0);
    ok(cuMemGetInfo_v2(&mut free, &mut total));
    assert_eq!((free, total), ((1 << 20) - 1000, 1 << 20));
    assert_eq!(cuMemAlloc_v2(&mut address, free + 1), OUT_OF_MEMORY);
    assert_eq!(cuMemAlloc_v2(&mut address, 0), INVALID_VALUE);
    let rest = gpu.memory(free);
    assert_eq!(cuMemAlloc_v2(&mut address, 1), OUT_OF_MEMORY);
    ok(cuMemFree_v2(rest));
    ok(cuMemFree_v2(gpu.memory(free)));
    assert_eq!(cuMemFree_v2(memory + 4), INVALID_VALUE);
    ok(cuMemFree_v2(memory));
    assert_eq!(cuMemFree_v2(memory), INVALID_VALUE);
}

#[test]
fn a_copy_stays_within_one_allocation_of_each_side() {
    let gpu = Gpu::new(0);
    let (stream, memory, pinned) = (gpu.stream(), gpu.memory(64), gpu.pinned(8));
    let values = [0.0f32; 32];
    let from: *const c_void = values.as_ptr().cast();
    assert_eq!(cuMemcpyHtoDAsync_v2(memory, from, 65, stream), INVALID_VALUE);
    assert_eq!(cuMemcpyHtoDAsync_v2(memory + 1, from, 64, stream), INVALID_VALUE);
    assert_eq!(cuMemcpyHtoDAsync_v2(memory, pinned.as_ptr().cast(), 33, stream), INVALID_VALUE);
    assert_eq!(cuMemcpyHtoDAsync_v2(memory, memory as *const c_void, 4, stream), INVALID_VALUE);
    assert_eq!(cuMemcpyDtoDAsync_v2(memory, from as u64, 4, stream), INVALID_VALUE);
    assert_eq!(cuMemsetD8Async(memory, 0, 65, stream), INVALID_VALUE);
    assert_eq!(cuMemsetD32Async(memory + 2, 0, 1, stream), INVALID_VALUE);
    assert_eq!(cuMemcpyHtoDAsync_v2(memory, from, 64, 77), INVALID_HANDLE);
    ok(cuMemcpyHtoDAsync_v2(memory, from, 64, stream));
    ok(cuMemcpyHtoDAsync_v2(memory, from, 0, stream));
    ok(cuCtxSynchronize());
}

#[test]
fn memory_that_is_freed_while_work_needs_it_is_a_fault_that_stays() {
    let gpu = Gpu::new(0);
    let (stream, from, to) = (gpu.stream(), gpu.upload(&[1.0]), gpu.memory(4));
    gpu.double_values().launch(from, to, 1, stream);
    assert_eq!(cuMemFree_v2(from), ILLEGAL_ADDRESS);
    assert_eq!(cuStreamSynchronize(stream), ILLEGAL_ADDRESS);
    assert_eq!(cuMemFree_v2(to), ILLEGAL_ADDRESS);
    assert_eq!(num_alive(c"allocations"), 0);
}

#[test]
fn pinned_memory_that_is_freed_while_a_copy_needs_it_is_a_fault() {
    let gpu = Gpu::new(0);
    let (stream, memory, staging) = (gpu.stream(), gpu.memory(4), gpu.pinned(1));
    ok(cuMemcpyHtoDAsync_v2(memory, staging.as_ptr().cast(), 4, stream));
    assert_eq!(cuMemFreeHost(staging.as_mut_ptr().cast()), ILLEGAL_ADDRESS);
}

#[test]
fn a_launch_with_memory_that_was_freed_is_a_fault() {
    let gpu = Gpu::new(0);
    let (stream, from, to) = (gpu.stream(), gpu.upload(&[1.0]), gpu.memory(4));
    ok(cuMemFree_v2(from));
    gpu.double_values().launch(from, to, 1, stream);
    assert_eq!(cuStreamSynchronize(stream), ILLEGAL_ADDRESS);
}

#[test]
fn a_launch_with_another_devices_memory_is_a_fault() {
    let simulator = Simulator::new();
    assert!(tilesight_simulator_set_devices(2));
    let gpu = Gpu::on(simulator, 0);
    let foreign = gpu.upload(&[1.0]);
    retain(1);
    let (stream, to) = (gpu.stream(), gpu.memory(4));
    assert_eq!(cuMemcpyDtoDAsync_v2(to, foreign, 4, stream), INVALID_VALUE);
    gpu.double_values().launch(foreign, to, 1, stream);
    assert_eq!(cuStreamSynchronize(stream), ILLEGAL_ADDRESS);
}

// AddressSanitizer ends the process at such a write.
#[cfg(not(feature = "sanitize"))]
#[test]
fn a_write_beyond_an_allocation_is_a_fault_after_the_kernel() {
    let gpu = Gpu::new(0);
    let (stream, from, to) = (gpu.stream(), gpu.upload(&[1.0; 3]), gpu.memory(8));
    gpu.double_values().launch(from, to, 3, stream);
    assert_eq!(cuCtxSynchronize(), ILLEGAL_ADDRESS);
    assert_eq!(cuStreamQuery(stream), ILLEGAL_ADDRESS);
}

#[cfg(not(feature = "sanitize"))]
#[test]
fn a_write_after_the_end_of_an_allocation_is_found_when_the_context_ends() {
    let gpu = Gpu::new(0);
    let pinned = gpu.pinned(4);
    ok(cuMemFreeHost(pinned.as_mut_ptr().cast()));
    pinned[1] = 0.0;
    ok(cuDevicePrimaryCtxRelease_v2(0));
    assert_eq!(cuDevicePrimaryCtxRetain(&mut 0, 0), ILLEGAL_ADDRESS);
}
