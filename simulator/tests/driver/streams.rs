//! What streams and events order, and what they do not.

use super::bindings::*;
use super::gpu::*;

/// A value of 1, doubled twice by two streams, with or without the event that orders them.
fn two_streams(seed: u64, waits: bool) -> f32 {
    let gpu = Gpu::new(seed);
    let (first, second, event) = (gpu.stream(), gpu.stream(), gpu.event());
    let (a, b, c) = (gpu.upload(&[1.0]), gpu.upload(&[10.0]), gpu.memory(4));
    let double = gpu.double_values();
    double.launch(a, b, 1, first);
    ok(cuEventRecord(event, first));
    if waits {
        ok(cuStreamWaitEvent(second, event, 0));
    }
    double.launch(b, c, 1, second);
    gpu.download(c, 1, second)[0]
}

#[test]
fn a_missing_wait_shows_under_some_seeds_and_a_wait_holds_under_all() {
    assert!(seeds().all(|seed| two_streams(seed, true) == 4.0));
    let without: Vec<f32> = seeds().map(|seed| two_streams(seed, false)).collect();
    assert!(without.contains(&20.0), "the second stream never came first");
    assert!(without.contains(&4.0), "the first stream never came first");
}

#[test]
fn a_stream_keeps_its_order() {
    for seed in seeds() {
        let gpu = Gpu::new(seed);
        let (stream, double) = (gpu.stream(), gpu.double_values());
        let [a, b] = [gpu.upload(&[1.0; 70]), gpu.memory(280)];
        for _ in 0..3 {
            double.launch(a, b, 70, stream);
            double.launch(b, a, 70, stream);
        }
        ok(cuMemcpyDtoDAsync_v2(b, a, 4, stream));
        ok(cuMemsetD32Async(a + 4, 2.0f32.to_bits(), 2, stream));
        ok(cuMemsetD8Async(a + 12, 0, 4, stream));
        assert_eq!(gpu.download(a, 5, stream), [64.0, 2.0, 2.0, 0.0, 64.0]);
        assert_eq!(gpu.download(b, 2, stream), [64.0, 32.0]);
    }
}

#[test]
fn nothing_is_done_before_somebody_waits_unless_the_device_may_be_prompt() {
    let gpu = Gpu::new(0);
    let (stream, double, a) = (gpu.stream(), gpu.double_values(), gpu.upload(&[1.0]));
    double.launch(a, a, 1, stream);
    assert_eq!(tilesight_simulator_num_launches(), 0);
    ok(cuStreamSynchronize(stream));
    assert_eq!(tilesight_simulator_num_launches(), 1);
    tilesight_simulator_set_prompt(true);
    for _ in 0..20 {
        double.launch(a, a, 1, stream);
    }
    assert!(tilesight_simulator_num_launches() > 1);
}

#[test]
fn queries_make_progress_and_say_when_there_is_none_left() {
    for seed in seeds() {
        let gpu = Gpu::new(seed);
        let (stream, double, a, event) = (gpu.stream(), gpu.double_values(), gpu.upload(&[1.0]), gpu.event());
        ok(cuEventQuery(event));
        double.launch(a, a, 1, stream);
        double.launch(a, a, 1, stream);
        ok(cuEventRecord(event, stream));
        let polls = (0..1000).take_while(|_| cuEventQuery(event) == NOT_READY).count();
        assert!((2..1000).contains(&polls), "{polls} polls");
        ok(cuStreamQuery(stream));
        assert_eq!(gpu.download(a, 1, stream), [4.0]);
    }
}

#[test]
fn an_event_marks_what_was_given_before_it_was_last_recorded() {
    for seed in seeds() {
        let gpu = Gpu::new(seed);
        let (stream, double, a) = (gpu.stream(), gpu.double_values(), gpu.upload(&[1.0]));
        let [start, end] = [0; 2].map(|_: i32| made(|event| cuEventCreate(event, 0)));
        let mut milliseconds = 0.0;
        assert_eq!(cuEventElapsedTime_v2(&mut milliseconds, start, end), INVALID_HANDLE);
        ok(cuEventRecord(start, stream));
        double.launch(a, a, 1, stream);
        ok(cuEventRecord(end, stream));
        double.launch(a, a, 1, stream);
        assert_eq!(cuEventElapsedTime_v2(&mut milliseconds, start, end), NOT_READY);
        ok(cuEventSynchronize(end));
        assert!(tilesight_simulator_num_launches() >= 1);
        ok(cuEventElapsedTime_v2(&mut milliseconds, start, end));
        assert!(milliseconds > 0.0);
        ok(cuEventDestroy_v2(start));
        assert_eq!(cuEventRecord(start, stream), INVALID_HANDLE);
    }
}

