//! For tests of single kernels: device memory with exact bounds that starts as NaNs, params, launches over seeds.
//!
//! ```
//! use tilesight_simulator::machine::testing::{Buffer, Kernel, Params, SEEDS};
//!
//! for seed in SEEDS {
//!     let input = Buffer::of(&[1.0f32, 2.0, 3.0]);
//!     let output = Buffer::poisoned::<f32>(3);
//!     let params = Params::new().buffer(&input).buffer(&output).u32(3);
//!     Kernel::named("double_values").grid([1, 1, 1]).block([32, 1, 1]).seed(seed).run(&params).unwrap();
//!     assert_eq!(output.read::<f32>(), [2.0, 4.0, 6.0]);
//! }
//! ```

use std::ops::Range;

use bytemuck::{AnyBitPattern, NoUninit};

use super::shared::Guarded;
use super::{Adversary, DeviceModel, Entry, Fault, Launch, entry, run};

/// Enough that a hazard between two warps shows under some of them.
pub const SEEDS: Range<u64> = 0..8;

/// Global memory of exactly one array, aligned to 1024 bytes, between redzones.
pub struct Buffer(Guarded);

impl Buffer {
    /// `len` elements, every byte 0xff: NaN in any floating-point type.
    pub fn poisoned<T: NoUninit>(len: usize) -> Self {
        Self(Guarded::new(len * size_of::<T>()))
    }

    /// These elements.
    pub fn of<T: NoUninit>(elements: &[T]) -> Self {
        let buffer = Self::poisoned::<T>(elements.len());
        let bytes: &[u8] = bytemuck::cast_slice(elements);
        // SAFETY: the buffer is as long as the elements, and nobody else has it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.0.bytes(), bytes.len()) };
        buffer
    }

    /// Its device address.
    pub fn address(&self) -> u64 {
        self.0.bytes() as u64
    }

    /// What it holds. Panics if a kernel has written past an end of it.
    pub fn read<T: AnyBitPattern>(&self) -> Vec<T> {
        assert_eq!(self.0.overrun(), None, "bytes beside a buffer of {} bytes were overwritten", self.0.len());
        // SAFETY: all bytes were written when the buffer was made, and no launch runs.
        let bytes = unsafe { std::slice::from_raw_parts(self.0.bytes(), self.0.len()) };
        bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }
}

/// A params struct, field by field in the order of its declaration, each at its own alignment.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<u8>);

impl Params {
    /// No fields yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A pointer into device memory, or any other 8 bytes.
    pub fn u64(self, value: u64) -> Self {
        self.field(&value.to_ne_bytes())
    }

    /// A `uint32_t`.
    pub fn u32(self, value: u32) -> Self {
        self.field(&value.to_ne_bytes())
    }

    /// A `float`.
    pub fn f32(self, value: f32) -> Self {
        self.field(&value.to_ne_bytes())
    }

    /// The address of a buffer, which must outlive the launch.
    pub fn buffer(self, buffer: &Buffer) -> Self {
        self.u64(buffer.address())
    }

    /// A null pointer.
    pub fn null(self) -> Self {
        self.u64(0)
    }

    fn field(mut self, bytes: &[u8]) -> Self {
        self.0.resize(self.0.len().next_multiple_of(bytes.len()), 0);
        self.0.extend_from_slice(bytes);
        self
    }
}

/// A launch to be: one block of the entry's most threads, without shared memory, on the smaller device, seed 0.
#[derive(Clone, Debug)]
pub struct Kernel {
    entry: &'static Entry,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    device: DeviceModel,
    seed: u64,
    adversary: Adversary,
}

impl Kernel {
    /// The entry of that name, the portable one where others have the same. Panics if there is none.
    pub fn named(name: &str) -> Self {
        Self::of(entry(name).unwrap_or_else(|| panic!("no kernel has an entry {name}")))
    }

    /// This entry.
    pub fn of(entry: &'static Entry) -> Self {
        Self {
            entry,
            grid: [1; 3],
            block: [entry.max_threads, 1, 1],
            shared_bytes: 0,
            device: DeviceModel::AMPERE,
            seed: 0,
            adversary: Adversary::default(),
        }
    }

    /// `gridDim`.
    pub fn grid(self, grid: [u32; 3]) -> Self {
        Self { grid, ..self }
    }

    /// `blockDim`.
    pub fn block(self, block: [u32; 3]) -> Self {
        Self { block, ..self }
    }

    /// Dynamic shared memory.
    pub fn shared_bytes(self, shared_bytes: u32) -> Self {
        Self { shared_bytes, ..self }
    }

    /// The device.
    pub fn device(self, device: DeviceModel) -> Self {
        Self { device, ..self }
    }

    /// The adversary's seed.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The adversary.
    pub fn adversary(self, adversary: Adversary) -> Self {
        Self { adversary, ..self }
    }

    /// Runs it. Pointers in the params are the test's responsibility, as is a kernel that goes astray with them: what
    /// redzones do not show, AddressSanitizer does.
    pub fn run(&self, params: &Params) -> Result<(), Fault> {
        let mut params = params.0.clone();
        // The end of a struct with pointers in it.
        params.resize(params.len().next_multiple_of(8), 0);
        let Self { entry, grid, block, shared_bytes, device, seed, adversary } = *self;
        let launch = Launch { entry, grid, block, shared_bytes, params: &params, device, seed, adversary };
        // SAFETY: see above: there is no stronger promise to be had of a kernel under test.
        unsafe { run(&launch) }
    }
}
