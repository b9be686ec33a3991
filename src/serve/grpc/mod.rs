//! `inference.GRPCInferenceService`: the Open Inference Protocol over gRPC, with those of Triton's extensions that its
//! clients ask for; and gRPC's own health protocol.
//!
//! Questions go through tonic's codec. Tensors do not: there a message is counted before any of it is kept, and an answer
//! is sent from where it was computed.
//!
//! Reference: <https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md> and
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

mod infer;
mod memory;
pub(super) mod message;
mod questions;
mod received;
mod sent;
mod stream;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use prost::Message;
use tonic::Status;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;

use super::log::{self, Told};
use super::protocol::MAX_QUESTION;
use super::refused::Refused;
use super::service::Service;

/// The messages of `inference.proto`.
#[allow(clippy::enum_variant_names, reason = "the protocol's names")]
pub(super) mod inference {
    include!(concat!(env!("OUT_DIR"), "/inference.rs"));
}

/// The messages of `health.proto`.
mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

const SERVICE: &str = "inference.GRPCInferenceService";
const HEALTH: &str = "grpc.health.v1.Health";

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// All methods.
pub(super) fn router(service: Arc<Service>) -> Router {
    let method = |name: &str| format!("/{SERVICE}/{name}");
    let mut shared_memory = Router::new();
    if service.regions.is_on() {
        shared_memory = shared_memory
            .route(&method("SystemSharedMemoryStatus"), question(questions::regions))
            .route(&method("SystemSharedMemoryRegister"), question(questions::register_region))
            .route(&method("SystemSharedMemoryUnregister"), question(questions::unregister_region));
    }
    Router::new()
        .route(&method("ServerLive"), question(questions::server_live))
        .route(&method("ServerReady"), question(questions::server_ready))
        .route(&method("ModelReady"), question(questions::model_ready))
        .route(&method("ServerMetadata"), question(questions::server_metadata))
        .route(&method("ModelMetadata"), question(questions::model_metadata))
        .route(&method("ModelConfig"), question(questions::model_config))
        .route(&method("ModelStatistics"), question(questions::model_statistics))
        .route(&method("RepositoryIndex"), question(questions::repository_index))
        .route(&method("ModelInfer"), post(infer::infer))
        .route(&method("ModelStreamInfer"), post(stream::infer))
        .route(&format!("/{HEALTH}/Check"), question(questions::health))
        .merge(shared_memory)
        .fallback(async |request: Request| {
            let what = format!("method {}", request.uri().path());
            refused(&Refused::Unimplemented { what })
        })
        .layer(from_fn(require_grpc))
        .layer(from_fn_with_state(service.clone(), log::requests))
        .with_state(service)
}

/// A method whose answer is at hand.
fn question<Asked, Answer>(answer: fn(&Service, Asked) -> Result<Answer, Refused>) -> MethodRouter<Arc<Service>>
where
    Asked: Message + Default + 'static,
    Answer: Message + 'static,
{
    post(async move |State(service): State<Arc<Service>>, request: Request| {
        let respond = tower::service_fn(|request: tonic::Request<Asked>| {
            let answer = answer(&service, request.into_inner());
            std::future::ready(answer.map(tonic::Response::new).map_err(|refused| refused.grpc_status()))
        });
        let mut grpc = Grpc::new(ProstCodec::<Answer, Asked>::default()).max_decoding_message_size(MAX_QUESTION);
        let answered = tokio::time::timeout(service.options.timeout, grpc.unary(respond, request)).await;
        answered.map_or_else(|_| refused(&Refused::BodyTooSlow), |response| response.map(Body::new))
    })
}

/// Refuses what is not gRPC, and messages that are compressed: the lengths that are counted are those in memory.
async fn require_grpc(request: Request, next: Next) -> Response {
    let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    if !request.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc) {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    match request.headers().get("grpc-encoding").filter(|encoding| *encoding != "identity") {
        Some(encoding) => refused(&Refused::Unimplemented { what: format!("compression {encoding:?}") }),
        None => next.run(request).await,
    }
}

/// The answer that is a refusal alone.
fn refused(refused: &Refused) -> Response {
    let mut response: Response = refused.grpc_status().into_http();
    response.extensions_mut().insert(Told::refused(refused));
    response
}

/// What comes behind the last message when all went well.
fn success() -> HeaderMap {
    HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from_static("0"))])
}
