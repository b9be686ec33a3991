//! Bodies in and out: what comes is counted before it is kept, and what goes keeps its place until it has left.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use super::refused::Refused;
use crate::batch::Place;

/// A body that will not be read is swallowed for so long, so that its sender comes to read the answer.
const SWALLOW: Duration = Duration::from_secs(5);

/// Reads a body whole, within the limit and before the deadline.
///
/// # Errors
/// [`Refused::BodyTooLarge`], [`Refused::BodyTooSlow`], [`Refused::BodyBroken`], and those of [`Place::hold`].
pub(super) async fn receive(mut body: Body, place: &Place, limit: usize, deadline: Instant) -> Result<Bytes, Refused> {
    let read = tokio::time::timeout_at(deadline.into(), read(&mut body, place, limit)).await;
    let result = read.unwrap_or(Err(Refused::BodyTooSlow));
    if !matches!(result, Ok(_) | Err(Refused::BodyTooSlow | Refused::BodyBroken { .. })) {
        swallow(body);
    }
    result
}

async fn read(body: &mut Body, place: &Place, limit: usize) -> Result<Bytes, Refused> {
    let known = body.size_hint().exact();
    if known.is_some_and(|len| len > limit as u64) {
        return Err(Refused::BodyTooLarge { limit });
    }
    place.hold(known.unwrap_or(0))?;
    let mut bytes = Vec::with_capacity(known.unwrap_or(0) as usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Refused::BodyBroken { reason: e.to_string() })?;
        let Some(data) = frame.data_ref() else { continue };
        if data.len() > limit - bytes.len() {
            return Err(Refused::BodyTooLarge { limit });
        }
        if known.is_none() {
            place.hold(data.len() as u64)?;
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes.into())
}

/// Reads on and keeps nothing.
pub(super) fn swallow(mut body: Body) {
    tokio::spawn(tokio::time::timeout(SWALLOW, async move { while let Some(Ok(_)) = body.frame().await {} }));
}

/// Pieces of an answer. The request's place is kept until the last has left, or the client has.
pub(super) struct Pieces {
    pub(super) pieces: VecDeque<Bytes>,
    pub(super) _place: Arc<Place>,
}

/// A piece on its way through the connection's buffers, in which it stays after the body has ended.
struct Kept {
    piece: Bytes,
    _place: Arc<Place>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let piece = self.pieces.pop_front();
        Poll::Ready(piece.map(|piece| {
            let kept = Kept { piece, _place: self._place.clone() };
            Ok(Frame::data(Bytes::from_owner(kept)))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.pieces.iter().map(|piece| piece.len() as u64).sum())
    }
}
