//! Runs one launch: blocks one after another, the threads of a block as coroutines that meet where the instructions of
//! a warp or the barriers of a block make them meet.

mod adversary;
mod device;
mod entries;
mod fault;

pub use adversary::{Adversary, Landing, Order};
pub use device::DeviceModel;
pub use entries::{Entry, entries, entry};
pub use fault::{Fault, ThreadName};

/// A launch of one entry.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// What to run.
    pub entry: &'static Entry,
    /// `gridDim`.
    pub grid: [u32; 3],
    /// `blockDim`.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// The entry's params struct.
    pub params: &'a [u8],
    /// The device it runs on.
    pub device: DeviceModel,
    /// What the adversary's choices follow from.
    pub seed: u64,
    /// The adversary.
    pub adversary: Adversary,
}

/// Runs a launch to its end, on the calling thread.
///
/// # Safety
///
/// Global memory is the host's: every pointer in `params` that the kernel follows must be valid for what the kernel
/// does with it, and nothing else may use that memory meanwhile.
pub unsafe fn run(launch: &Launch<'_>) -> Result<(), Fault> {
    Ok(())
}
