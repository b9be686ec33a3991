//! What a test asks of the simulator itself: `tilesight_simulator_*`. Nothing of it is in NVIDIA's driver.

use std::ffi::{CStr, c_char, c_uint};

use super::config::MAX_DEVICES;
use super::state::{Driver, describe};
use super::status::Status;
use super::{RELEASED, config, driver};

/// Forgets everything, alive or pending, and takes the configuration from the environment anew. Threads' contexts are
/// void; no other thread may be in a call.
#[unsafe(no_mangle)]
pub extern "C" fn tilesight_simulator_reset() {
    *driver() = Driver::from_environment();
    super::state::with_contexts(Vec::clear);
    RELEASED.notify_all();
}

/// What all choices follow from. At any time.
#[unsafe(no_mangle)]
pub extern "C" fn tilesight_simulator_set_seed(seed: u64) {
    driver().set_seed(seed);
}

/// How many devices there are, at most 4; false if more are asked for. Before `cuInit`.
#[unsafe(no_mangle)]
pub extern "C" fn tilesight_simulator_set_devices(count: c_uint) -> bool {
    let count = count as usize;
    if count <= MAX_DEVICES {
        driver().config.num_devices = count;
    }
    count <= MAX_DEVICES
}

/// 8.0 or 9.0; false for any other. Before `cuInit`.
#[unsafe(no_mangle)]
pub extern "C" fn tilesight_simulator_set_compute_capability(major: c_uint, minor: c_uint) -> bool {
    let model = config::model(&format!("{major}.{minor}"));
    if let Some(model) = model {
        driver().config.model = model;
    }
    model.is_some()
}

/// Memory of each device. At any time: what is there stays.
#[unsafe(no_mangle)]
pub extern "C" fn tilesight_simulator_set_memory(bytes: u64) {
    driver().config.memory_bytes = bytes;
}

/// Whether work may be done as soon as it is given.
#[unsafe(no_mangle)]
pub extern "C" fn tilesight_simulator_set_prompt(prompt: bool) {
    driver().config.prompt = prompt;
}

/// Lets one call fail, by its number since the start or the reset, counted from 1; none if it is 0.
#[unsafe(no_mangle)]
pub extern "C" fn tilesight_simulator_fail_call(number: u64, status: Status) {
    driver().config.fail_call = (number > 0).then_some((number, status));
}

/// Lets all calls of a function fail; none if the name is null.
///
/// # Safety
///
/// The name is null, or ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilesight_simulator_fail_function(name: *const c_char, status: Status) {
    let name = (!name.is_null()).then(|| {
        // SAFETY: not null, and the rest is the caller's promise.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    });
    driver().config.fail_function = name.map(|name| (name, status));
}

/// Lets a kernel end with an error that stays, by its number as it starts, counted from 1; none if it is 0.
#[unsafe(no_mangle)]
pub extern "C" fn tilesight_simulator_fail_launch(number: u64, status: Status) {
    driver().config.fail_launch = (number > 0).then_some((number, status));
}

/// Lets a kernel never end, by its number likewise; none if it is 0.
#[unsafe(no_mangle)]
pub extern "C" fn tilesight_simulator_hang_launch(number: u64) {
    driver().config.hang_launch = (number > 0).then_some(number);
}

/// Lets the kernel that hangs go on, and none hang again.
#[unsafe(no_mangle)]
pub extern "C" fn tilesight_simulator_release() {
    let mut driver = driver();
    driver.config.hang_launch = None;
    driver.schedule.released = driver.schedule.hung.take();
    RELEASED.notify_all();
}

/// Calls since the start or the reset; those that ask for an error's name do not count.
#[unsafe(no_mangle)]
pub extern "C" fn tilesight_simulator_num_calls() -> u64 {
    driver().num_calls
}

/// Kernels that have started since the start or the reset.
#[unsafe(no_mangle)]
pub extern "C" fn tilesight_simulator_num_launches() -> u64 {
    driver().num_launches
}

/// How many objects of a kind are alive: contexts, allocations, pinned, streams, events, modules, graphs, executables or
/// captures; -1 for any other name.
///
/// # Safety
///
/// The name ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tilesight_simulator_num_alive(kind: *const c_char) -> i64 {
    // SAFETY: the caller's promise.
    let kind = unsafe { CStr::from_ptr(kind) }.to_string_lossy();
    let census = driver().census(None);
    census.iter().find(|(name, _)| *name == kind).map_or(-1, |(_, count)| *count as i64)
}

/// Says on standard error what was launched, and what is alive.
#[unsafe(no_mangle)]
pub extern "C" fn tilesight_simulator_report() {
    report();
}

/// [`tilesight_simulator_report`], as the C library calls it at the end of a process.
pub(super) extern "C" fn report() {
    let driver = driver();
    let (calls, launches, alive) = (driver.num_calls, driver.num_launches, describe(&driver.census(None)));
    eprintln!("CUDA simulator: {calls} calls, {launches} launches; alive: {alive}");
    for (kernel, launches) in &driver.launches {
        eprintln!("CUDA simulator: {launches} of {kernel}");
    }
}
