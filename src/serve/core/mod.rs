//! The server without its protocols: admission, the tensors of a request, its way to the embeddings, and counters.
//!
//! `http/` and `grpc/` stand above this folder and bring requests and responses in their own forms. Nothing here imports
//! either of them. Statuses are HTTP's throughout, for logs and metrics count both protocols by them.

pub(crate) mod access_log;
pub(crate) mod body;
pub(crate) mod cache;
pub(crate) mod deadline;
pub(crate) mod encoded;
pub(crate) mod error;
pub(crate) mod etag;
pub(crate) mod health;
pub(crate) mod metadata;
pub(crate) mod metrics;
pub(crate) mod model;
pub(crate) mod outcome;
pub(crate) mod outputs;
pub(crate) mod pipeline;
pub(crate) mod request;
pub(crate) mod service;
pub(crate) mod shared_memory;
pub(crate) mod statistics;
pub(crate) mod tensors;
#[cfg(feature = "otel")]
pub(crate) mod traces;
