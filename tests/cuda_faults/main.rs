//! What the encoder does when the GPU, its driver or its memory fails: a typed error, nothing leaked, and the next batch
//! right. Needs the simulated device, which fails on request: `scripts/on-simulator cargo test --features cuda`.
//! A process of its own: the simulated device fails for the whole process, and counts the calls and objects of all of it.
#![expect(unsafe_code, reason = "symbols of the simulator")]

#[path = "../support/fused_kernels.rs"]
mod fused_kernels;
#[path = "../support/noise.rs"]
mod noise;

use std::ffi::{CString, c_char};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libloading::Library;
use tilesight::checkpoint::{RandomWeights, demo_config};
use tilesight::encoder::{Input, Submission, Timing};
use tilesight::error::{CudaError, InputError};
use tilesight::image::Tiles;
use tilesight::plan::Semantics;
use tilesight::{Device, Dtype, Encoder, EncoderConfig, Error, Kernels};

use fused_kernels::fused_kernels;
use noise::noise;

const INVALID_VALUE: u32 = 1;
const OUT_OF_MEMORY: u32 = 2;
const NO_DEVICE: u32 = 100;
const LAUNCH_FAILED: u32 = 719;
const UNKNOWN: u32 = 999;

/// The simulator is one for the process, so tests take turns.
static TURN: Mutex<()> = Mutex::new(());

/// What a test asks of the simulator.
struct Simulator {
    driver: Library,
    _turn: MutexGuard<'static, ()>,
}

impl Simulator {
    fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the driver's library, which the encoder loads too.
        let driver = unsafe { Library::new("libcuda.so.1") }.expect("run this through scripts/on-simulator");
        let simulator = Self { driver, _turn: turn };
        simulator.call0("tilesight_simulator_reset");
        // Found out before anything is made to fail.
        fused_kernels();
        simulator
    }

    fn symbol<T: Copy>(&self, name: &str) -> T {
        // SAFETY: each caller gives the symbol the type that simulator/src/driver/control.rs has for it.
        let symbol = unsafe { self.driver.get::<T>(name.as_bytes()) };
        *symbol.expect("these tests need the simulated device: scripts/on-simulator cargo test --features cuda")
    }

    fn call0(&self, name: &str) {
        // SAFETY: it takes nothing and gives nothing.
        unsafe { self.symbol::<unsafe extern "C" fn()>(name)() }
    }

    fn call1(&self, name: &str, value: u64) {
        // SAFETY: it takes one number of 64 bits and gives nothing.
        unsafe { self.symbol::<unsafe extern "C" fn(u64)>(name)(value) }
    }

    fn fail(&self, name: &str, number: u64, status: u32) {
        // SAFETY: it takes a number and a status and gives nothing.
        unsafe { self.symbol::<unsafe extern "C" fn(u64, u32)>(name)(number, status) }
    }

    fn fail_call(&self, number: u64, status: u32) {
        self.fail("tilesight_simulator_fail_call", number, status);
    }

    fn fail_function(&self, name: Option<&str>, status: u32) {
        let name = name.map(|name| CString::new(name).unwrap());
        let pointer = name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr());
        let fail = "tilesight_simulator_fail_function";
        // SAFETY: it takes null or a string that ends with zero, and a status.
        unsafe { self.symbol::<unsafe extern "C" fn(*const c_char, u32)>(fail)(pointer, status) }
    }

    fn num_calls(&self) -> u64 {
        // SAFETY: it takes nothing and gives a number.
        unsafe { self.symbol::<unsafe extern "C" fn() -> u64>("tilesight_simulator_num_calls")() }
    }

    fn num_launches(&self) -> u64 {
        // SAFETY: it takes nothing and gives a number.
        unsafe { self.symbol::<unsafe extern "C" fn() -> u64>("tilesight_simulator_num_launches")() }
    }

    /// Objects that are alive, of all kinds but contexts, which the driver keeps.
    fn num_alive(&self) -> i64 {
        let kinds = ["allocations", "pinned", "streams", "events", "modules", "graphs", "executables", "captures"];
        let alive = |kind: &str| {
            let kind = CString::new(kind).unwrap();
            let count = "tilesight_simulator_num_alive";
            // SAFETY: it takes a string that ends with zero and gives a number.
            let count = unsafe { self.symbol::<unsafe extern "C" fn(*const c_char) -> i64>(count)(kind.as_ptr()) };
            assert!(count >= 0, "{kind:?} is no kind of object");
            count
        };
        kinds.into_iter().map(alive).sum()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.call0("tilesight_simulator_reset");
    }
}

