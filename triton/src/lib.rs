//! Tilesight as a custom backend of Triton Inference Server: `libtriton_tilesight.so`.
//!
//! The server calls `backend`, which makes a `model` of each model's configuration (`config`, `parameters`) and an
//! `instance`, with an encoder of its own, for each of its instances. An instance is given requests, many at once: `request`
//! reads them, `prepare` makes tiles of them, the encoder computes them together, and `response` answers each. `api` is what
//! the server offers in turn. The backend itself keeps nothing; all there is belongs to a model or an instance.

mod api;
mod backend;
mod clock;
mod config;
#[cfg(test)]
mod host;
mod instance;
mod model;
mod parameters;
mod prepare;
mod refusal;
mod request;
mod response;
#[cfg(test)]
mod tests;
