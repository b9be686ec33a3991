//! `ModelInfer`: one message in, one out.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;

use super::super::body::{Pieces, at_length, in_time};
use super::super::log::Told;
use super::super::refused::Refused;
use super::super::service::Service;
use super::message::Asked;
use super::received::Received;
use super::{CONTENT_TYPE, refused, success};

pub(super) async fn infer(State(service): State<Arc<Service>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let result = respond(&service, &head.headers, body).await;
    service.metrics.count_response(result.as_ref().map_or_else(Refused::status, |_| StatusCode::OK));
    result.unwrap_or_else(|why| refused(&why))
}

async fn respond(service: &Service, headers: &HeaderMap, body: Body) -> Result<Response, Refused> {
    let mut visit = service.admit(headers)?;
    let place = visit.place.clone();
    let mut received = Received::new(body, service.options.max_body_bytes);
    let message = in_time(visit.deadline, received.only(&place)).await?;
    visit.received();
    let hold = |bytes| Ok(place.hold(bytes)?);
    let Asked { tensors, form } = at_length(message.len(), || Asked::read(message, &service.regions, hold))?;
    visit.unless_known(headers, form.wanted.dtype());
    visit.for_outputs(form.wanted.clone());
    let mut answer = tensors.encode(visit).await?;
    let begin = Instant::now();
    let pieces = at_length(size_of_val(&answer.reply[..]), || form.message(&answer, &place)?.framed())?;
    let mut response = Response::new(Body::new(Pieces::new(pieces, &place).with_trailers(success())));
    let made = answer.is_made(begin.elapsed());
    response.extensions_mut().insert(Told::of(&answer));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    headers.extend(made);
    Ok(response)
}
