//! Where the elements of a product's operands lie in shared memory: the manual's canonical layouts of matrix
//! descriptors.

use super::super::fault::Fault;
use super::super::matrix::widen;
use super::super::shared::BASE;
use super::super::tensor_map::Swizzle;
use super::super::thread::Thread;
use super::Hopper;

/// K of one product.
pub(super) const DEPTH: usize = 16;

/// Bytes, and elements, that lie together.
const UNIT_BYTES: u32 = 16;
const UNIT: usize = 8;

/// Bytes of an element.
const ELEMENT_BYTES: u32 = 2;

/// A matrix descriptor.
#[derive(Clone, Copy)]
struct Descriptor {
    start: u32,
    leading: u32,
    stride: u32,
    swizzle: Swizzle,
}

/// The bits that have a meaning, and of them the base offset.
const FIELDS: u64 = 0xc00e_3fff_3fff_3fff;
const BASE_OFFSET: u64 = 0x000e_0000_0000_0000;

impl Descriptor {
    fn decode(bits: u64) -> Result<Self, &'static str> {
        if bits & !FIELDS != 0 {
            return Err("a descriptor with bits that have no meaning");
        }
        if bits & BASE_OFFSET != 0 {
            return Err("a descriptor with a base offset, which is not simulated");
        }
        let field = |shift: u32| ((bits >> shift) as u32 & 0x3fff) << 4;
        let swizzle = [Swizzle::None, Swizzle::Bytes128, Swizzle::Bytes64, Swizzle::Bytes32][(bits >> 62) as usize];
        Ok(Self { start: field(0), leading: field(16), stride: field(32), swizzle })
    }

    /// K-major: the unit with elements 8 * half to 8 * half + 7 of K of this row of M or N.
    fn along_k(self, row: usize, half: usize) -> u32 {
        let (row, half) = (row as u32, half as u32);
        let step = if self.swizzle == Swizzle::None { self.leading } else { UNIT_BYTES };
        self.swizzle.apply(self.start + row / 8 * self.stride + row % 8 * self.swizzle.span() + half * step)
    }

    /// MN-major: the unit with rows 8 * unit to 8 * unit + 7 of M or N of this element of K.
    fn across_k(self, unit: usize, k: usize) -> u32 {
        let (unit, k) = (unit as u32, k as u32);
        if self.swizzle == Swizzle::None {
            return self.start + unit * self.stride + k / 8 * self.leading + k % 8 * UNIT_BYTES;
        }
        let units = self.swizzle.span() / UNIT_BYTES;
        let start = self.start + unit / units * self.leading + unit % units * UNIT_BYTES;
        self.swizzle.apply(start + k / 8 * self.stride + k % 8 * self.swizzle.span())
    }

    /// Whether it stays within rows of the swizzle: an operand may start inside of one, but not go on behind.
    fn is_within_rows(self, is_mn_major: bool, count: usize) -> bool {
        let span = self.swizzle.span();
        let bytes = if is_mn_major { (count as u32 * ELEMENT_BYTES).min(span) } else { DEPTH as u32 * ELEMENT_BYTES };
        self.swizzle == Swizzle::None || self.start % span + bytes <= span
    }
}

/// An operand in shared memory: rows `first` to `first + count` of M or N.
#[derive(Clone, Copy)]
pub(super) struct SharedOperand {
    pub(super) descriptor: u64,
    pub(super) is_mn_major: bool,
    pub(super) is_fp16: bool,
    pub(super) first: usize,
    pub(super) count: usize,
}

impl SharedOperand {
    fn units(self, thread: &Thread) -> Result<impl Iterator<Item = (usize, usize, u32)>, Fault> {
        let Self { descriptor, is_mn_major, first, count, .. } = self;
        let descriptor = Descriptor::decode(descriptor).map_err(|problem| thread.misuse("wgmma", problem))?;
        if !descriptor.is_within_rows(is_mn_major, first + count) {
            return Err(thread.misuse("wgmma", "an operand that goes on behind a row of its swizzle"));
        }
        let (rows, columns) = if is_mn_major { (count / UNIT, DEPTH) } else { (count, DEPTH / UNIT) };
        Ok((0..rows * columns).map(move |index| {
            let (row, column) = (index / columns, index % columns);
            let address = match is_mn_major {
                true => descriptor.across_k(first / UNIT + row, column),
                false => descriptor.along_k(first + row, column),
            };
            (row, column, address)
        }))
    }

    /// Whether it can be read: inside of shared memory, and nothing in it that the asynchronous proxy does not know of.
    pub(super) fn check(self, hopper: &Hopper, thread: &Thread) -> Result<(), Fault> {
        self.units(thread)?.try_for_each(|(_, _, address)| hopper.check_fenced(thread, "wgmma", address, UNIT_BYTES))
    }

    /// Its elements as `matrix[k][row - first]`.
    pub(super) fn read<const WIDTH: usize>(
        self,
        hopper: &Hopper,
        thread: &Thread,
        matrix: &mut [[f32; WIDTH]; DEPTH],
    ) -> Result<(), Fault> {
        for (row, column, address) in self.units(thread)? {
            let words = hopper.unit(thread, address)?;
            for (pair, word) in words.into_iter().enumerate() {
                let elements = widen(word, self.is_fp16);
                for (element, value) in (2 * pair..).zip(elements) {
                    match self.is_mn_major {
                        true => matrix[column][UNIT * row + element] = value,
                        false => matrix[UNIT * column + element][row] = value,
                    }
                }
            }
        }
        Ok(())
    }
}

impl Hopper {
    fn unit(&self, thread: &Thread, address: u32) -> Result<[u32; 4], Fault> {
        self.check_fenced(thread, "wgmma", address, UNIT_BYTES)?;
        let bytes = self.shared.at(address, UNIT_BYTES).expect("checked just now");
        // SAFETY: 16 bytes of the block's shared memory, aligned to as many, for descriptors count in units.
        Ok(unsafe { bytes.cast::<[u32; 4]>().read() })
    }

    /// Whether the asynchronous proxy may touch these bytes: no thread has written some of them and not fenced since.
    pub(super) fn check_fenced(
        &self,
        thread: &Thread,
        operation: &'static str,
        address: u32,
        num_bytes: u32,
    ) -> Result<(), Fault> {
        self.shared.at(address, num_bytes).map_err(|offset| thread.out_of_bounds(operation, offset, num_bytes))?;
        let offset = address - BASE;
        match self.writers.unfenced(offset as usize, num_bytes as usize) {
            None => Ok(()),
            Some(writer) => {
                let problem =
                    format!("at shared byte {offset} and on: no fence_proxy_async since thread {writer} wrote there");
                Err(thread.misuse(operation, &problem))
            }
        }
    }
}
