//! Launches of kernels.

use std::ffi::{c_int, c_uint, c_void};

use super::{Out, exports, put};
use crate::driver::Status;
use crate::driver::state::Driver;
use crate::driver::status::Result;
use crate::driver::streams::unsupported;
use crate::driver::work::{Kernel, Work};

/// The dynamic shared memory that a launch has without `cuFuncSetAttribute`.
pub(super) const UNASKED_SHARED_BYTES: u32 = 48 << 10;

/// Shared memory that every block takes for the system, from compute capability 8.0 on.
pub(super) const RESERVED_SHARED_BYTES: u32 = 1 << 10;

/// `blockDim` at most.
pub(super) const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];

/// On a multiprocessor of compute capability 8.0 or 9.0.
pub(super) const MAX_RESIDENT_THREADS: u32 = 2048;
pub(super) const MAX_RESIDENT_BLOCKS: u32 = 32;

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    stream: usize,
    attributes: *const LaunchAttribute,
    num_attributes: c_uint,
}

impl LaunchConfig {
    /// Whether the kernel may start before earlier work of its stream has ended.
    ///
    /// # Safety
    ///
    /// There are as many attributes as it says.
    unsafe fn is_programmatic(&self) -> Result<bool> {
        let attributes = match self.num_attributes as usize {
            0 => &[],
            // SAFETY: the caller's promise.
            count if !self.attributes.is_null() => unsafe { std::slice::from_raw_parts(self.attributes, count) },
            _ => return Err(Status::ERROR_INVALID_VALUE),
        };
        let mut is_programmatic = false;
        for attribute in attributes {
            // The union starts at the eighth byte.
            match (attribute.id, &attribute.value[1..4]) {
                (PROGRAMMATIC_STREAM_SERIALIZATION, [allowed, ..]) => is_programmatic = *allowed != 0,
                (IGNORE | PRIORITY, _) | (CLUSTER_DIMENSION, [1, 1, 1]) => {}
                (id, _) => return Err(unsupported(&format!("launch attribute {id} with this value"))),
            }
        }
        Ok(is_programmatic)
    }
}

/// `CUlaunchAttribute`: the values are a union of 64 bytes, of which no more is read than what follows.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct LaunchAttribute {
    id: c_uint,
    value: [c_uint; 16],
    end: c_uint,
}

/// Attributes that are taken. A kernel whose serialisation is programmatic (6) may start early, need not, and does not; but
/// must be written as if it did.
const IGNORE: c_uint = 0;
const CLUSTER_DIMENSION: c_uint = 4;
const PROGRAMMATIC_STREAM_SERIALIZATION: c_uint = 6;
const PRIORITY: c_uint = 8;

impl Driver {
    /// Gives a kernel to a stream, with a copy of its params.
    ///
    /// # Safety
    ///
    /// `params` is null or points to one pointer, to as many bytes as the kernel takes; the attributes are there.
    unsafe fn launch(
        &mut self,
        function: usize,
        config: LaunchConfig,
        params: *const *const c_void,
        extra: *const *const c_void,
    ) -> Result<()> {
        let LaunchConfig { grid, block, shared_bytes, .. } = config;
        // SAFETY: the caller's promise.
        let is_programmatic = unsafe { config.is_programmatic() }? && self.config.model.compute_capability >= (9, 0);
        let target = self.target(config.stream)?;
        let function = self.functions.get(function)?;
        if function.device != target.device() {
            return Err(Status::ERROR_INVALID_HANDLE);
        }
        let fits = |sizes: [u32; 3], limits: [u32; 3]| {
            sizes.iter().zip(limits).all(|(&size, limit)| (1..=limit).contains(&size))
        };
        let num_threads = block.iter().map(|&size| u64::from(size)).product::<u64>();
        let model = self.config.model;
        if !fits(grid, model.max_grid) || !fits(block, MAX_BLOCK) || num_threads > u64::from(model.max_threads) {
            return Err(Status::ERROR_INVALID_VALUE);
        }
        if shared_bytes > function.max_shared_bytes {
            return Err(Status::ERROR_INVALID_VALUE);
        }
        let entry = function.entry;
        if num_threads > u64::from(entry.max_threads) {
            return Err(Status::ERROR_LAUNCH_OUT_OF_RESOURCES);
        }
        if !extra.is_null() {
            return Err(unsupported("a launch with its params in `extra`"));
        }
        if params.is_null() {
            return Err(Status::ERROR_INVALID_VALUE);
        }
        // SAFETY: not null, so it points to the pointer to the kernel's one parameter.
        let params = unsafe { *params }.cast::<u8>();
        if params.is_null() {
            return Err(Status::ERROR_INVALID_VALUE);
        }
        // SAFETY: the caller's promise.
        let params = unsafe { std::slice::from_raw_parts(params, entry.params_bytes) }.into();
        let module = function.module;
        self.give(target, Work::Kernel(Kernel { entry, grid, block, shared_bytes, params, module, is_programmatic }))
    }
}

exports! {
    /// Params come in `params`.
    fn cuLaunchKernel(
        function: usize,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: usize,
        params: *const *const c_void,
        extra: *const *const c_void,
    ) |driver| {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let (attributes, num_attributes) = (std::ptr::null(), 0);
        let config = LaunchConfig { grid, block, shared_bytes, stream, attributes, num_attributes };
        // SAFETY: the manual asks for the same.
        unsafe { driver.launch(function, config, params, extra) }
    }

    /// Of the attributes, priorities make no difference, and clusters are of one block.
    fn cuLaunchKernelEx(
        config: Option<&LaunchConfig>,
        function: usize,
        params: *const *const c_void,
        extra: *const *const c_void,
    ) |driver| {
        let config = *config.ok_or(Status::ERROR_INVALID_VALUE)?;
        // SAFETY: the manual asks for the same.
        unsafe { driver.launch(function, config, params, extra) }
    }

    /// By threads, blocks and shared memory; registers are the real compiler's business.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<'_, c_int>,
        function: usize,
        num_threads: c_int,
        shared_bytes: usize,
    ) |driver| {
        driver.current()?;
        let function = driver.functions.get(function)?;
        let threads = u32::try_from(num_threads).ok().filter(|&threads| threads > 0).ok_or(Status::ERROR_INVALID_VALUE)?;
        let model = driver.config.model;
        let shared = (shared_bytes + RESERVED_SHARED_BYTES as usize) as u32;
        let by_shared = (model.max_shared_bytes + RESERVED_SHARED_BYTES) / shared;
        let by_threads = MAX_RESIDENT_THREADS / threads.next_multiple_of(32);
        let is_launchable = threads <= function.entry.max_threads && shared_bytes as u32 <= function.max_shared_bytes;
        let found = if is_launchable { by_shared.min(by_threads).min(MAX_RESIDENT_BLOCKS) } else { 0 };
        put(blocks, found as c_int)
    }
}
