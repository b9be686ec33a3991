//! The devices that are simulated, by what a launch may ask of them.

/// What a launch may ask of a device: the CUDA programming guide's table of technical specifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceModel {
    /// Major and minor compute capability.
    pub compute_capability: (u32, u32),
    /// Dynamic shared memory of a block at most, opted in.
    pub max_shared_bytes: u32,
    /// Threads of a block at most.
    pub max_threads: u32,
    /// Blocks of a grid at most.
    pub max_grid: [u32; 3],
}

impl DeviceModel {
    /// Compute capability 8.0, as of an A100.
    pub const AMPERE: Self = Self {
        compute_capability: (8, 0),
        max_shared_bytes: 163 * 1024,
        max_threads: 1024,
        max_grid: [i32::MAX as u32, 65535, 65535],
    };

    /// Compute capability 9.0, as of an H100.
    pub const HOPPER: Self = Self { compute_capability: (9, 0), max_shared_bytes: 227 * 1024, ..Self::AMPERE };
}