/// As little as has every kind of step.
fn config() -> EncoderConfig {
    EncoderConfig {
        num_heads: 1,
        clip_embed_dim: 16,
        clip_num_layers: 1,
        clip_hidden_states: vec![0],
        num_layers_projection: 1,
        decoder_embed_dim: 8,
        tile_size: 28,
        ..demo_config()
    }
}

fn build(kernels: Kernels) -> Result<Encoder, Error> {
    Encoder::builder()
        .checkpoint(RandomWeights::new(&config(), Dtype::Bf16, 5)?.in_memory())
        .config(config())
        .semantics(Semantics::Meta)
        .device(Device::Cuda(vec![0]))
        .kernels(kernels)
        .max_batch_tiles(2)
        .build()
}

/// Three batches, so that all slots are in use.
fn pictures() -> Vec<Tiles> {
    let picture = |number| Tiles { aspect_ratio: [1, 1], pixels: noise(config().tile_len(), number) };
    (0..3).map(picture).collect()
}

fn encode(encoder: &mut Encoder) -> Result<Vec<f32>, Error> {
    Ok(encoder.encode_tiles(&pictures())?.embeddings)
}

#[track_caller]
fn cuda(error: Error) -> CudaError {
    match error {
        Error::Cuda(error) => error,
        other => panic!("not a CUDA error: {other}"),
    }
}

/// Fails each `step`-th of the driver's calls in turn, from the first of an encoder's life to its last.
fn fail_calls(kernels: fn() -> Kernels, status: u32, step: usize) {
    let simulator = Simulator::new();
    let kernels = kernels();
    // On Hopper a third of them: the calls between are those of other GPUs, on which all are tried.
    let step = if kernels == Kernels::Hopper { 3 * step } else { step };
    let start = simulator.num_calls();
    let mut encoder = build(kernels).unwrap();
    let expected = encode(&mut encoder).unwrap();
    drop(encoder);
    let num_calls = simulator.num_calls() - start;
    assert!(num_calls > 100, "an encoder's life is only {num_calls} calls");
    assert_eq!(simulator.num_alive(), 0, "something is left of an encoder that met no failure");
    let (mut num_errors, mut num_tried) = (0, 0);
    for number in (1..=num_calls).step_by(step) {
        num_tried += 1;
        let context = format!("call {number} of {num_calls} failed with {status}");
        simulator.fail_call(simulator.num_calls() + number, status);
        let mut failed = false;
        match build(kernels) {
            Ok(mut encoder) => {
                match encode(&mut encoder) {
                    Ok(embeddings) => assert!(embeddings == expected, "{context}: wrong embeddings"),
                    Err(error) => {
                        failed = true;
                        let error = cuda(error);
                        assert!(!error.is_fatal(), "{context}: {error}");
                        simulator.fail_call(0, 0);
                        let again = encode(&mut encoder).unwrap_or_else(|e| panic!("{context}: then {e}"));
                        assert!(again == expected, "{context}: wrong embeddings after it");
                    }
                }
                drop(encoder);
            }
            Err(error) => {
                failed = true;
                let error = cuda(error);
                assert!(!error.is_fatal(), "{context}: {error}");
            }
        }
        simulator.fail_call(0, 0);
        num_errors += u64::from(failed);
        // Where freeing itself was refused, that one thing is left, and nothing can be done about it.
        let alive = simulator.num_alive();
        assert!(alive == 0 || !failed && alive == 1, "{context}: {alive} objects are left");
        if alive > 0 {
            simulator.call0("tilesight_simulator_reset");
        }
    }
    assert!(num_errors > num_tried / 2, "only {num_errors} of {num_tried} failures were told");
}

#[test]
fn every_call_of_the_driver_may_fail() {
    fail_calls(fused_kernels, INVALID_VALUE, 1);
}

/// The same in another form and with another status; the calls between are those that were tried above.
#[test]
fn calls_under_cublas_may_lack_memory() {
    fail_calls(|| Kernels::Cublas, OUT_OF_MEMORY, 5);
}

/// Submits one picture.
fn submit(encoder: &mut Encoder, picture: &Tiles) -> Result<Submission, Error> {
    encoder.submit(0, &[Input::Pictures(std::slice::from_ref(picture))])
}

/// The embeddings that each of `pictures` has alone; their graph is recorded.
fn alone(encoder: &mut Encoder) -> Vec<Vec<f32>> {
    let encode = |picture| encoder.encode_tiles(std::slice::from_ref(picture)).unwrap().embeddings;
    pictures().iter().map(encode).collect()
}

