//! What kernels are launched with: `kernels/abi.h`, which has the comments. The layout of every struct is checked against
//! the header's when this is compiled.

#![allow(dead_code, missing_docs)]
#![allow(clippy::all, clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

include!(concat!(env!("OUT_DIR"), "/abi.rs"));

/// Marks structs of plain numbers, which may be copied as bytes.
macro_rules! plain {
    ($($name:ident),*) => {$(
        // SAFETY: numbers of 4 bytes each, none but they.
        unsafe impl bytemuck::Zeroable for $name {}
        // SAFETY: as above: no padding, and every pattern of bits is a value.
        unsafe impl bytemuck::Pod for $name {}
    )*};
}

plain!(RowMoments, TileSource, TokenRow, GlobalRow, ProjectedRow, ProjectionItem, AttentionItem, AttentionGroup);
