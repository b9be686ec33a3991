//! One simulated GPU for one test: calls that must succeed, and a context that must be left empty.

use std::ffi::{CStr, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::bindings::*;

/// Enough that whatever an order can do shows under some.
pub fn seeds() -> std::ops::Range<u64> {
    0..32
}

/// The simulator is one for the process, so tests take turns.
static TURN: Mutex<()> = Mutex::new(());

/// A freshly reset simulator, not initialised.
pub struct Simulator {
    _turn: MutexGuard<'static, ()>,
}

impl Simulator {
    pub fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        tilesight_simulator_reset();
        Self { _turn: turn }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        tilesight_simulator_reset();
    }
}

/// Device 0 of a simulator, its context current.
pub struct Gpu {
    _simulator: Simulator,
}

impl Gpu {
    pub fn new(seed: u64) -> Self {
        Self::on(Simulator::new(), seed)
    }

    pub fn on(simulator: Simulator, seed: u64) -> Self {
        tilesight_simulator_set_seed(seed);
        ok(cuInit(0));
        retain(0);
        Self { _simulator: simulator }
    }

    pub fn memory(&self, bytes: usize) -> u64 {
        made(|address| cuMemAlloc_v2(address, bytes))
    }

    pub fn pinned(&self, len: usize) -> &'static mut [f32] {
        let mut address = std::ptr::null_mut();
        ok(cuMemHostAlloc(&mut address, len * 4, 0));
        // SAFETY: the driver gave so many bytes, all of them written; tests do not use them after they free them.
        unsafe { std::slice::from_raw_parts_mut(address.cast(), len) }
    }

    pub fn stream(&self) -> usize {
        made(|stream| cuStreamCreate(stream, NON_BLOCKING))
    }

    pub fn event(&self) -> usize {
        made(|event| cuEventCreate(event, DISABLE_TIMING))
    }

    pub fn double_values(&self) -> Function {
        Function::of("double_values")
    }

    /// Values in device memory, there when this returns.
    pub fn upload(&self, values: &[f32]) -> u64 {
        let memory = self.memory(size_of_val(values));
        let stream = self.stream();
        ok(cuMemcpyHtoDAsync_v2(memory, values.as_ptr().cast(), size_of_val(values), stream));
        ok(cuStreamSynchronize(stream));
        ok(cuStreamDestroy_v2(stream));
        memory
    }

    /// Values of device memory, after all that `stream` was given.
    pub fn download(&self, memory: u64, len: usize, stream: usize) -> Vec<f32> {
        let mut values = vec![0.0; len];
        ok(cuMemcpyDtoHAsync_v2(values.as_mut_ptr().cast(), memory, len * 4, stream));
        values
    }
}

/// Retains a device's context and makes it current.
pub fn retain(device: c_int) -> usize {
    let context = made(|context| cuDevicePrimaryCtxRetain(context, device));
    ok(cuCtxSetCurrent(context));
    context
}

pub fn ok(status: u32) {
    assert_eq!(status, SUCCESS, "status of the call");
}

/// What a call that must succeed gives.
pub fn made<T: Default>(make: impl FnOnce(&mut T) -> u32) -> T {
    let mut value = T::default();
    ok(make(&mut value));
    value
}

pub fn num_alive(kind: &CStr) -> i64 {
    tilesight_simulator_num_alive(kind.as_ptr())
}

/// A fatbin with one part: kind 2 is machine code, 1 is PTX.
pub fn fatbin(kind: u16, architecture: u32, content: &[u8]) -> Vec<u8> {
    let mut part = Vec::new();
    part.extend(kind.to_le_bytes());
    part.extend(0x0101u16.to_le_bytes());
    part.extend(64u32.to_le_bytes());
    part.extend((content.len() as u64).to_le_bytes());
    part.resize(28, 0);
    part.extend(architecture.to_le_bytes());
    part.resize(64, 0);
    part.extend(content);
    let mut image = Vec::new();
    image.extend(0xba55_ed50u32.to_le_bytes());
    image.extend(1u16.to_le_bytes());
    image.extend(16u16.to_le_bytes());
    image.extend((part.len() as u64).to_le_bytes());
    image.extend(part);
    image
}

/// A kernel, with its module.
pub struct Function {
    pub module: usize,
    pub handle: usize,
}

impl Function {
    pub fn of(name: &str) -> Self {
        Self::compiled_for(80, name)
    }

    pub fn compiled_for(architecture: u32, name: &str) -> Self {
        let image = fatbin(2, architecture, format!("\0.text.{name}\0").as_bytes());
        let module = made(|module| cuModuleLoadData(module, image.as_ptr().cast()));
        let name = std::ffi::CString::new(name).unwrap();
        let handle = made(|function| cuModuleGetFunction(function, module, name.as_ptr()));
        Self { module, handle }
    }

    /// A launch of one block of 32 threads for each 32 values.
    pub fn try_launch(&self, from: u64, to: u64, len: u32, stream: usize) -> u32 {
        let params = [from, to, u64::from(len)];
        let arguments = [params.as_ptr().cast::<c_void>()];
        let blocks = len.div_ceil(32);
        cuLaunchKernel(self.handle, blocks, 1, 1, 32, 1, 1, 0, stream, arguments.as_ptr(), std::ptr::null())
    }

    pub fn launch(&self, from: u64, to: u64, len: u32, stream: usize) {
        ok(self.try_launch(from, to, len, stream));
    }
}
