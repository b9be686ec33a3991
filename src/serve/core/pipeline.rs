//! A request's way from its body to its response, the same for every protocol.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::response::Response;

use super::body::block_in_place_if_large;
use super::encoded::Encoded;
use super::error::ApiError;
use super::outcome::RequestOutcome;
use super::outputs::RequestedOutputs;
use super::request::RequestContext;
use super::tensors::Tensors;
use crate::batch::Place;
use crate::memory;
use crate::stages::Stage;

/// What a client asks for.
pub(crate) struct InferRequest {
    /// The client's name for the request, which its response repeats.
    pub(crate) id: Option<String>,
    pub(crate) outputs: RequestedOutputs,
    pub(crate) tensors: Tensors,
}

/// What a response is written from.
pub(crate) struct ResponseParts<'a> {
    pub(crate) id: Option<&'a str>,
    pub(crate) outputs: &'a RequestedOutputs,
    pub(crate) encoded: &'a Encoded,
    pub(crate) place: &'a Arc<Place>,
}

/// A response in its protocol's form, the headers that tell its times, and its line in the log.
pub(crate) struct Answered<T> {
    pub(crate) response: T,
    headers: HeaderMap,
    pub(crate) outcome: RequestOutcome,
}

/// Encodes a request whose body is here. `read` makes a request of the body, and reserves what that takes in memory
/// before it allocates; `write` makes the response.
///
/// # Errors
/// Those of [`Place::admit`], `read`, [`RequestContext::encode`] and `write`.
pub(crate) async fn infer<T>(
    mut context: RequestContext<'_>,
    body: Bytes,
    read: impl FnOnce(Bytes, &dyn Fn(u64) -> Result<(), ApiError>) -> Result<InferRequest, ApiError>,
    write: impl FnOnce(ResponseParts) -> Result<T, ApiError>,
) -> Result<Answered<T>, ApiError> {
    context.end_stage(Stage::Receive);
    context.place.admit()?;
    let place = context.place.clone();
    let reserve = |bytes| {
        place.hold(bytes)?;
        Ok(memory::require(bytes)?)
    };
    let InferRequest { id, outputs, tensors } = read(body, &reserve)?;
    let mut encoded = context.encode(tensors, &outputs).await?;
    let begin = Instant::now();
    let parts = ResponseParts { id: id.as_deref(), outputs: &outputs, encoded: &encoded, place: &place };
    let response = block_in_place_if_large(size_of_val(&encoded.reply[..]), || write(parts))?;
    let headers = encoded.finish(begin.elapsed());
    Ok(Answered { response, headers, outcome: RequestOutcome::from(&encoded) })
}

impl Answered<Response> {
    pub(crate) fn into_response(self) -> Response {
        let Self { mut response, headers, outcome } = self;
        response.headers_mut().extend(headers);
        response.extensions_mut().insert(outcome);
        response
    }
}
