//! `inference.GRPCInferenceService`: the Open Inference Protocol over gRPC, with those of Triton's extensions that its
//! clients ask for; and gRPC's own health protocol.
//!
//! Questions go through tonic's codec. Tensors do not: there a message is counted before any of it is kept, and an answer
//! is sent from where it was computed.
//!
//! Reference: <https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md> and
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

mod error;
mod frame_reader;
mod frame_writer;
mod infer;
mod memory;
pub(super) mod message;
mod metadata;
mod protocol;
mod stream;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use prost::Message;
use tonic::Status;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;

use super::core::access_log;
use super::core::error::ApiError;
use super::core::metadata::MAX_QUESTION;
use super::core::service::Service;
use protocol::{HEALTH, SERVICE};

/// All methods.
pub(super) fn router(service: Arc<Service>) -> Router {
    let method = |name: &str| format!("/{SERVICE}/{name}");
    let mut shared_memory = Router::new();
    if service.regions.is_on() {
        shared_memory = shared_memory
            .route(&method("SystemSharedMemoryStatus"), unary(metadata::regions))
            .route(&method("SystemSharedMemoryRegister"), unary(metadata::register_region))
            .route(&method("SystemSharedMemoryUnregister"), unary(metadata::unregister_region));
    }
    Router::new()
        .route(&method("ServerLive"), unary(metadata::server_live))
        .route(&method("ServerReady"), unary(metadata::server_ready))
        .route(&method("ModelReady"), unary(metadata::model_ready))
        .route(&method("ServerMetadata"), unary(metadata::server_metadata))
        .route(&method("ModelMetadata"), unary(metadata::model_metadata))
        .route(&method("ModelConfig"), unary(metadata::model_config))
        .route(&method("ModelStatistics"), unary(metadata::model_statistics))
        .route(&method("RepositoryIndex"), unary(metadata::repository_index))
        .route(&method("ModelInfer"), post(infer::infer))
        .route(&method("ModelStreamInfer"), post(stream::infer))
        .route(&format!("/{HEALTH}/Check"), unary(metadata::health))
        .merge(shared_memory)
        .fallback(async |request: Request| {
            let what = format!("method {}", request.uri().path());
            error::response(&ApiError::Unimplemented { what })
        })
        .layer(from_fn(require_grpc))
        .layer(from_fn_with_state(service.clone(), access_log::requests))
        .with_state(service)
}

/// A method whose answer is at hand.
fn unary<Asked, Answer>(answer: fn(&Service, Asked) -> Result<Answer, ApiError>) -> MethodRouter<Arc<Service>>
where
    Asked: Message + Default + 'static,
    Answer: Message + 'static,
{
    post(async move |State(service): State<Arc<Service>>, request: Request| {
        let respond = tower::service_fn(|request: tonic::Request<Asked>| {
            let answer = answer(&service, request.into_inner());
            std::future::ready(answer.map(tonic::Response::new).map_err(|error| Status::from(&error)))
        });
        let mut grpc = Grpc::new(ProstCodec::<Answer, Asked>::default()).max_decoding_message_size(MAX_QUESTION);
        let answered = tokio::time::timeout(service.options.timeout, grpc.unary(respond, request)).await;
        answered.map_or_else(|_| error::response(&ApiError::BodyTooSlow), |response| response.map(Body::new))
    })
}

/// Refuses what is not gRPC, and messages that are compressed: the lengths that are counted are those in memory.
async fn require_grpc(request: Request, next: Next) -> Response {
    let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    if !request.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc) {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    match request.headers().get("grpc-encoding").filter(|encoding| *encoding != "identity") {
        Some(encoding) => error::response(&ApiError::Unimplemented { what: format!("compression {encoding:?}") }),
        None => next.run(request).await,
    }
}
