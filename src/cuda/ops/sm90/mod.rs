//! What is Hopper's own about operations that have a form in its instructions.

pub(super) mod flash_attention;
pub(super) mod gemm;
