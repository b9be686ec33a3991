//! One safe function a kernel: it checks its views, takes the grid from the capacity, and launches.
//!
//! A view borrows the memory it lies in, so it cannot outlive it; and freeing memory waits for the GPU, so a launch
//! never meets freed memory. What a view cannot know, that two launches in different streams touch the same memory, is
//! kept right by the backend's events.

mod kernels;
mod view;

pub(crate) use kernels::{Kernel, Kernels, Launcher};
pub(crate) use view::{Array, Count, DeviceBatch, Matrix};

/// Every kernel there is.
pub(crate) fn all() -> impl Iterator<Item = &'static Kernel> {
    [].into_iter()
}
