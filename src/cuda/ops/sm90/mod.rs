//! The forms of operations that are written in the instructions of Hopper.

pub(super) mod flash_attention;
