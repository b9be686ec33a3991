//! Initialisation, errors, versions, and devices.

use std::ffi::{c_char, c_int, c_uint};
use std::ptr;

use super::{Out, exports, put};
use crate::driver::Status;
use crate::driver::control;
use crate::driver::state::{Device, Driver};
use crate::driver::status::Result;
use crate::machine::DeviceModel;

/// CUDA 13.0.
const VERSION: c_int = 13000;

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
}

const NAME: &str = "CUDA simulator";

/// As many as it takes for a grid of a test to be more than one wave; no real device has so few.
const NUM_MULTIPROCESSORS: c_int = 4;

impl Driver {
    /// The ordinal behind a device's handle, which is the ordinal.
    pub(super) fn device(&self, device: c_int) -> Result<usize> {
        self.initialized()?;
        let ordinal = usize::try_from(device).ok().filter(|&ordinal| ordinal < self.devices.len());
        ordinal.ok_or(Status::ERROR_INVALID_DEVICE)
    }
}

exports! {
    /// Starts the driver. Reads nothing: the environment was read when the library was first called.
    fn cuInit(flags: c_uint) |driver| {
        if flags != 0 {
            return Err(Status::ERROR_INVALID_VALUE);
        }
        if let Some(error) = &driver.environment_error {
            eprintln!("CUDA simulator: {error}");
            return Err(Status::ERROR_INVALID_VALUE);
        }
        if driver.config.num_devices == 0 {
            return Err(Status::ERROR_NO_DEVICE);
        }
        if !driver.is_initialized {
            driver.devices.resize_with(driver.config.num_devices, Device::default);
            driver.is_initialized = true;
            if driver.config.report {
                // SAFETY: a function of the C library, and one that may be called at the end of the process.
                unsafe { atexit(control::report) };
            }
        }
        Ok(())
    }

    /// CUDA 13.0.
    fn cuDriverGetVersion(version: Out<'_, c_int>) |_driver| { put(version, VERSION) }

    /// As many as the configuration says.
    fn cuDeviceGetCount(count: Out<'_, c_int>) |driver| {
        driver.initialized()?;
        put(count, driver.devices.len() as c_int)
    }

    /// A device's handle is its ordinal.
    fn cuDeviceGet(device: Out<'_, c_int>, ordinal: c_int) |driver| {
        let found = driver.device(ordinal)?;
        put(device, found as c_int)
    }

    /// `CUDA simulator`.
    fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) |driver| {
        driver.device(device)?;
        let length = usize::try_from(length).ok().filter(|&length| length > 0 && !name.is_null());
        let length = length.ok_or(Status::ERROR_INVALID_VALUE)?;
        let shown = &NAME.as_bytes()[..NAME.len().min(length - 1)];
        // SAFETY: the caller's buffer is as long as it says, and the name was cut to fit.
        unsafe { ptr::copy_nonoverlapping(shown.as_ptr().cast(), name, shown.len()) };
        // SAFETY: there is room for the zero.
        unsafe { name.add(shown.len()).write(0) };
        Ok(())
    }

    /// Attributes of the memory's and the clock's speed are those of no device: nothing here is ever timed.
    fn cuDeviceGetAttribute(value: Out<'_, c_int>, attribute: c_int, device: c_int) |driver| {
        driver.device(device)?;
        put(value, self::attribute(driver.config.model, attribute).ok_or(Status::ERROR_INVALID_VALUE)?)
    }

    /// The limit of the configuration.
    fn cuDeviceTotalMem_v2(bytes: Out<'_, usize>, device: c_int) |driver| {
        driver.device(device)?;
        put(bytes, driver.config.memory_bytes as usize)
    }

    /// The name, and the ordinal.
    fn cuDeviceGetUuid_v2(uuid: Out<'_, [u8; 16]>, device: c_int) |driver| {
        let ordinal = driver.device(device)?;
        let mut bytes = [0; 16];
        bytes[..NAME.len()].copy_from_slice(NAME.as_bytes());
        bytes[15] = ordinal as u8;
        put(uuid, bytes)
    }
}

