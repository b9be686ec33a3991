//! From the bytes of a picture to the pixel values of its tiles.
//!
//! In the order of the flow: [`Image::decode`] reads JPEG, PNG and WebP (`decode`, `jpeg`, `png`, `webp`),
//! [`choose_canvas`] decides how many tiles there will be (`canvas`), `resize` shrinks or enlarges, and a
//! [`Preprocessor`] does all of it and cuts the normalised canvas into [`Tiles`] (`tiles`).
//!
//! What comes out follows one of two references, named by [`Preprocess`]: torchtune's `CLIPImageTransform`, or the
//! `MllamaImageProcessor` of Hugging Face transformers 4, which works through Pillow.

mod canvas;
mod decode;
mod header;
mod input;
mod jpeg;
mod jpeg_scans;
mod limits;
mod picture;
mod png;
mod preprocess;
mod processor_config;
mod resize;
mod tiles;
mod webp;
mod weights;

pub use crate::interrupt::Interrupt;
pub use canvas::{Canvas, choose_canvas};
pub use header::Header;
pub use limits::Limits;
pub use picture::Image;
pub use preprocess::Preprocess;
pub use resize::{resize_float32, resize_uint8};
pub use tiles::{CLIP_MEAN, CLIP_STD, Preprocessor, Tiles};
