//! `ModelInfer`: one message in, one out.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;

use super::frame_reader::FrameReader;
use super::protocol::{CONTENT_TYPE, success};
use super::{error, message};
use crate::serve::core::body::{BodyClock, ResponseBody, block_in_place_if_large};
use crate::serve::core::error::ApiError;
use crate::serve::core::pipeline::{self, Answered, ResponseParts};
use crate::serve::core::request::RequestContext;
use crate::serve::core::service::Service;

pub(super) async fn infer(State(service): State<Arc<Service>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let result = respond(&service, &head.headers, body).await;
    service.count_response(&result);
    result.map_or_else(|error| error::response(&error), Answered::into_response)
}

async fn respond(service: &Service, headers: &HeaderMap, body: Body) -> Result<Answered<Response>, ApiError> {
    let mut context = RequestContext::announce(service, headers)?;
    context.set_if_none_match(headers);
    let mut frames = FrameReader::new(body, service.options.max_body_bytes);
    let clock = BodyClock::new(context.deadline, &service.options.connections);
    let message = frames.only(&context.place, clock).await?;
    answer(service, context, message, write).await
}

/// Encodes the request in a message. `write` makes the response.
pub(super) async fn answer<T>(
    service: &Service,
    context: RequestContext<'_>,
    message: Bytes,
    write: impl FnOnce(&ResponseParts) -> Result<T, ApiError>,
) -> Result<Answered<T>, ApiError> {
    let regions = &service.regions;
    pipeline::infer(
        context,
        message,
        |bytes, reserve| block_in_place_if_large(bytes.len(), || message::read(bytes, regions, reserve)),
        |parts| write(&parts),
    )
    .await
}

fn write(parts: &ResponseParts) -> Result<Response, ApiError> {
    let pieces = message::write(parts)?.framed()?;
    let body = ResponseBody::new(pieces, parts.place).with_trailers(success());
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    Ok(response)
}
