//! Bodies in and out: what comes is counted before it is kept, and what goes keeps its place until it has left.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
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
    let result = in_time(deadline, read(&mut body, place, limit)).await;
    if !matches!(result, Ok(_) | Err(Refused::BodyTooSlow | Refused::BodyBroken { .. })) {
        swallow(body);
    }
    result
}

/// What is read, or [`Refused::BodyTooSlow`] where that does not arrive before the deadline.
pub(super) async fn in_time<T>(
    deadline: Instant,
    read: impl Future<Output = Result<T, Refused>>,
) -> Result<T, Refused> {
    tokio::time::timeout_at(deadline.into(), read).await.unwrap_or(Err(Refused::BodyTooSlow))
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

/// The same bytes, which keep the place until nothing refers to them: what is handed to a connection is dropped only when
/// it has left, or the client has.
pub(super) fn keep(piece: Bytes, place: Arc<Place>) -> Bytes {
    struct Kept {
        piece: Bytes,
        _place: Arc<Place>,
    }
    impl AsRef<[u8]> for Kept {
        fn as_ref(&self) -> &[u8] {
            &self.piece
        }
    }
    Bytes::from_owner(Kept { piece, _place: place })
}

/// Bytes that are worked on in well under a millisecond.
const FEW_BYTES: usize = 1 << 20;

/// Works on so many bytes. Other requests of this thread do not wait for what is long; what is short is done at once, for
/// handing them to another thread would take longer, and each such thread has memory of its own.
pub(super) fn at_length<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes < FEW_BYTES { work() } else { tokio::task::block_in_place(work) }
}

/// Pieces of an answer, and what comes behind them. The request's place is kept until the last has left, or the client has:
/// in the connection's buffers a piece outlives this body.
pub(super) struct Pieces {
    pieces: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Pieces {
    pub(super) fn new(pieces: impl IntoIterator<Item = Bytes>, place: &Arc<Place>) -> Self {
        let pieces = pieces.into_iter().map(|piece| keep(piece, place.clone())).collect();
        Self { pieces, trailers: None }
    }

    pub(super) fn with_trailers(self, trailers: HeaderMap) -> Self {
        Self { trailers: Some(trailers), ..self }
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let piece = self.pieces.pop_front().map(Frame::data);
        Poll::Ready(piece.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.pieces.iter().map(|piece| piece.len() as u64).sum())
    }
}
