//! What a connection is at: its requests, and what its client has not taken of their answers yet.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

/// Requests of a connection that were begun, and those whose answer has begun.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub(super) begun: AtomicU64,
    pub(super) answered: AtomicU64,
    waits: Mutex<Waits>,
}

/// What is waited for that only the client can do.
#[derive(Debug, Default)]
struct Waits {
    /// When each of them began; the first is the oldest.
    begins: BTreeMap<u64, Instant>,
    next: u64,
    /// When the last of them began, or an answer ended.
    last: Option<Instant>,
}

/// One of them, until it is dropped.
struct Wait {
    seen: Arc<Requests>,
    id: u64,
}

impl Requests {
    /// When something of an answer was last handed over, or an answer ended.
    pub(super) fn last(&self) -> Option<Instant> {
        self.waits().last
    }

    /// Since when the client has been waited for, where it is: whatever else it asks for meanwhile.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.waits().begins.values().next().copied()
    }

    fn wait(self: &Arc<Self>) -> Wait {
        let now = Instant::now();
        let mut waits = self.waits();
        waits.last = Some(now);
        let id = waits.next;
        waits.next += 1;
        waits.begins.insert(id, now);
        Wait { seen: self.clone(), id }
    }

    /// The waits are whole between their changes, so a panic elsewhere leaves them sound.
    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.seen.waits().begins.remove(&self.id);
    }
}

/// A request until its answer begins, or its client has left.
pub(super) struct UnderWay(Arc<Requests>);

impl UnderWay {
    pub(super) fn new(requests: &Arc<Requests>) -> Self {
        requests.begun.fetch_add(1, Ordering::Relaxed);
        Self(requests.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // What is to be written of it may still be.
        self.0.waits().last = Some(Instant::now());
        self.0.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// An answer, whose client is waited for while it has a piece of it to take, and while it makes no room for the next: a
/// client of HTTP/2 that lets nothing come is never handed anything.
pub(super) struct Answer {
    body: Body,
    seen: Arc<Requests>,
    /// Until the connection asks for more.
    unasked: Option<Wait>,
    _call: Option<UnderWay>,
}

impl Answer {
    pub(super) fn new(body: Body, seen: Arc<Requests>, call: Option<UnderWay>) -> Self {
        let unasked = Some(seen.wait());
        Self { body, seen, unasked, _call: call }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.unasked = None;
        let piece = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(_))) = &piece {
            self.unasked = Some(self.seen.wait());
        }
        let seen = &self.seen;
        piece.map_ok(|frame| frame.map_data(|bytes| Bytes::from_owner(Piece { _wait: seen.wait(), bytes })))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A piece of an answer until it has left.
struct Piece {
    bytes: Bytes,
    _wait: Wait,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
