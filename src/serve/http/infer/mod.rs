//! `POST /v2/models/tilesight/infer`: the Open Inference Protocol over HTTP, with the binary tensor extension.
//!
//! Reference: <https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md> and
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md>.

mod read;
mod wire;
mod write;

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::HeaderName;
use axum::response::{IntoResponse, Response};

use super::body::announce_and_receive;
use crate::serve::core::body::block_in_place_if_large;
use crate::serve::core::error::ApiError;
use crate::serve::core::metadata::require_model;
use crate::serve::core::pipeline::{self, Answered};
use crate::serve::core::service::Service;

pub(crate) use read::read;

/// Where the JSON ends and the tensors begin.
const HEADER_LEN: HeaderName = HeaderName::from_static("inference-header-content-length");

pub(super) async fn infer(
    State(service): State<Arc<Service>>,
    Path(model): Path<String>,
    request: Request,
) -> Response {
    let result = respond(&service, &model, request).await;
    service.count_response(&result);
    result.map_or_else(IntoResponse::into_response, Answered::into_response)
}

async fn respond(service: &Service, model: &str, request: Request) -> Result<Answered<Response>, ApiError> {
    let (head, body) = request.into_parts();
    let ((), mut context, body) = announce_and_receive(service, &head.headers, body, require_model(model)).await?;
    context.set_if_none_match(&head.headers);
    let json_len = head.headers.get(HEADER_LEN);
    let regions = &service.regions;
    pipeline::infer(
        context,
        body,
        |body, reserve| block_in_place_if_large(body.len(), || read(json_len, body, regions, reserve)),
        |parts| write::write(&parts),
    )
    .await
}
