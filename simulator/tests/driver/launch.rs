//! Devices, contexts, modules, and what a launch may ask for.

use std::ffi::{CStr, c_int, c_void};

use super::bindings::*;
use super::gpu::*;

#[test]
fn a_device_says_what_it_is() {
    let simulator = Simulator::new();
    assert!(tilesight_simulator_set_compute_capability(9, 0));
    assert!(!tilesight_simulator_set_compute_capability(7, 5));
    assert!(!tilesight_simulator_set_devices(5));
    assert_eq!(made::<c_int>(|version| cuDriverGetVersion(version)), 13000);
    let mut count = 0;
    assert_eq!(cuDeviceGetCount(&mut count), NOT_INITIALIZED);
    let _gpu = Gpu::on(simulator, 0);
    assert_eq!(made::<c_int>(|count| cuDeviceGetCount(count)), 1);
    assert_eq!(cuDeviceGet(&mut count, 1), INVALID_DEVICE);
    let mut name = [1; 64];
    ok(cuDeviceGetName(name.as_mut_ptr(), 64, 0));
    // SAFETY: the driver ended the name within the buffer.
    assert_eq!(unsafe { CStr::from_ptr(name.as_ptr()) }, c"CUDA simulator");
    ok(cuDeviceGetName(name.as_mut_ptr(), 5, 0));
    // SAFETY: likewise.
    assert_eq!(unsafe { CStr::from_ptr(name.as_ptr()) }, c"CUDA");
    // Capability, shared memory unasked, asked for and of a multiprocessor, warps, threads, registers.
    let expected =
        [(75, 9), (76, 0), (8, 48 << 10), (97, 227 << 10), (81, 228 << 10), (10, 32), (1, 1024), (12, 65536)];
    for (attribute, value) in expected {
        assert_eq!(made::<c_int>(|found| cuDeviceGetAttribute(found, attribute, 0)), value, "attribute {attribute}");
    }
    assert_eq!(cuDeviceGetAttribute(&mut count, 9999, 0), INVALID_VALUE);
    assert_eq!(made::<usize>(|bytes| cuDeviceTotalMem_v2(bytes, 0)), 16 << 30);
}

#[test]
fn statuses_have_their_names() {
    let mut text = std::ptr::null();
    ok(cuGetErrorName(719, &mut text));
    // SAFETY: the driver's texts are static.
    assert_eq!(unsafe { CStr::from_ptr(text) }, c"CUDA_ERROR_LAUNCH_FAILED");
    ok(cuGetErrorString(2, &mut text));
    // SAFETY: likewise.
    assert_eq!(unsafe { CStr::from_ptr(text) }, c"out of memory");
    assert_eq!(cuGetErrorName(12345, &mut text), INVALID_VALUE);
    assert!(text.is_null());
}

#[test]
fn a_call_needs_a_context_of_its_thread() {
    let gpu = Gpu::new(0);
    let stream = gpu.stream();
    let context: usize = made(|context| cuCtxGetCurrent(context));
    std::thread::spawn(move || {
        assert_eq!(cuStreamSynchronize(stream), INVALID_CONTEXT);
        ok(cuCtxPushCurrent_v2(context));
        ok(cuStreamSynchronize(stream));
        assert_eq!(made::<usize>(|popped| cuCtxPopCurrent_v2(popped)), context);
        assert_eq!(cuMemAlloc_v2(&mut 0, 4), INVALID_CONTEXT);
        assert_eq!(cuCtxSetCurrent(77), INVALID_CONTEXT);
    })
    .join()
    .unwrap();
    assert_eq!(made::<usize>(|context| cuDevicePrimaryCtxRetain(context, 0)), context);
    ok(cuDevicePrimaryCtxRelease_v2(0));
    ok(cuStreamSynchronize(stream));
    ok(cuDevicePrimaryCtxRelease_v2(0));
    assert_eq!(num_alive(c"streams"), 0);
    assert_eq!(cuCtxSetCurrent(context), 709);
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), INVALID_CONTEXT);
}

#[test]
fn an_image_is_a_fatbin_for_the_device_that_holds_the_kernel() {
    let gpu = Gpu::new(0);
    let load = |image: &[u8]| {
        let mut module = 0;
        (cuModuleLoadData(&mut module, image.as_ptr().cast()), module)
    };
    assert_eq!(load(b"\x7fELF and so on").0, INVALID_IMAGE);
    assert_eq!(load(&fatbin(2, 90, b".text.double_values\0")).0, NO_BINARY_FOR_GPU);
    assert_eq!(load(&fatbin(2, 86, b".text.double_values\0")).0, NO_BINARY_FOR_GPU);
    assert_eq!(load(&fatbin(1, 90, b".entry double_values(")).0, NO_BINARY_FOR_GPU);
    for image in [fatbin(1, 80, b".entry double_values("), fatbin(2, 80, b".text.double_values\0.text.absent")] {
        let (status, module) = load(&image);
        ok(status);
        let mut function = 0;
        ok(cuModuleGetFunction(&mut function, module, c"double_values".as_ptr()));
        for absent in [c"double_value", c"values", c"name_threads", c"absent", c""] {
            assert_eq!(cuModuleGetFunction(&mut function, module, absent.as_ptr()), NOT_FOUND, "{absent:?}");
        }
        ok(cuModuleUnload(module));
        assert_eq!(cuFuncSetAttribute(function, 8, 0), INVALID_HANDLE);
    }
    assert_eq!(num_alive(c"modules"), 0);
    // A module that is unloaded while its kernel waits.
    let (stream, a, double) = (gpu.stream(), gpu.upload(&[1.0]), gpu.double_values());
    double.launch(a, a, 1, stream);
    assert_eq!(cuModuleUnload(double.module), ILLEGAL_ADDRESS);
}

