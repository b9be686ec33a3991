//! The part of cuBLASLt that the engine calls.
