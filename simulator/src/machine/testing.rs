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
use super::{Adversary, DeviceModel, Entry, Fault, Launch, TensorMap, entry, run};

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
#[derive(Clone, Debug)]
pub struct Params {
    bytes: Vec<u8>,
    alignment: usize,
}

impl Default for Params {
    /// A struct has pointers in it.
    fn default() -> Self {
        Self { bytes: Vec::new(), alignment: 8 }
    }
}

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

    /// A `TensorMap`.
    pub fn tensor_map(mut self, map: &TensorMap) -> Self {
        self.alignment = align_of::<TensorMap>();
        self.aligned_field(bytemuck::bytes_of(map), align_of::<TensorMap>())
    }

    fn field(self, bytes: &[u8]) -> Self {
        self.aligned_field(bytes, bytes.len())
    }

    fn aligned_field(mut self, bytes: &[u8], alignment: usize) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        self.bytes.extend_from_slice(bytes);
        self
    }
}

/// A launch to be: one block of the entry's most threads, without shared memory, on the smaller device that has
/// its instructions, seed 0.
#[derive(Clone, Debug)]
pub struct Kernel {
    entry: &'static Entry,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    device: DeviceModel,
    seed: u64,
    adversary: Adversary,
    is_programmatic: bool,
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
            device: if entry.compute_capability >= (9, 0) { DeviceModel::HOPPER } else { DeviceModel::AMPERE },
            seed: 0,
            adversary: Adversary::default(),
            is_programmatic: false,
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

    /// A launch that may overlap the one before it.
    pub fn programmatic(self) -> Self {
        Self { is_programmatic: true, ..self }
    }

    /// Runs it. Pointers in the params are the test's responsibility, as is a kernel that goes astray with them: what
    /// redzones do not show, AddressSanitizer does.
    pub fn run(&self, params: &Params) -> Result<(), Fault> {
        let Params { bytes: mut params, alignment } = params.clone();
        params.resize(params.len().next_multiple_of(alignment), 0);
        let Self { entry, grid, block, shared_bytes, device, seed, adversary, is_programmatic } = *self;
        let launch =
            Launch { entry, grid, block, shared_bytes, params: &params, device, seed, adversary, is_programmatic };
        // SAFETY: see above: there is no stronger promise to be had of a kernel under test.
        unsafe { run(&launch) }
    }
}
