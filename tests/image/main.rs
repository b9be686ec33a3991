//! Pictures: what is decoded, what is refused, the canvas that is chosen, and the pixel values of the tiles.

#[path = "../support/golden_data.rs"]
mod golden_data;

mod canvas;
mod decoding;
mod golden_images;
mod interrupt;
mod large;
mod limits;
mod memory;
mod preprocessing;
