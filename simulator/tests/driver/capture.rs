//! Graphs: what is recorded, in which order it is replayed, and what a recording forbids.

use super::bindings::*;
use super::gpu::*;

/// What the work that `give` gives to `stream` is, recorded and ready to launch.
fn record(stream: usize, give: impl FnOnce()) -> (usize, usize) {
    ok(cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
    give();
    let graph = made(|graph| cuStreamEndCapture(stream, graph));
    (graph, made(|executable| cuGraphInstantiateWithFlags(executable, graph, 0)))
}

fn num_nodes(graph: usize) -> usize {
    made(|count| cuGraphGetNodes(graph, std::ptr::null_mut(), count))
}

#[test]
fn a_graph_does_what_was_recorded_as_often_as_it_is_launched() {
    for seed in seeds() {
        let gpu = Gpu::new(seed);
        let (stream, double, a, b) = (gpu.stream(), gpu.double_values(), gpu.upload(&[1.0]), gpu.memory(4));
        let staging = gpu.pinned(1);
        let (graph, executable) = record(stream, || {
            double.launch(a, b, 1, stream);
            ok(cuMemcpyDtoDAsync_v2(a, b, 4, stream));
            ok(cuMemsetD8Async(b, 0, 4, stream));
            ok(cuMemcpyDtoHAsync_v2(staging.as_mut_ptr().cast(), a, 4, stream));
        });
        assert_eq!(num_nodes(graph), 4);
        let mut nodes = [9; 6];
        let mut count = nodes.len();
        ok(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count));
        assert_eq!((count, nodes), (4, [1, 2, 3, 4, 0, 0]));
        assert_eq!(gpu.download(a, 1, stream), [1.0], "recorded work was done");
        ok(cuGraphDestroy(graph));
        ok(cuGraphUpload(executable, stream));
        for _ in 0..3 {
            ok(cuGraphLaunch(executable, stream));
        }
        // What comes after a launch waits for all of it.
        double.launch(a, a, 1, stream);
        ok(cuGraphExecDestroy(executable));
        ok(cuStreamSynchronize(stream));
        assert_eq!(staging[0], 8.0);
        assert_eq!(gpu.download(a, 1, stream), [16.0]);
        assert_eq!(gpu.download(b, 1, stream), [0.0]);
        assert_eq!(cuGraphLaunch(executable, stream), INVALID_HANDLE);
    }
}

/// A fork into a second stream and, if the end waits for it, a join.
fn fork(gpu: &Gpu, [a, b, c]: [u64; 3], joins: bool) -> (usize, usize, u32) {
    let (first, second, double) = (gpu.stream(), gpu.stream(), gpu.double_values());
    let (forked, joined) = (gpu.event(), gpu.event());
    ok(cuStreamBeginCapture_v2(first, THREAD_LOCAL));
    double.launch(a, b, 1, first);
    ok(cuEventRecord(forked, first));
    ok(cuStreamWaitEvent(second, forked, 0));
    assert_eq!(made::<i32>(|status| cuStreamIsCapturing(second, status)), 1);
    double.launch(b, c, 1, second);
    ok(cuEventRecord(joined, second));
    if joins {
        ok(cuStreamWaitEvent(first, joined, 0));
        double.launch(c, a, 1, first);
    }
    let mut graph = 9;
    let status = cuStreamEndCapture(first, &mut graph);
    assert_eq!(made::<i32>(|status| cuStreamIsCapturing(second, status)), 0);
    (first, graph, status)
}

#[test]
fn streams_that_fork_and_join_record_one_graph() {
    for seed in seeds() {
        let gpu = Gpu::new(seed);
        let memory = [gpu.upload(&[1.0]), gpu.memory(4), gpu.memory(4)];
        let (stream, graph, status) = fork(&gpu, memory, true);
        ok(status);
        assert_eq!(num_nodes(graph), 3);
        let executable = made(|executable| cuGraphInstantiateWithFlags(executable, graph, 0));
        ok(cuGraphLaunch(executable, stream));
        // On another stream: launches of one graph never overlap.
        let other = gpu.stream();
        ok(cuGraphLaunch(executable, other));
        assert_eq!(gpu.download(memory[0], 1, other), [64.0]);
    }
}

#[test]
fn a_fork_that_is_not_joined_is_no_graph() {
    let gpu = Gpu::new(0);
    let memory = [gpu.upload(&[1.0]), gpu.memory(4), gpu.memory(4)];
    let (_, graph, status) = fork(&gpu, memory, false);
    assert_eq!((graph, status), (0, CAPTURE_UNJOINED));
}

#[test]
fn branches_of_a_graph_have_no_order() {
    let value = |seed| {
        let gpu = Gpu::new(seed);
        let (first, second, double) = (gpu.stream(), gpu.stream(), gpu.double_values());
        let [a, b, c] = [gpu.upload(&[1.0]), gpu.upload(&[10.0]), gpu.memory(4)];
        let (forked, joined) = (gpu.event(), gpu.event());
        let (_, executable) = record(first, || {
            ok(cuEventRecord(forked, first));
            ok(cuStreamWaitEvent(second, forked, 0));
            double.launch(a, b, 1, first);
            double.launch(b, c, 1, second);
            ok(cuEventRecord(joined, second));
            ok(cuStreamWaitEvent(first, joined, 0));
        });
        ok(cuGraphLaunch(executable, first));
        gpu.download(c, 1, first)[0]
    };
    let values: Vec<f32> = seeds().map(value).collect();
    assert!(values.contains(&4.0) && values.contains(&20.0), "{values:?}");
}

