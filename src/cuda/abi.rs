//! What kernels are launched with: `kernels/abi.h`, which has the comments. The layout of every struct is checked against
//! the header's when this is compiled.

#![allow(dead_code, missing_docs)]
#![allow(clippy::all, clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

include!(concat!(env!("OUT_DIR"), "/abi.rs"));
