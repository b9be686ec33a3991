//! Runs one launch: blocks one after another, the threads of a block as coroutines that meet where the instructions of
//! a warp or the barriers of a block make them meet.

mod adversary;
mod block;
mod copies;
mod device;
mod entries;
mod fault;
mod hopper;
mod matrix;
mod operation;
mod shared;
mod stack;
mod tensor_map;
pub mod testing;
mod thread;
mod warp;

use block::Block;

pub(crate) use adversary::Random;
pub use adversary::{Adversary, Landing, Order};
pub use device::DeviceModel;
pub use entries::{Entry, entries, entry, entry_for, entry_of};
pub use fault::{Fault, ThreadName};
pub(crate) use shared::Guarded;
pub use tensor_map::{Swizzle, TensorMap, TiledTensor};

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
    /// Whether it may start before earlier ones have ended: no block may write before it has waited for them.
    pub is_programmatic: bool,
}

impl Launch<'_> {
    /// What the driver refuses before anything runs.
    fn check(&self) -> Result<(), Fault> {
        let refuse = |what, asked, limit| Fault::Launch { kernel: self.entry.name, what, asked, limit };
        let at_most = |what, asked: u64, limit: u32| {
            let fits = asked >= 1 && asked <= u64::from(limit);
            if fits { Ok(()) } else { Err(refuse(what, asked, u64::from(limit))) }
        };
        let tenfold = |(major, minor): (u32, u32)| u64::from(10 * major + minor);
        let (asked, limit) = (tenfold(self.entry.compute_capability), tenfold(self.device.compute_capability));
        if asked > limit {
            return Err(refuse("tenfold compute capability", asked, limit));
        }
        let num_threads = self.block.into_iter().map(u64::from).fold(1, u64::saturating_mul);
        at_most("threads of a block", num_threads, self.entry.max_threads.min(self.device.max_threads))?;
        for (blocks, limit) in self.grid.into_iter().zip(self.device.max_grid) {
            at_most("blocks of a grid", blocks.into(), limit)?;
        }
        if self.shared_bytes > self.device.max_shared_bytes {
            return Err(refuse(
                "bytes of shared memory",
                self.shared_bytes.into(),
                self.device.max_shared_bytes.into(),
            ));
        }
        if self.params.len() != self.entry.params_bytes {
            return Err(refuse("bytes of params", self.params.len() as u64, self.entry.params_bytes as u64));
        }
        Ok(())
    }
}

/// Runs a launch to its end, on the calling thread.
///
/// # Safety
///
/// Global memory is the host's: every pointer in `params` that the kernel follows must be valid for what the kernel
/// does with it, and nothing else may use that memory meanwhile.
pub unsafe fn run(launch: &Launch<'_>) -> Result<(), Fault> {
    launch.check()?;
    let mut random = Random::new(launch.seed, 0);
    let landing = match launch.adversary.landing {
        Landing::Seeded => [Landing::Late, Landing::Late, Landing::AtIssue, Landing::Mixed][random.below(4)],
        landing => landing,
    };
    let mut numbers: Vec<u64> = (0..launch.grid.into_iter().map(u64::from).product()).collect();
    if launch.adversary.order == Order::Seeded {
        random.shuffle(&mut numbers);
    }
    let mut block = Block::new(launch, landing);
    numbers.into_iter().try_for_each(|number| block.run(number))
}
