//! The driver, its GPUs, and a context on one.

use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute, CUresult};

use super::check;
use crate::error::CudaError;

/// The machine code of CUDA 13 needs a driver that knows CUDA 13 (release 580 and later).
const LEAST_VERSION: u32 = 13000;

/// What a GPU is, as far as the engine asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeviceModel {
    /// The driver's name for it.
    pub(crate) name: String,
    /// Compute capability.
    pub(crate) capability: (u32, u32),
    /// Streaming multiprocessors.
    pub(crate) num_multiprocessors: u32,
    /// Bytes of memory.
    pub(crate) total_bytes: usize,
}

impl DeviceModel {
    /// Whether it is the simulated device of this project's tests, on which no time means anything.
    pub(crate) fn is_simulated(&self) -> bool {
        self.name == "CUDA simulator"
    }
}

/// The primary context of one GPU, retained while this lives.
#[derive(Debug)]
pub(crate) struct Context {
    handle: sys::CUcontext,
    device: CUdevice,
    ordinal: usize,
    model: DeviceModel,
    /// The streams that were made in it through this owner and are alive.
    streams: Mutex<Vec<StreamHandle>>,
    /// Bytes of the GPU's memory that were taken through this owner.
    allocated_bytes: AtomicU64,
}

/// A stream's handle: a plain token of the driver.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct StreamHandle(pub(super) sys::CUstream);

// SAFETY: the driver's functions may be called from any thread.
unsafe impl Send for StreamHandle {}

// SAFETY: a context's handle is a plain token of the driver, whose functions may be called from any thread.
unsafe impl Send for Context {}
// SAFETY: as above; what changes is behind a lock.
unsafe impl Sync for Context {}

/// Whether the driver's library is there. The bindings can tell where they load it themselves; a program that another of its
/// dependencies has linked with it does not start where it is missing.
fn is_present() -> bool {
    #[allow(unused_imports, reason = "linked bindings have no `is_culib_present`, and the one below is meant")]
    use sys::*;
    // SAFETY: loading the driver's library runs its initialisers only.
    unsafe { is_culib_present() }
}

#[allow(dead_code, reason = "that of bindings which load the library is nearer to its call")]
unsafe fn is_culib_present() -> bool {
    true
}

/// Loads and starts the driver; returns how many GPUs it has.
fn start() -> Result<c_int, CudaError> {
    // The bindings panic at a missing library; so look first.
    if !is_present() {
        return Err(CudaError::NoDriver);
    }
    // SAFETY: 0 is the only value the flags may have.
    let status = unsafe { sys::cuInit(0) };
    // Without a GPU, or with all of them hidden by CUDA_VISIBLE_DEVICES, the driver does not start.
    if status == CUresult::CUDA_ERROR_NO_DEVICE {
        return Ok(0);
    }
    check("cuInit", status)?;
    let mut version: c_int = 0;
    // SAFETY: the pointer is to a live integer.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
    let found = version.unsigned_abs();
    if found < LEAST_VERSION {
        return Err(CudaError::OldDriver { found, needed: LEAST_VERSION });
    }
    let mut count: c_int = 0;
    // SAFETY: the pointer is to a live integer.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    Ok(count)
}

/// The GPUs of this machine.
pub(crate) fn list_devices() -> Result<Vec<DeviceModel>, CudaError> {
    (0..start()?).map(|ordinal| model(device(ordinal)?)).collect()
}

/// The driver's handle of a GPU.
fn device(ordinal: c_int) -> Result<CUdevice, CudaError> {
    let mut device: CUdevice = 0;
    // SAFETY: the pointer is to a live handle; the driver checks the number.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut device, ordinal) })?;
    Ok(device)
}

/// Asks the driver what a GPU is.
fn model(device: CUdevice) -> Result<DeviceModel, CudaError> {
    let mut name = [0 as c_char; 256];
    // SAFETY: the buffer is as long as said; the driver ends the name within it.
    check("cuDeviceGetName", unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int - 1, device) })?;
    // SAFETY: the last byte was kept from the driver and is zero.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let mut total_bytes = 0;
    // SAFETY: the pointer is to a live integer.
    check("cuDeviceTotalMem", unsafe { sys::cuDeviceTotalMem_v2(&mut total_bytes, device) })?;
    let attribute = |attribute: CUdevice_attribute| -> Result<u32, CudaError> {
        let mut value: c_int = 0;
        // SAFETY: the pointer is to a live integer.
        check("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) })?;
        Ok(value.unsigned_abs())
    };
    let capability = (
        attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let num_multiprocessors = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    Ok(DeviceModel { name, capability, num_multiprocessors, total_bytes })
}

impl Context {
    /// The primary context of GPU number `ordinal`, current on this thread.
    ///
    /// # Errors
    /// [`CudaError::NoDriver`], [`OldDriver`](CudaError::OldDriver), [`NoDevice`](CudaError::NoDevice),
    /// [`Driver`](CudaError::Driver).
    pub(crate) fn new(ordinal: usize) -> Result<Arc<Self>, CudaError> {
        let found = start()?;
        let number = c_int::try_from(ordinal).ok().filter(|number| *number < found);
        let number = number.ok_or(CudaError::NoDevice { ordinal, found: found.unsigned_abs() as usize })?;
        let device = device(number)?;
        let model = model(device)?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the pointer is to a live handle; the context is released once, when this is dropped.
        check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&mut handle, device) })?;
        let streams = Mutex::new(Vec::new());
        let context = Arc::new(Self { handle, device, ordinal, model, streams, allocated_bytes: AtomicU64::new(0) });
        context.bind()?;
        Ok(context)
    }

    /// Makes this the calling thread's context, which all calls that name no stream need.
    pub(crate) fn bind(&self) -> Result<(), CudaError> {
        // SAFETY: the handle is retained while `self` lives.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.handle) })
    }

    /// Waits until the GPU has done all that was given to the streams of this owner. Not the whole context: the driver
    /// forbids that while any stream of the process is being recorded, and would spoil another encoder's recording.
    pub(crate) fn synchronize(&self) -> Result<(), CudaError> {
        self.bind()?;
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: a stream takes itself off the list, which is held here, before it is destroyed.
        let wait = |stream: &StreamHandle| check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(stream.0) });
        streams.iter().map(wait).fold(Ok(()), Result::and)
    }

    /// Remembers a stream, for `synchronize`.
    pub(super) fn add(&self, stream: StreamHandle) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
    }

    /// Forgets a stream that is about to go.
    pub(super) fn remove(&self, stream: StreamHandle) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| *other != stream);
    }

    /// Bytes of the GPU's memory that are free; 0 where the driver does not say.
    pub(crate) fn free_bytes(&self) -> u64 {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both pointers are to live integers.
        let status = unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) };
        if check("cuMemGetInfo", status).is_ok() { free as u64 } else { 0 }
    }

    /// Bytes of the GPU's memory that were taken through this owner and not given back.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn took(&self, bytes: u64) {
        self.allocated_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn gave_back(&self, bytes: u64) {
        self.allocated_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn handle(&self) -> sys::CUcontext {
        self.handle
    }

    /// The GPU's number.
    pub(crate) fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// What the GPU is.
    pub(crate) fn model(&self) -> &DeviceModel {
        &self.model
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // A failure cannot be told from here, and there is nothing left to use.
        // SAFETY: retained once by `new`, released once here; every owner of a handle in it holds it alive.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}
