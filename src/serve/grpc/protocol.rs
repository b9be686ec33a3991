//! The words of the protocol: its messages, the names of its services, and the headers of its responses.

use axum::http::{HeaderMap, HeaderValue};
use tonic::Status;

/// The messages of `inference.proto`.
#[allow(clippy::enum_variant_names, reason = "the protocol's names")]
pub(super) mod inference {
    include!(concat!(env!("OUT_DIR"), "/inference.rs"));
}

/// The messages of `health.proto`.
pub(super) mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

pub(super) const SERVICE: &str = "inference.GRPCInferenceService";
pub(super) const HEALTH: &str = "grpc.health.v1.Health";

pub(super) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// The trailers of a call that succeeded.
pub(super) fn success() -> HeaderMap {
    HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from_static("0"))])
}
