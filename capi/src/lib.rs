//! The C interface: `include/tilesight.h` is made from this crate, and is its documentation.
//!
//! Every function checks what it can of its arguments, does its work within [`status::call`], which refuses children of
//! fork(), and leaves the rest to the engine.

mod arguments;
mod encode;
mod enqueue;
mod fork;
mod handles;
mod open;
mod status;
mod structs;
