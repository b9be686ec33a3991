//! Instances on GPUs. Needs two simulated devices: `scripts/on-simulator --devices 2 cargo test -p tilesight-triton --features
//! cuda`.

use std::ffi::{CString, c_char};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libloading::Library;

use super::*;

/// CUDA's status of a kernel that failed; every later call fails, too.
const LAUNCH_FAILED: u32 = 719;

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
        Self { driver, _turn: turn }
    }

    fn symbol<T: Copy>(&self, name: &str) -> T {
        // SAFETY: each caller gives the symbol the type that simulator/src/driver/control.rs has for it.
        let symbol = unsafe { self.driver.get::<T>(name.as_bytes()) };
        *symbol.expect("these tests need the simulated device: scripts/on-simulator")
    }

    /// Has the launch after this many more fail.
    fn fail_launch_after(&self, more: u64) {
        // SAFETY: it takes nothing and gives a number.
        let launches = unsafe { self.symbol::<unsafe extern "C" fn() -> u64>("tilesight_simulator_num_launches")() };
        let fail = self.symbol::<unsafe extern "C" fn(u64, u32)>("tilesight_simulator_fail_launch");
        // SAFETY: it takes a number and a status and gives nothing.
        unsafe { fail(launches + more, LAUNCH_FAILED) }
    }

    /// Objects that are alive, of all kinds but contexts, which the driver keeps.
    fn num_alive(&self) -> i64 {
        let kinds = ["allocations", "pinned", "streams", "events", "modules", "graphs", "executables", "captures"];
        let count = self.symbol::<unsafe extern "C" fn(*const c_char) -> i64>("tilesight_simulator_num_alive");
        let alive = |kind: &str| {
            let kind = CString::new(kind).unwrap();
            // SAFETY: it takes a string that ends with zero and gives a number.
            unsafe { count(kind.as_ptr()) }
        };
        kinds.into_iter().map(alive).sum()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // SAFETY: it takes nothing and gives nothing.
        unsafe { self.symbol::<unsafe extern "C" fn()>("tilesight_simulator_reset")() }
    }
}

#[test]
fn an_instance_computes_on_its_gpu_and_leaves_nothing_there() {
    let simulator = Simulator::new();
    let files = [picture(0), picture(1)];
    let images = files.each_ref().map(|file| Image::decode(file, &Limits::default()).unwrap());
    let build = |device| Encoder::builder().model(tiny()).device(Device::Cuda(vec![device])).build().unwrap();
    let expected = images.map(|image| build(0).encode(&[image]).unwrap().embeddings);
    for device in [0, 1] {
        let loaded = Loaded::on(GroupKind::GPU, device, json!({ "max_batch_tiles": "8" }));
        let mut batch = [pictures(&[&files[0], &files[1]]), pictures(&[b"not a picture"]), pictures(&[&files[1]])];
        loaded.execute(&mut batch);
        for (found, expected) in answered(&batch[0]).iter().zip(&expected) {
            assert_padded(found, expected);
        }
        assert_padded(&answered(&batch[2])[0], &expected[1]);
        assert_eq!((refusal(&batch[1]).0, loaded.batches()), (ErrorCode::INVALID_ARG, vec![3]));
        assert_eq!(loaded.ready(), Ok(()));
        assert!(simulator.num_alive() > 0);
        drop(loaded);
        assert_eq!(simulator.num_alive(), 0, "something is left on GPU {device}");
    }
    for (device, dtype, words) in [
        (7, "bf16", "there is no GPU 7"),
        (-1, "bf16", "there is no GPU -1"),
        (0, "f32", "GPUs compute in bf16 or fp16"),
    ] {
        let model = model(config(json!({ "dtype": dtype })), true);
        let instance = instance(model, GroupKind::GPU, device);
        // SAFETY: it lives until it is dropped below.
        status(unsafe { backend::TRITONBACKEND_ModelInitialize(model.cast()) }).unwrap();
        // SAFETY: as above.
        let (_, message) =
            status(unsafe { backend::TRITONBACKEND_ModelInstanceInitialize(instance.cast()) }).unwrap_err();
        assert!(message.contains(words), "{message}");
        // SAFETY: this is the last call with the model.
        status(unsafe { backend::TRITONBACKEND_ModelFinalize(model.cast()) }).unwrap();
        // SAFETY: it comes from a box.
        drop(unsafe { Box::from_raw(instance) });
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(model) });
    }
}

#[test]
fn a_lost_gpu_is_told_and_not_asked_again() {
    let simulator = Simulator::new();
    let loaded = Loaded::on(GroupKind::GPU, 0, json!({}));
    let batch = || [pictures(&[&picture(0)]), pictures(&[&picture(1)])];
    let mut good = batch();
    loaded.execute(&mut good);
    assert!(loaded.ready().is_ok() && good.iter().all(|one| one.answer.as_ref().unwrap().is_ok()));
    simulator.fail_launch_after(3);
    for _ in 0..2 {
        let mut lost = batch();
        loaded.execute(&mut lost);
        for (code, message) in lost.iter().map(refusal) {
            assert!(code == ErrorCode::UNAVAILABLE && message.contains("the encoder is lost"), "{message}");
        }
        let (code, message) = loaded.ready().unwrap_err();
        assert!(code == ErrorCode::UNAVAILABLE && message.contains("the encoder is lost"), "{message}");
    }
    assert_eq!(loaded.batches(), [2]);
}