/// Captures, and checks that `forbidden` is refused with `status`, and that the capture is then void.
fn assert_voids(status: u32, forbidden: impl FnOnce(&Gpu, usize) -> u32) {
    let gpu = Gpu::new(0);
    let (stream, a) = (gpu.stream(), gpu.upload(&[1.0]));
    let double = gpu.double_values();
    ok(cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
    double.launch(a, a, 1, stream);
    assert_eq!(forbidden(&gpu, stream), status);
    assert_eq!(made::<i32>(|status| cuStreamIsCapturing(stream, status)), 2);
    assert_eq!(double.try_launch(a, a, 1, stream), CAPTURE_INVALIDATED);
    let mut graph = 9;
    assert_eq!(cuStreamEndCapture(stream, &mut graph), CAPTURE_INVALIDATED);
    assert_eq!(graph, 0);
    // The stream is as any other again.
    double.launch(a, a, 1, stream);
    assert_eq!(gpu.download(a, 1, stream), [2.0]);
}

#[test]
fn what_a_recording_cannot_see_voids_it() {
    assert_voids(CAPTURE_UNSUPPORTED, |_, _| cuMemAlloc_v2(&mut 0, 4));
    assert_voids(CAPTURE_UNSUPPORTED, |_, stream| cuStreamSynchronize(stream));
    assert_voids(CAPTURE_UNSUPPORTED, |_, stream| cuStreamQuery(stream));
    assert_voids(CAPTURE_UNSUPPORTED, |_, _| cuCtxSynchronize());
    assert_voids(CAPTURE_UNSUPPORTED, |_, _| cuMemcpyHtoD_v2(0, std::ptr::null(), 4));
    assert_voids(CAPTURED_EVENT, |gpu, stream| {
        let event = gpu.event();
        ok(cuEventRecord(event, stream));
        cuEventQuery(event)
    });
}

#[test]
fn a_recording_depends_on_nothing_outside_of_it() {
    assert_voids(CAPTURE_ISOLATION, |gpu, stream| {
        let (other, event) = (gpu.stream(), gpu.event());
        ok(cuEventRecord(event, other));
        cuStreamWaitEvent(stream, event, 0)
    });
    assert_voids(CAPTURE_MERGE, |gpu, stream| {
        let (other, event) = (gpu.stream(), gpu.event());
        ok(cuStreamBeginCapture_v2(other, THREAD_LOCAL));
        ok(cuEventRecord(event, other));
        let status = cuStreamWaitEvent(stream, event, 0);
        assert_eq!(cuStreamEndCapture(other, &mut 0), CAPTURE_INVALIDATED);
        status
    });
    assert_voids(CAPTURE_UNMATCHED, |gpu, stream| {
        let (other, event) = (gpu.stream(), gpu.event());
        ok(cuEventRecord(event, stream));
        ok(cuStreamWaitEvent(other, event, 0));
        cuStreamEndCapture(other, &mut 0)
    });
}

#[test]
fn the_default_stream_does_not_mix_with_recording() {
    let gpu = Gpu::new(0);
    let (blocking, a) = (made(|stream| cuStreamCreate(stream, 0)), gpu.upload(&[1.0]));
    let double = gpu.double_values();
    assert_eq!(cuStreamBeginCapture_v2(0, THREAD_LOCAL), CAPTURE_UNSUPPORTED);
    ok(cuStreamBeginCapture_v2(blocking, THREAD_LOCAL));
    assert_eq!(cuStreamBeginCapture_v2(blocking, THREAD_LOCAL), ILLEGAL_STATE);
    assert_eq!(cuStreamIsCapturing(0, &mut 0), CAPTURE_IMPLICIT);
    assert_eq!(made::<i32>(|status| cuStreamIsCapturing(blocking, status)), 1);
    assert_eq!(double.try_launch(a, a, 1, 0), CAPTURE_IMPLICIT);
    assert_eq!(cuStreamEndCapture(blocking, &mut 0), CAPTURE_INVALIDATED);
    assert_eq!(cuStreamEndCapture(blocking, &mut 0), ILLEGAL_STATE);
}

#[test]
fn other_threads_are_free_while_one_records_for_itself() {
    let gpu = Gpu::new(0);
    let (stream, context) = (gpu.stream(), made(|context| cuCtxGetCurrent(context)));
    let elsewhere = |call: fn(usize) -> u32| {
        std::thread::spawn(move || {
            ok(cuCtxSetCurrent(context));
            call(stream)
        })
        .join()
        .unwrap()
    };
    let allocate = |_| cuMemAlloc_v2(&mut 0, 4);
    ok(cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
    ok(elsewhere(allocate));
    assert_eq!(elsewhere(|stream| cuStreamEndCapture(stream, &mut 0)), CAPTURE_WRONG_THREAD);
    assert_eq!(num_nodes(made(|graph| cuStreamEndCapture(stream, graph))), 0);
    ok(cuStreamBeginCapture_v2(stream, GLOBAL));
    assert_eq!(elsewhere(allocate), CAPTURE_UNSUPPORTED);
    assert_eq!(cuStreamEndCapture(stream, &mut 0), CAPTURE_INVALIDATED);
}

#[test]
fn what_is_not_simulated_says_so() {
    let gpu = Gpu::new(0);
    let (stream, memory) = (gpu.stream(), gpu.memory(4));
    let (_, executable) = record(stream, || ());
    ok(cuGraphLaunch(executable, stream));
    ok(cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
    assert_eq!(cuMemcpyHtoDAsync_v2(memory, [0u32].as_ptr().cast(), 4, stream), NOT_SUPPORTED);
    assert_eq!(cuGraphLaunch(executable, stream), NOT_SUPPORTED);
    ok(cuStreamEndCapture(stream, &mut 0));
}
