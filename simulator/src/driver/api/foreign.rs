//! How other simulated libraries give work to a stream.

use std::ffi::{CStr, c_char, c_void};

use super::exports;
use crate::driver::memory::Range;
use crate::driver::work::{Foreign, Work};
use crate::driver::{Status, driver};

/// Device memory that foreign work uses.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UsedMemory {
    address: u64,
    bytes: u64,
}

/// Counts a call of another library, and says whether it is to fail: with any number but 0, which is then its status.
///
/// # Safety
///
/// The name ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilesight_simulator_count_call(name: *const c_char) -> u32 {
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) };
    let counted = driver().count(&name.to_string_lossy());
    counted.err().map_or(0, |Status(number)| number)
}

exports! {
    /// Gives `run` to a stream with a copy of its arguments. All memory that it will use must be named: that it is there is
    /// looked into before it runs, that it was freed too early when it is freed.
    fn tilesight_simulator_give(
        stream: usize,
        name: *const c_char,
        run: Option<unsafe extern "C" fn(*const c_void)>,
        arguments: *const u64,
        num_arguments: usize,
        used: *const UsedMemory,
        num_used: usize,
    ) |driver| {
        let target = driver.target(stream)?;
        let run = run.ok_or(Status::ERROR_INVALID_VALUE)?;
        // SAFETY: names are static, as the safety section of this module's users says.
        let name = unsafe { CStr::from_ptr::<'static>(name) }.to_str().map_err(|_| Status::ERROR_INVALID_VALUE)?;
        // SAFETY: the caller says that there are so many.
        let arguments = unsafe { std::slice::from_raw_parts(arguments, num_arguments) }.into();
        // SAFETY: likewise.
        let used = unsafe { std::slice::from_raw_parts(used, num_used) };
        let ranges = used.iter().map(|&UsedMemory { address, bytes }| Range { address, bytes }).collect();
        driver.give(target, Work::Foreign(Foreign { name, run, arguments, ranges }))
    }
}
