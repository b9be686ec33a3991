//! The simulated driver that the program has loaded.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem;
use std::sync::OnceLock;

use crate::status::Status;

/// `dlopen`: find what is loaded already, load nothing.
const RTLD_NOW: c_int = 2;
const RTLD_NOLOAD: c_int = 4;

/// The name that the simulated driver has as a library, wherever it lies.
const LIBRARY: &CStr = c"libcuda.so.1";

/// Device memory that a product uses; as the driver takes it.
#[repr(C)]
pub(crate) struct UsedMemory {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
}

type CountCall = unsafe extern "C" fn(*const c_char) -> u32;
type Give = unsafe extern "C" fn(
    usize,
    *const c_char,
    Option<unsafe extern "C" fn(*const c_void)>,
    *const u64,
    usize,
    *const UsedMemory,
    usize,
) -> u32;

struct Driver {
    count_call: CountCall,
    give: Give,
}

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The driver; an error if the program has loaded none, or NVIDIA's.
fn driver() -> Result<&'static Driver, Status> {
    static DRIVER: OnceLock<Option<Driver>> = OnceLock::new();
    let driver = DRIVER.get_or_init(|| {
        // SAFETY: a name that ends with a zero; nothing is loaded that could run.
        let library = unsafe { dlopen(LIBRARY.as_ptr(), RTLD_NOW | RTLD_NOLOAD) };
        if library.is_null() {
            return None;
        }
        let symbol = |name: &CStr| {
            // SAFETY: the library is loaded, and the name ends with a zero.
            let symbol = unsafe { dlsym(library, name.as_ptr()) };
            (!symbol.is_null()).then_some(symbol)
        };
        let (count_call, give) = (symbol(c"tilesight_simulator_count_call")?, symbol(c"tilesight_simulator_give")?);
        // SAFETY: the driver's function of that name has this type.
        let count_call = unsafe { mem::transmute::<*mut c_void, CountCall>(count_call) };
        // SAFETY: likewise.
        let give = unsafe { mem::transmute::<*mut c_void, Give>(give) };
        Some(Driver { count_call, give })
    });
    driver.as_ref().ok_or_else(|| {
        eprintln!("CUDA simulator: cuBLASLt: the program has not loaded the simulated {LIBRARY:?}");
        Status::NOT_INITIALIZED
    })
}

/// Counts a call; an error if it is to fail.
pub(crate) fn count_call(name: &'static CStr) -> Result<(), Status> {
    // SAFETY: the name ends with a zero.
    match unsafe { (driver()?.count_call)(name.as_ptr()) } {
        0 => Ok(()),
        status => Err(Status(status)),
    }
}

/// Gives a function on a copy of `arguments` to a stream.
pub(crate) fn give(
    stream: usize,
    name: &'static CStr,
    run: unsafe extern "C" fn(*const c_void),
    arguments: &[u64],
    used: &[UsedMemory],
) -> Result<(), Status> {
    let give = driver()?.give;
    // SAFETY: both slices are as long as said, and copied before the call returns; the name is static.
    let status = unsafe {
        give(stream, name.as_ptr(), Some(run), arguments.as_ptr(), arguments.len(), used.as_ptr(), used.len())
    };
    match status {
        0 => Ok(()),
        // The library says no more than this of what the driver tells it.
        _ => Err(Status::EXECUTION_FAILED),
    }
}
