//! Misfortunes that a test asks for, and those that kernels make themselves.

use std::ffi::CStr;
use std::sync::mpsc;
use std::time::Duration;

use super::bindings::*;
use super::gpu::*;

/// What an engine does in its life, every call of which may fail; nothing may be left of it then.
fn live() -> Result<f32, u32> {
    let check = |status| if status == SUCCESS { Ok(()) } else { Err(status) };
    check(cuInit(0))?;
    let mut context = 0;
    check(cuDevicePrimaryCtxRetain(&mut context, 0))?;
    let (mut stream, mut memory, mut value) = (0, 0, 1.0f32);
    let result = (|| {
        check(cuCtxSetCurrent(context))?;
        check(cuStreamCreate(&mut stream, NON_BLOCKING))?;
        check(cuMemAlloc_v2(&mut memory, 4))?;
        check(cuMemcpyHtoDAsync_v2(memory, (&raw const value).cast(), 4, stream))?;
        check(cuMemcpyDtoHAsync_v2((&raw mut value).cast(), memory, 4, stream))?;
        check(cuStreamSynchronize(stream))
    })();
    if memory != 0 {
        cuMemFree_v2(memory);
    }
    if stream != 0 {
        cuStreamDestroy_v2(stream);
    }
    cuDevicePrimaryCtxRelease_v2(0);
    result.map(|()| value)
}

#[test]
fn each_call_fails_in_its_turn() {
    let _simulator = Simulator::new();
    assert_eq!(live(), Ok(1.0));
    let num_calls = tilesight_simulator_num_calls();
    assert_eq!(num_calls, 11);
    for number in 1..=num_calls {
        tilesight_simulator_reset();
        tilesight_simulator_fail_call(number, 999);
        // The last three give back what there was.
        let expected = if number <= num_calls - 3 { Err(999) } else { Ok(1.0) };
        assert_eq!(live(), expected, "call {number}");
    }
}

#[test]
fn the_calls_of_one_function_fail() {
    let gpu = Gpu::new(0);
    tilesight_simulator_fail_function(c"cuMemAlloc_v2".as_ptr(), OUT_OF_MEMORY);
    assert_eq!(cuMemAlloc_v2(&mut 0, 4), OUT_OF_MEMORY);
    let pinned = gpu.pinned(1);
    ok(cuMemFreeHost(pinned.as_mut_ptr().cast()));
    tilesight_simulator_fail_function(std::ptr::null(), 0);
    ok(cuMemFree_v2(gpu.memory(4)));
}

#[test]
fn a_launch_that_fails_leaves_an_error_for_ever() {
    let gpu = Gpu::new(0);
    let (stream, other, a, double) = (gpu.stream(), gpu.stream(), gpu.upload(&[1.0]), gpu.double_values());
    tilesight_simulator_fail_launch(2, LAUNCH_FAILED);
    double.launch(a, a, 1, stream);
    ok(cuStreamSynchronize(stream));
    // The call itself knows of nothing.
    double.launch(a, a, 1, stream);
    assert_eq!(cuStreamSynchronize(stream), LAUNCH_FAILED);
    assert_eq!(cuStreamSynchronize(other), LAUNCH_FAILED);
    assert_eq!(double.try_launch(a, a, 1, other), LAUNCH_FAILED);
    assert_eq!(cuMemAlloc_v2(&mut 0, 4), LAUNCH_FAILED);
    ok(cuDevicePrimaryCtxRelease_v2(0));
    assert_eq!(cuDevicePrimaryCtxRetain(&mut 0, 0), LAUNCH_FAILED);
}

#[test]
fn what_a_kernel_does_wrong_is_an_error_that_stays() {
    // Fault 1 of either kernel: a lane that leaves before a barrier; an address in shared memory, of which there is none.
    for (kernel, status) in [("diverge", LAUNCH_FAILED), ("go_astray", ILLEGAL_ADDRESS)] {
        let gpu = Gpu::new(0);
        let (stream, memory) = (gpu.stream(), gpu.memory(4096));
        Function::of(kernel).launch(memory, 1, 32, stream);
        assert_eq!(cuCtxSynchronize(), status);
        assert_eq!(cuStreamQuery(stream), status);
    }
}

#[test]
fn a_kernel_that_hangs_holds_up_who_waits_for_it_and_nobody_else() {
    for seed in seeds() {
        let gpu = Gpu::new(seed);
        let (stream, other) = (gpu.stream(), gpu.stream());
        let (a, b, event, double) = (gpu.upload(&[1.0]), gpu.upload(&[1.0]), gpu.event(), gpu.double_values());
        tilesight_simulator_hang_launch(1);
        double.launch(a, a, 1, stream);
        ok(cuEventRecord(event, stream));
        assert!((0..100).all(|_| cuEventQuery(event) == NOT_READY));
        double.launch(b, b, 1, other);
        assert_eq!(gpu.download(b, 1, other), [2.0]);
        let context: usize = made(|context| cuCtxGetCurrent(context));
        let (send, receive) = mpsc::channel();
        let waits = std::thread::spawn(move || {
            ok(cuCtxSetCurrent(context));
            let status = cuEventSynchronize(event);
            send.send(status).unwrap();
        });
        assert!(receive.recv_timeout(Duration::from_millis(5)).is_err(), "a wait for what hangs returned");
        tilesight_simulator_release();
        assert_eq!(receive.recv(), Ok(SUCCESS));
        waits.join().unwrap();
        assert_eq!(gpu.download(a, 1, stream), [2.0]);
        assert_eq!(tilesight_simulator_num_launches(), 2);
    }
}

#[test]
fn what_is_alive_is_counted() {
    const KINDS: [&CStr; 8] =
        [c"contexts", c"allocations", c"pinned", c"streams", c"events", c"modules", c"graphs", c"executables"];
    let census = || KINDS.map(num_alive);
    let gpu = Gpu::new(0);
    assert_eq!(census(), [1, 0, 0, 0, 0, 0, 0, 0]);
    let (memory, pinned, stream, event) = (gpu.memory(4), gpu.pinned(1), gpu.stream(), gpu.event());
    let double = gpu.double_values();
    ok(cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
    assert_eq!(num_alive(c"captures"), 1);
    let graph = made(|graph| cuStreamEndCapture(stream, graph));
    let executable = made(|executable| cuGraphInstantiateWithFlags(executable, graph, 0));
    assert_eq!(census(), [1; 8]);
    ok(cuGraphExecDestroy(executable));
    ok(cuGraphDestroy(graph));
    ok(cuModuleUnload(double.module));
    ok(cuEventDestroy_v2(event));
    ok(cuStreamDestroy_v2(stream));
    ok(cuMemFreeHost(pinned.as_mut_ptr().cast()));
    ok(cuMemFree_v2(memory));
    assert_eq!(census(), [1, 0, 0, 0, 0, 0, 0, 0]);
    ok(cuDevicePrimaryCtxRelease_v2(0));
    assert_eq!(census(), [0; 8]);
    assert_eq!(num_alive(c"others"), -1);
}