/// Names are static, and asking for one is no call that could fail.
///
/// # Safety
///
/// The pointer is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(status: Status, name: Out<'_, *const c_char>) -> Status {
    describe(status, name, |(name, _)| name)
}

/// As for names.
///
/// # Safety
///
/// The pointer is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(status: Status, text: Out<'_, *const c_char>) -> Status {
    describe(status, text, |(_, text)| text)
}

type Texts = (&'static std::ffi::CStr, &'static std::ffi::CStr);

/// One of a status's texts; a null pointer and an error for a number that is no status.
fn describe(
    status: Status,
    out: Out<'_, *const c_char>,
    which: impl FnOnce(Texts) -> &'static std::ffi::CStr,
) -> Status {
    let text = status.describe().map(which);
    match put(out, text.map_or(ptr::null(), std::ffi::CStr::as_ptr)) {
        Ok(()) if text.is_some() => Status::SUCCESS,
        _ => Status::ERROR_INVALID_VALUE,
    }
}

/// `CU_DEVICE_ATTRIBUTE_*` by number; the values of the CUDA programming guide's table for the capability.
fn attribute(model: DeviceModel, attribute: c_int) -> Option<c_int> {
    let (major, minor) = model.compute_capability;
    let optin = model.max_shared_bytes;
    let value = match attribute {
        1 => model.max_threads,                                    // MAX_THREADS_PER_BLOCK
        2..=4 => super::launch::MAX_BLOCK[attribute as usize - 2], // MAX_BLOCK_DIM_X to Z
        5..=7 => model.max_grid[attribute as usize - 5],           // MAX_GRID_DIM_X to Z
        8 => super::launch::UNASKED_SHARED_BYTES,                  // MAX_SHARED_MEMORY_PER_BLOCK
        9 => 64 << 10,                                             // TOTAL_CONSTANT_MEMORY
        10 => 32,                                                  // WARP_SIZE
        11 => i32::MAX as u32,                                     // MAX_PITCH
        12 | 82 => 65536,                                          // MAX_REGISTERS_PER_BLOCK, PER_MULTIPROCESSOR
        13 | 36 => 1_000_000,                                      // CLOCK_RATE, MEMORY_CLOCK_RATE: 1 GHz, in kHz
        14 => 512,                                                 // TEXTURE_ALIGNMENT
        15 | 19 | 31 | 41 | 78 => 1, // GPU_OVERLAP, CAN_MAP_HOST_MEMORY, CONCURRENT_KERNELS, UNIFIED_ADDRESSING, STREAM_PRIORITIES_SUPPORTED
        16 => NUM_MULTIPROCESSORS as u32, // MULTIPROCESSOR_COUNT
        17 | 18 | 20 | 32 | 33 | 34 | 35 | 50 | 83 | 84 => 0, // KERNEL_EXEC_TIMEOUT, INTEGRATED, COMPUTE_MODE, ECC_ENABLED, PCI_*, TCC_DRIVER, MANAGED_MEMORY, MULTI_GPU_BOARD
        37 => 64,                                             // GLOBAL_MEMORY_BUS_WIDTH, bits
        38 => 4 << 20,                                        // L2_CACHE_SIZE
        39 => super::launch::MAX_RESIDENT_THREADS,            // MAX_THREADS_PER_MULTIPROCESSOR
        40 => 2,                                              // ASYNC_ENGINE_COUNT
        75 => major,                                          // COMPUTE_CAPABILITY_MAJOR
        76 => minor,                                          // COMPUTE_CAPABILITY_MINOR
        81 => optin + super::launch::RESERVED_SHARED_BYTES,   // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        88 | 89 | 115 => 0, // PAGEABLE_MEMORY_ACCESS, CONCURRENT_MANAGED_ACCESS, MEMORY_POOLS_SUPPORTED
        95 | 99 => 0,       // COOPERATIVE_LAUNCH, HOST_REGISTER_SUPPORTED
        97 => optin,        // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        106 => super::launch::MAX_RESIDENT_BLOCKS, // MAX_BLOCKS_PER_MULTIPROCESSOR
        111 => super::launch::RESERVED_SHARED_BYTES, // RESERVED_SHARED_MEMORY_PER_BLOCK
        _ => return None,
    };
    Some(value as c_int)
}
