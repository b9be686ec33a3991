//! What `cuTensorMapEncodeTiled` encodes: the driver's manual says what it accepts; the bits are the simulator's own.

use bytemuck::{Pod, Zeroable};

/// Dimensions at most.
pub(crate) const MAX_RANK: usize = 5;

/// How rows of a box are exchanged in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    /// Not at all.
    None,
    /// Within 32 bytes.
    Bytes32,
    /// Within 64 bytes.
    Bytes64,
    /// Within 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// By the numbers of `CUtensorMapSwizzle`.
    pub(crate) const ALL: [Self; 4] = [Self::None, Self::Bytes32, Self::Bytes64, Self::Bytes128];

    /// Bytes within which 16-byte units are exchanged.
    pub(super) fn span(self) -> u32 {
        16 << self as u32
    }

    /// The address at which a byte lies that would be at `address` without it: bits from 4 on are exclusive-ored with
    /// those from 7 on.
    pub(super) fn apply(self, address: u32) -> u32 {
        address ^ (address >> 3 & (self.span() - 16))
    }
}

/// A tensor in global memory and the boxes that are copied of it, dimensions from the innermost outwards.
#[derive(Clone, Debug)]
pub struct TiledTensor<'a> {
    /// The first element.
    pub address: u64,
    /// Bytes of an element.
    pub element_bytes: u32,
    /// Elements along each dimension.
    pub extents: &'a [u64],
    /// Bytes from one to the next along each dimension but the innermost.
    pub strides: &'a [u64],
    /// Elements of a box along each dimension.
    pub boxes: &'a [u32],
    /// How its rows lie in shared memory.
    pub swizzle: Swizzle,
}

/// An encoded map.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct TensorMap {
    magic: u64,
    pub(super) address: u64,
    pub(super) extents: [u64; MAX_RANK],
    pub(super) strides: [u64; MAX_RANK - 1],
    pub(super) boxes: [u16; MAX_RANK],
    rank: u8,
    pub(super) element_bytes: u8,
    swizzle: u8,
    reserved: [u8; 19],
    check: u64,
}

// SAFETY: integers, and no bytes between them: they are as many as the struct has.
unsafe impl Zeroable for TensorMap {}
// SAFETY: likewise.
unsafe impl Pod for TensorMap {}
const _: () = assert!(size_of::<TensorMap>() == 2 * 8 + 8 * MAX_RANK + 8 * (MAX_RANK - 1) + 2 * MAX_RANK + 22 + 8);
const _: () = assert!(size_of::<TensorMap>() == 128);

const MAGIC: u64 = u64::from_le_bytes(*b"tiledmap");

/// Bits of an extent and of a stride.
const EXTENT_BITS: u32 = 32;
const STRIDE_BITS: u32 = 40;

/// What addresses, strides and a box's rows are multiples of.
const GRAIN: u64 = 16;

/// Elements of a box along a dimension at most.
const MAX_BOX: u32 = 256;

impl TensorMap {
    /// None where the manual says that the driver refuses it.
    pub fn tiled(tensor: &TiledTensor<'_>) -> Option<Self> {
        let TiledTensor { address, element_bytes, extents, strides, boxes, swizzle } = *tensor;
        let rank = extents.len();
        let row_bytes = u64::from(*boxes.first()?) * u64::from(element_bytes);
        let is_valid = (1..=MAX_RANK).contains(&rank)
            && strides.len() == rank - 1
            && boxes.len() == rank
            && address.is_multiple_of(GRAIN)
            && extents.iter().all(|&extent| (1..=1 << EXTENT_BITS).contains(&extent))
            && strides.iter().all(|&stride| stride.is_multiple_of(GRAIN) && stride < 1 << STRIDE_BITS)
            && boxes.iter().all(|&elements| (1..=MAX_BOX).contains(&elements))
            && row_bytes.is_multiple_of(GRAIN)
            && (swizzle == Swizzle::None || row_bytes <= u64::from(swizzle.span()));
        if !is_valid {
            return None;
        }
        let (rank_byte, element_bytes) = (rank as u8, element_bytes as u8);
        let mut map = Self { magic: MAGIC, address, rank: rank_byte, element_bytes, ..Self::zeroed() };
        map.swizzle = swizzle as u8;
        map.extents[..rank].copy_from_slice(extents);
        map.strides[..rank - 1].copy_from_slice(strides);
        map.boxes.iter_mut().zip(boxes).for_each(|(field, &elements)| *field = elements as u16);
        map.check = map.sum();
        Some(map)
    }

    /// Whether these bytes are a map, as it was encoded.
    pub(super) fn is_intact(&self) -> bool {
        self.magic == MAGIC && self.check == self.sum()
    }

    pub(super) fn rank(&self) -> usize {
        usize::from(self.rank)
    }

    pub(super) fn swizzle(&self) -> Swizzle {
        Swizzle::ALL[usize::from(self.swizzle)]
    }

    /// Bytes of a box's innermost row.
    pub(super) fn row_bytes(&self) -> u32 {
        u32::from(self.boxes[0]) * u32::from(self.element_bytes)
    }

    /// Rows of a box.
    pub(super) fn rows(&self) -> u32 {
        self.boxes[1..self.rank()].iter().map(|&elements| u32::from(elements)).product()
    }

    /// FNV-1a of all fields before the sum.
    fn sum(&self) -> u64 {
        let fields = &bytemuck::bytes_of(self)[..size_of::<Self>() - 8];
        fields.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}