/// The simulated device works only when the host waits: what is given without a launch was given without waiting.
#[test]
fn a_batch_is_given_while_another_is_under_way() {
    let simulator = Simulator::new();
    let mut encoder = build(fused_kernels()).unwrap();
    let (pictures, expected) = (pictures(), alone(&mut encoder));
    assert_eq!((encoder.num_devices(), encoder.depth()), (1, 2));
    // The first two make what keeps the time.
    for _ in 0..2 {
        for submission in [0, 1].map(|number| submit(&mut encoder, &pictures[number]).unwrap()) {
            encoder.finish(submission).unwrap();
        }
    }
    let (launches, calls) = (simulator.num_launches(), simulator.num_calls());
    let first = submit(&mut encoder, &pictures[0]).unwrap();
    let per_submission = simulator.num_calls() - calls;
    let second = submit(&mut encoder, &pictures[1]).unwrap();
    assert!((10..=16).contains(&per_submission), "{per_submission} calls of the driver a submission");
    assert_eq!(simulator.num_launches(), launches, "the second waited for the first");
    first.computed().unwrap().wait();
    assert!(simulator.num_launches() > launches);
    let third = submit(&mut encoder, &pictures[2]).unwrap();
    // In any order, with a call in between, and one that nobody asks for.
    assert!(encoder.finish(second).unwrap().embeddings == expected[1]);
    let fourth = submit(&mut encoder, &pictures[0]).unwrap();
    assert!(encode(&mut encoder).unwrap() == expected.concat());
    drop(submit(&mut encoder, &pictures[1]).unwrap());
    drop(submit(&mut encoder, &pictures[1]).unwrap());
    for (submission, expected) in [(third, &expected[2]), (first, &expected[0]), (fourth, &expected[0])] {
        let encoded = encoder.finish(submission).unwrap();
        assert!(encoded.embeddings == *expected);
        let Timing::Gpu { h2d, compute, d2h } = encoded.timing else { panic!("it was on the GPU") };
        assert!(!h2d.is_zero() && !compute.is_zero() && !d2h.is_zero(), "operations, as the simulator counts them");
    }
}

#[test]
fn a_submission_that_fails_leaves_the_one_under_way() {
    let simulator = Simulator::new();
    let mut encoder = build(fused_kernels()).unwrap();
    let (pictures, expected) = (pictures(), alone(&mut encoder));
    let mut num_failed = 0;
    loop {
        let first = submit(&mut encoder, &pictures[0]).unwrap();
        simulator.fail_call(simulator.num_calls() + num_failed + 1, INVALID_VALUE);
        let second = submit(&mut encoder, &pictures[1]);
        simulator.fail_call(0, 0);
        assert!(encoder.finish(first).unwrap().embeddings == expected[0], "after {num_failed} calls");
        match second {
            Err(error) => assert!(!cuda(error).is_fatal()),
            Ok(second) => {
                assert!(encoder.finish(second).unwrap().embeddings == expected[1]);
                break;
            }
        }
        num_failed += 1;
    }
    assert!(num_failed >= 8, "only {num_failed} calls of a submission failed");
    assert!(encode(&mut encoder).unwrap() == expected.concat());
}

#[test]
fn a_lost_gpu_gives_none_of_what_is_under_way() {
    let simulator = Simulator::new();
    let mut encoder = build(fused_kernels()).unwrap();
    let pictures = pictures();
    alone(&mut encoder);
    let [first, second] = [0, 1].map(|number| submit(&mut encoder, &pictures[number]).unwrap());
    simulator.fail("tilesight_simulator_fail_launch", simulator.num_launches() + 3, LAUNCH_FAILED);
    first.computed().unwrap().wait();
    for submission in [first, second] {
        let error = cuda(encoder.finish(submission).unwrap_err());
        assert!(error.is_fatal(), "{error}");
    }
}

#[test]
fn a_submission_belongs_to_its_encoder() {
    let _simulator = Simulator::new();
    let [mut encoder, mut other] = [build(fused_kernels()).unwrap(), build(fused_kernels()).unwrap()];
    let picture = &pictures()[0];
    let expected = encoder.encode_tiles(std::slice::from_ref(picture)).unwrap().embeddings;
    let submission = submit(&mut encoder, picture).unwrap();
    let elsewhere = other.finish(submit(&mut encoder, picture).unwrap());
    assert!(matches!(elsewhere, Err(Error::Input(InputError::Unavailable { option: "submission", .. }))));
    assert!(encoder.finish(submission).unwrap().embeddings == expected);
}

