//! Request bodies: each is counted before it is kept.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use http_body_util::BodyExt;

use crate::batch::Place;
use crate::serve::core::body::{BodyClock, append};
use crate::serve::core::error::ApiError;
use crate::serve::core::request::RequestContext;
use crate::serve::core::service::Service;

/// The body of a rejected request is drained for so long, so that its sender comes to read the response.
const DRAIN: Duration = Duration::from_secs(5);

/// Receives the body of a request. `checked` is what was found in its head, which comes first.
///
/// # Errors
/// Those of `checked`, [`RequestContext::announce`] and [`receive`].
pub(super) async fn announce_and_receive<'a, T>(
    service: &'a Service,
    headers: &HeaderMap,
    body: Body,
    checked: Result<T, ApiError>,
) -> Result<(T, RequestContext<'a>, Bytes), ApiError> {
    let announced = checked.and_then(|checked| Ok((checked, RequestContext::announce(service, headers)?)));
    let (checked, context) = match announced {
        Ok(announced) => announced,
        Err(error) => {
            drain(body);
            return Err(error);
        }
    };
    let clock = BodyClock::new(context.deadline, &service.options.connections);
    let body = receive(body, &context.place, service.options.max_body_bytes, clock).await?;
    Ok((checked, context, body))
}

/// Reads a whole body.
///
/// # Errors
/// [`ApiError::BodyTooLarge`], [`ApiError::BodyTooSlow`], [`ApiError::BodyBroken`], and those of [`append`].
async fn receive(mut body: Body, place: &Place, limit: usize, clock: BodyClock) -> Result<Bytes, ApiError> {
    let result = read(&mut body, place, limit, clock).await;
    if !matches!(result, Ok(_) | Err(ApiError::BodyTooSlow | ApiError::BodyBroken { .. })) {
        drain(body);
    }
    result
}

async fn read(body: &mut Body, place: &Place, limit: usize, mut clock: BodyClock) -> Result<Bytes, ApiError> {
    if body.size_hint().exact().is_some_and(|len| len > limit as u64) {
        return Err(ApiError::BodyTooLarge { limit });
    }
    let mut bytes = Vec::new();
    while let Some(frame) = clock.wait(body.frame()).await? {
        let frame = frame.map_err(|e| ApiError::BodyBroken { reason: e.to_string() })?;
        let Some(piece) = frame.data_ref() else { continue };
        if piece.len() > limit - bytes.len() {
            return Err(ApiError::BodyTooLarge { limit });
        }
        append(&mut bytes, piece, place)?;
        clock.receive(piece.len());
    }
    Ok(bytes.into())
}

/// Reads a body on and keeps nothing of it.
pub(super) fn drain(mut body: Body) {
    tokio::spawn(tokio::time::timeout(DRAIN, async move { while let Some(Ok(_)) = body.frame().await {} }));
}