#[test]
fn a_launch_stays_within_the_limits_of_device_and_kernel() {
    let gpu = Gpu::new(0);
    let (stream, a, function) = (gpu.stream(), gpu.upload(&[1.0]), gpu.double_values().handle);
    let params = [a, a, 1];
    let arguments = [params.as_ptr().cast::<c_void>()];
    let launch = |[x, y, z]: [u32; 3], [bx, by, bz]: [u32; 3], shared| {
        cuLaunchKernel(function, x, y, z, bx, by, bz, shared, stream, arguments.as_ptr(), std::ptr::null())
    };
    ok(launch([1, 1, 1], [128, 1, 1], 48 << 10));
    assert_eq!(launch([0, 1, 1], [32, 1, 1], 0), INVALID_VALUE);
    assert_eq!(launch([1, 65536, 1], [32, 1, 1], 0), INVALID_VALUE);
    assert_eq!(launch([1, 1, 1], [32, 0, 1], 0), INVALID_VALUE);
    assert_eq!(launch([1, 1, 1], [1, 1, 65], 0), INVALID_VALUE);
    assert_eq!(launch([1, 1, 1], [1024, 2, 1], 0), INVALID_VALUE);
    assert_eq!(launch([1, 1, 1], [129, 1, 1], 0), LAUNCH_OUT_OF_RESOURCES);
    assert_eq!(launch([1, 1, 1], [32, 1, 1], (48 << 10) + 1), INVALID_VALUE);
    assert_eq!(cuFuncSetAttribute(function, 8, (163 << 10) + 1), INVALID_VALUE);
    ok(cuFuncSetAttribute(function, 8, 163 << 10));
    ok(launch([1, 1, 1], [32, 1, 1], 163 << 10));
    assert_eq!(launch([1, 1, 1], [32, 1, 1], (163 << 10) + 1), INVALID_VALUE);
    assert_eq!(made::<c_int>(|value| cuFuncGetAttribute(value, 8, function)), 163 << 10);
    assert_eq!(made::<c_int>(|value| cuFuncGetAttribute(value, 0, function)), 128);
    let no_params = std::ptr::null();
    assert_eq!(cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, no_params, no_params), INVALID_VALUE);
    assert_eq!(gpu.download(a, 1, stream), [4.0]);
}

#[test]
fn occupancy_follows_threads_and_shared_memory() {
    let gpu = Gpu::new(0);
    let function = gpu.double_values().handle;
    let blocks = |threads, shared| {
        made::<c_int>(|blocks| cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared))
    };
    assert_eq!(blocks(128, 0), 16);
    assert_eq!(blocks(33, 0), 32);
    assert_eq!(blocks(128, 40 << 10), 4);
    assert_eq!(blocks(256, 0), 0);
}

#[test]
fn params_are_copied_at_the_call() {
    for seed in seeds() {
        let gpu = Gpu::new(seed);
        let (stream, a, b, function) = (gpu.stream(), gpu.upload(&[1.0]), gpu.memory(4), gpu.double_values().handle);
        let mut params = [a, b, 1];
        let mut values = [1, 0, 0, 0, 0, 0, 0, 0];
        let arguments = [(&raw const params).cast::<c_void>()];
        let launch = |id, value| {
            let attributes = [LaunchAttribute { id, padding: 0, value }];
            let (grid, block) = ([1, 1, 1], [32, 1, 1]);
            let config = LaunchConfig {
                grid,
                block,
                shared_bytes: 0,
                stream,
                attributes: attributes.as_ptr(),
                num_attributes: 1,
            };
            cuLaunchKernelEx(&config, function, arguments.as_ptr(), std::ptr::null())
        };
        // Programmatic serialisation, then clusters of one block and of two.
        ok(launch(6, values));
        values[0] = 1 | 1 << 32;
        values[1] = 1;
        ok(launch(4, values));
        values[0] = 2 | 1 << 32;
        assert_eq!(launch(4, values), NOT_SUPPORTED);
        params[1] = 0;
        std::hint::black_box(&mut params);
        assert_eq!(gpu.download(b, 1, stream), [2.0]);
    }
}