#[test]
fn memory_that_is_not_there_is_named() {
    let simulator = Simulator::new();
    simulator.call1("tilesight_simulator_set_memory", 1 << 16);
    match build(fused_kernels()).map(|_| ()).map_err(cuda) {
        Err(CudaError::OutOfMemory { purpose, bytes, .. }) => assert!(!purpose.is_empty() && bytes > 0),
        other => panic!("{other:?}"),
    }
    assert_eq!(simulator.num_alive(), 0);
    simulator.call1("tilesight_simulator_set_memory", 1 << 32);
    encode(&mut build(fused_kernels()).unwrap()).unwrap();
}

#[test]
fn a_machine_without_a_gpu_says_so() {
    let simulator = Simulator::new();
    simulator.fail_function(Some("cuInit"), NO_DEVICE);
    let error = cuda(build(fused_kernels()).map(|_| ()).unwrap_err());
    assert_eq!(error, CudaError::NoDevice { ordinal: 0, found: 0 });
    assert_eq!(Encoder::builder().demo().build().unwrap().device(), "cpu");
}

#[test]
fn a_gpu_that_cannot_be_waited_for_is_lost() {
    let simulator = Simulator::new();
    let mut encoder = build(fused_kernels()).unwrap();
    encode(&mut encoder).unwrap();
    // A batch fails on its way, and then what is under way cannot be waited for.
    simulator.fail_function(Some("cuStreamSynchronize"), UNKNOWN);
    simulator.fail_call(simulator.num_calls() + 5, INVALID_VALUE);
    let error = cuda(encode(&mut encoder).unwrap_err());
    assert!(!error.is_fatal(), "{error}");
    simulator.fail_function(None, 0);
    let error = cuda(encode(&mut encoder).unwrap_err());
    assert!(matches!(error, CudaError::Lost { .. }), "{error}");
}

#[test]
fn a_lost_gpu_says_so_ever_after() {
    let simulator = Simulator::new();
    let mut encoder = build(fused_kernels()).unwrap();
    encode(&mut encoder).unwrap();
    simulator.fail("tilesight_simulator_fail_launch", simulator.num_launches() + 3, LAUNCH_FAILED);
    let error = cuda(encode(&mut encoder).unwrap_err());
    assert!(error.is_fatal(), "{error}");
    for _ in 0..2 {
        let error = cuda(encode(&mut encoder).unwrap_err());
        assert!(matches!(error, CudaError::Lost { .. }), "{error}");
    }
}

#[test]
fn a_gpu_that_hangs_is_waited_for() {
    let simulator = Simulator::new();
    let mut encoder = build(fused_kernels()).unwrap();
    let expected = encode(&mut encoder).unwrap();
    simulator.call1("tilesight_simulator_hang_launch", simulator.num_launches() + 5);
    let waiting = std::thread::spawn(move || encode(&mut encoder).unwrap());
    std::thread::sleep(Duration::from_millis(300));
    assert!(!waiting.is_finished(), "a kernel that never ends has ended");
    simulator.call0("tilesight_simulator_release");
    assert!(waiting.join().unwrap() == expected);
}

/// Once a batch' shape is known, a batch allocates nothing, loads nothing, records nothing, and waits for nothing but its
/// own results.
#[test]
fn the_steady_state_only_copies_launches_and_waits_for_results() {
    let simulator = Simulator::new();
    let mut encoder = build(fused_kernels()).unwrap();
    let expected = encode(&mut encoder).unwrap();
    let never = [
        "cuMemAlloc_v2",
        "cuMemFree_v2",
        "cuMemHostAlloc",
        "cuMemFreeHost",
        "cuStreamCreate",
        "cuEventCreate",
        "cuModuleLoadData",
        "cuModuleGetFunction",
        "cuFuncSetAttribute",
        "cuStreamBeginCapture_v2",
        "cuGraphInstantiateWithFlags",
        "cuLaunchKernelEx",
        "cuCtxSynchronize",
        "cuStreamSynchronize",
    ];
    for function in never {
        simulator.fail_function(Some(function), UNKNOWN);
        let found = encode(&mut encoder);
        simulator.fail_function(None, 0);
        let found = found.unwrap_or_else(|error| panic!("{function} was called: {error}"));
        assert!(found == expected, "{function}");
    }
    let before = simulator.num_calls();
    encode(&mut encoder).unwrap();
    let per_batch = (simulator.num_calls() - before) / 2;
    assert!(per_batch <= 20, "{per_batch} calls of the driver a batch");
    // What would be caught, were it called.
    simulator.fail_function(Some("cuGraphLaunch"), UNKNOWN);
    assert!(encode(&mut encoder).is_err());
    simulator.fail_function(None, 0);
    assert!(encode(&mut encoder).unwrap() == expected);
}
