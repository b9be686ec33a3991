//! What a connection is at: its requests, and what its client has not taken of their answers yet.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::Version;
use http_body::{Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::Instant;

/// Requests of a connection that were begun, and those whose answer has begun.
#[derive(Debug)]
pub(super) struct Requests {
    pub(super) begun: AtomicU64,
    pub(super) answered: AtomicU64,
    /// The client knows interim responses: one of HTTP/1.1.
    takes_interim: AtomicBool,
    waits: Mutex<Waits>,
    connected: Instant,
    ending: watch::Sender<Option<Ending>>,
}

/// Why the server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It asked for nothing for too long.
    Idle,
    /// Another takes its slot, if it is still without a request.
    GivesWay,
    /// It sends frames that ask for nothing.
    TooManyPings,
}

/// What is waited for that only the client can do.
#[derive(Debug, Default)]
struct Waits {
    /// When each of them began; the first is the oldest.
    begins: BTreeMap<u64, Instant>,
    next: u64,
    /// When the last of them began or ended, or an answer ended.
    last: Option<Instant>,
}

/// One of them, until it is dropped.
struct Wait {
    seen: Arc<Requests>,
    id: u64,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            begun: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            takes_interim: AtomicBool::new(false),
            waits: Mutex::default(),
            connected: Instant::now(),
            ending: watch::Sender::new(None),
        }
    }

    /// When something of an answer was last handed over or taken, or an answer ended; when the client came where it has not
    /// asked yet.
    pub(super) fn last(&self) -> Instant {
        self.waits().last.unwrap_or(self.connected)
    }

    /// Whether a request is under way.
    pub(super) fn are_under_way(&self) -> bool {
        self.begun.load(Ordering::Relaxed) != self.answered.load(Ordering::Relaxed)
    }

    /// Since when there is neither a request nor an answer, where there is none.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let waits = self.waits();
        let is_idle = !self.are_under_way() && waits.begins.is_empty();
        is_idle.then(|| waits.last.unwrap_or(self.connected))
    }

    /// A number that changes with every request and every piece of an answer.
    pub(super) fn progress(&self) -> u64 {
        self.begun.load(Ordering::Relaxed) + self.waits().next
    }

    /// Whether the client that asks knows interim responses.
    pub(super) fn take_interim_responses(&self) -> bool {
        self.takes_interim.load(Ordering::Relaxed)
    }

    /// Has the connection end.
    pub(super) fn end(&self, ending: Ending) {
        self.ending.send_if_modified(|known| known.is_none() && known.replace(ending).is_none());
    }

    /// Why it is about to, where it is.
    pub(super) fn ending(&self) -> Option<Ending> {
        *self.ending.borrow()
    }

    /// Waits until it is to end. A connection that has been asked meanwhile does not give way.
    pub(super) async fn ended(&self) -> Ending {
        let mut ending = self.ending.subscribe();
        loop {
            // There is a sender as long as there is `self`.
            let known = ending.wait_for(Option::is_some).await.ok().and_then(|ending| *ending);
            match known {
                Some(Ending::GivesWay) if self.idle_since().is_none() => drop(self.ending.send_replace(None)),
                known => return known.unwrap_or(Ending::Idle),
            }
        }
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
        let mut waits = self.seen.waits();
        waits.begins.remove(&self.id);
        waits.last = Some(Instant::now());
    }
}

/// A request until its answer begins, or its client has left.
pub(super) struct UnderWay(Arc<Requests>);

impl UnderWay {
    pub(super) fn new(requests: &Arc<Requests>, version: Version) -> Self {
        requests.takes_interim.store(version >= Version::HTTP_11, Ordering::Relaxed);
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
