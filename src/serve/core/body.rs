//! Bodies of requests and responses: how long the first are waited for, and how the second hold their request's place.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Bytes, HttpBody};
use axum::http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::error::ApiError;
use crate::batch::Place;
use crate::memory;
use crate::serve::options::Connections;

/// How long a body is waited for: until the request's deadline, and no longer than its sender sends.
pub(crate) struct BodyClock {
    deadline: Instant,
    timeout: Duration,
    min_rate: u64,
    begin: Instant,
    last: Instant,
    bytes: u64,
}

impl BodyClock {
    /// For a body, or a message of one, that begins now.
    pub(crate) fn new(deadline: Instant, connections: &Connections) -> Self {
        let now = Instant::now();
        let Connections { body_timeout: timeout, min_write_rate: min_rate, .. } = *connections;
        Self { deadline, timeout, min_rate, begin: now, last: now, bytes: 0 }
    }

    /// Waits for a piece of the body.
    ///
    /// # Errors
    /// [`ApiError::BodyTooSlow`] where the deadline comes before it, the sender sends nothing for the timeout, or it has
    /// sent less than its rate over more than the timeout.
    pub(crate) async fn wait<T>(&self, piece: impl Future<Output = T>) -> Result<T, ApiError> {
        let owed = Duration::from_secs(self.bytes / self.min_rate.max(1));
        let until = [self.last + self.timeout, self.begin + self.timeout + owed].into_iter().min();
        let until = until.map_or(self.deadline, |until| until.min(self.deadline));
        tokio::time::timeout_at(until.into(), piece).await.map_err(|_| ApiError::BodyTooSlow)
    }

    /// So many bytes have come.
    pub(crate) fn receive(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.last = Instant::now();
    }
}

/// Adds a piece to a body as far as it has come. Room is held for bytes that are there, not for those that a client says
/// will come.
///
/// # Errors
/// Those of [`Place::hold`], and a lack of memory.
pub(crate) fn append(body: &mut Vec<u8>, piece: &[u8], place: &Place) -> Result<(), ApiError> {
    place.hold(piece.len() as u64)?;
    Ok(memory::append(body, piece)?)
}

/// Bytes that are worked on in well under a millisecond.
const FEW_BYTES: usize = 1 << 20;

/// Works on so many bytes. Other requests of this thread do not wait for a large message. A small one is worked on at
/// once, for another thread would take longer to start, and each such thread has memory of its own.
pub(crate) fn block_in_place_if_large<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes < FEW_BYTES { work() } else { tokio::task::block_in_place(work) }
}

/// The same bytes, which hold the place until nothing refers to them: a connection drops what it was handed only when
/// that has been sent, or its client has left.
pub(crate) fn hold_place(piece: Bytes, place: Arc<Place>) -> Bytes {
    struct Held {
        piece: Bytes,
        _place: Arc<Place>,
    }
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.piece
        }
    }
    Bytes::from_owner(Held { piece, _place: place })
}

/// The pieces of a response, and its trailers. The request's place is held until the last piece has been sent, or the
/// client has left: in the connection's buffers a piece outlives this body.
pub(crate) struct ResponseBody {
    pieces: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
}

impl ResponseBody {
    pub(crate) fn new(pieces: impl IntoIterator<Item = Bytes>, place: &Arc<Place>) -> Self {
        let pieces = pieces.into_iter().map(|piece| hold_place(piece, place.clone())).collect();
        Self { pieces, trailers: None }
    }

    pub(crate) fn with_trailers(self, trailers: HeaderMap) -> Self {
        Self { trailers: Some(trailers), ..self }
    }
}

impl HttpBody for ResponseBody {
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
