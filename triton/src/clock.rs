//! The time as the server's statistics count it.

use std::mem::MaybeUninit;

/// Nanoseconds of the clock that C++ calls steady: `CLOCK_MONOTONIC`, whose zero is the server's too.
pub(crate) fn now() -> u64 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the time may be written, and this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, time.as_mut_ptr()) };
    // SAFETY: zeros are a time, and so is what was written.
    let time = unsafe { time.assume_init() };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// When the stages of an execution began and ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) exec_start: u64,
    pub(crate) compute_start: u64,
    pub(crate) compute_end: u64,
    pub(crate) exec_end: u64,
}
