//! Request bodies: each is counted before it is kept.

use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use http_body_util::BodyExt;

use crate::batch::Place;
use crate::memory;
use crate::serve::core::body::in_time;
use crate::serve::core::error::ApiError;
use crate::serve::core::request::RequestContext;
use crate::serve::core::service::Service;

/// The body of a rejected request is drained for so long, so that its sender comes to read the response.
const DRAIN: Duration = Duration::from_secs(5);

/// Admits a request and receives its body. `checked` is what was found in its head, which comes first.
///
/// # Errors
/// Those of `checked`, [`RequestContext::admit`] and [`receive`].
pub(super) async fn admit_and_receive<'a, T>(
    service: &'a Service,
    headers: &HeaderMap,
    body: Body,
    checked: Result<T, ApiError>,
) -> Result<(T, RequestContext<'a>, Bytes), ApiError> {
    let admitted = checked.and_then(|checked| Ok((checked, RequestContext::admit(service, headers)?)));
    let (checked, context) = match admitted {
        Ok(admitted) => admitted,
        Err(error) => {
            drain(body);
            return Err(error);
        }
    };
    let body = receive(body, &context.place, service.options.max_body_bytes, context.deadline).await?;
    Ok((checked, context, body))
}

/// Reads a whole body.
///
/// # Errors
/// [`ApiError::BodyTooLarge`], [`ApiError::BodyTooSlow`], [`ApiError::BodyBroken`], and those of [`Place::hold`].
async fn receive(mut body: Body, place: &Place, limit: usize, deadline: Instant) -> Result<Bytes, ApiError> {
    let result = in_time(deadline, read(&mut body, place, limit)).await;
    if !matches!(result, Ok(_) | Err(ApiError::BodyTooSlow | ApiError::BodyBroken { .. })) {
        drain(body);
    }
    result
}

async fn read(body: &mut Body, place: &Place, limit: usize) -> Result<Bytes, ApiError> {
    let known = body.size_hint().exact();
    if known.is_some_and(|len| len > limit as u64) {
        return Err(ApiError::BodyTooLarge { limit });
    }
    place.hold(known.unwrap_or(0))?;
    let mut bytes = memory::reserve(known.unwrap_or(0) as usize)?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ApiError::BodyBroken { reason: e.to_string() })?;
        let Some(data) = frame.data_ref() else { continue };
        if data.len() > limit - bytes.len() {
            return Err(ApiError::BodyTooLarge { limit });
        }
        if known.is_none() {
            place.hold(data.len() as u64)?;
        }
        memory::append(&mut bytes, data)?;
    }
    Ok(bytes.into())
}

/// Reads a body on and keeps nothing of it.
pub(super) fn drain(mut body: Body) {
    tokio::spawn(tokio::time::timeout(DRAIN, async move { while let Some(Ok(_)) = body.frame().await {} }));
}