#[test]
fn the_default_stream_and_blocking_streams_wait_for_each_other() {
    for seed in seeds() {
        let gpu = Gpu::new(seed);
        let blocking: usize = made(|stream| cuStreamCreate(stream, 0));
        let (double, a) = (gpu.double_values(), gpu.upload(&[1.0]));
        double.launch(a, a, 1, blocking);
        double.launch(a, a, 1, 0);
        double.launch(a, a, 1, blocking);
        assert_eq!(gpu.download(a, 1, blocking), [8.0]);
    }
    let late = |seed| {
        let gpu = Gpu::new(seed);
        let (free, double, a, b) = (gpu.stream(), gpu.double_values(), gpu.memory(4), gpu.memory(4));
        ok(cuMemcpyHtoD_v2(a, [1.0f32].as_ptr().cast(), 4));
        double.launch(a, b, 1, free);
        gpu.download(b, 1, free)[0]
    };
    let values: Vec<f32> = seeds().map(late).collect();
    assert!(
        values.iter().any(|value| value.is_nan()),
        "a pageable copy always came before a stream that does not wait"
    );
    assert!(values.contains(&2.0));
}

#[test]
fn devices_have_streams_of_their_own_and_share_events() {
    for seed in seeds() {
        let simulator = Simulator::new();
        assert!(tilesight_simulator_set_devices(2));
        let gpu = Gpu::on(simulator, seed);
        let (first, event) = (gpu.stream(), gpu.event());
        ok(cuEventRecord(event, first));
        let context = retain(1);
        let (second, a) = (gpu.stream(), gpu.upload(&[3.0]));
        assert_eq!(cuEventRecord(event, second), INVALID_HANDLE);
        ok(cuStreamWaitEvent(second, event, 0));
        gpu.double_values().launch(a, a, 1, second);
        assert_eq!(gpu.download(a, 1, second), [6.0]);
        assert_eq!(made::<usize>(|current| cuCtxGetCurrent(current)), context);
    }
}

#[test]
fn every_thread_has_a_default_stream_of_its_own() {
    const PER_THREAD: usize = 2;
    /// Doubles the value twice, once by each of two threads, on the default stream of each.
    fn by_two_threads(seed: u64, waits: bool) -> f32 {
        let gpu = Gpu::new(seed);
        let (double, event) = (gpu.double_values(), gpu.event());
        let (a, b, c) = (gpu.upload(&[1.0]), gpu.upload(&[10.0]), gpu.memory(4));
        double.launch(a, b, 1, PER_THREAD);
        ok(cuEventRecord(event, PER_THREAD));
        let context = made(|current| cuCtxGetCurrent(current));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                ok(cuCtxSetCurrent(context));
                if waits {
                    ok(cuStreamWaitEvent(PER_THREAD, event, 0));
                }
                double.launch(b, c, 1, PER_THREAD);
                ok(cuStreamSynchronize(PER_THREAD));
            });
        });
        gpu.download(c, 1, PER_THREAD)[0]
    }
    assert!(seeds().all(|seed| by_two_threads(seed, true) == 4.0));
    let without: Vec<f32> = seeds().map(|seed| by_two_threads(seed, false)).collect();
    assert!(without.contains(&20.0) && without.contains(&4.0), "{without:?}");
    // It and the default stream of all threads wait for each other.
    for seed in seeds() {
        let gpu = Gpu::new(seed);
        let (double, a) = (gpu.double_values(), gpu.upload(&[1.0]));
        [PER_THREAD, 0, PER_THREAD].into_iter().for_each(|stream| double.launch(a, a, 1, stream));
        assert_eq!(gpu.download(a, 1, PER_THREAD), [8.0]);
        assert_eq!(made::<usize>(|owner| cuStreamGetCtx(PER_THREAD, owner)), made(|current| cuCtxGetCurrent(current)));
    }
}
