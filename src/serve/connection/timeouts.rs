//! A connection's clocks, around its socket.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::pings::Pings;
use super::presence::Presence;
use super::protocol::Protocol;
use super::requests::{Ending, Requests};
use crate::serve::options::Connections;

/// Bytes of a frame that answers a ping or settings; whoever sends those has taken nothing of an answer.
const MAX_REPLY: usize = 17;

/// A stream whose waits have an end. All of it happens in the connection's task, so the counts are never behind.
pub(super) struct Impatient {
    stream: TcpStream,
    protocol: Protocol,
    connections: Connections,
    requests: Arc<Requests>,
    /// Requests that had begun when it was read last.
    known: u64,
    /// When the head began that is being read.
    head_since: Option<Instant>,
    /// When something was last read or written.
    last: Instant,
    /// When so much of answers had been taken that the reader's time began anew, and what it has taken since.
    taken: Instant,
    taken_bytes: u64,
    /// Wakes the reader.
    alarm: Pin<Box<Sleep>>,
    /// Ends a write that is stuck.
    stuck: Option<Pin<Box<Sleep>>>,
    /// Of HTTP/1.
    presence: Presence,
    /// Of HTTP/2.
    pings: Pings,
}

impl Impatient {
    pub(super) fn new(
        stream: TcpStream,
        protocol: Protocol,
        connections: Connections,
        requests: Arc<Requests>,
    ) -> Self {
        let now = Instant::now();
        let alarm = Box::pin(sleep_until(now + connections.header_timeout));
        Self {
            stream,
            protocol,
            connections,
            requests,
            known: 0,
            head_since: Some(now),
            last: now,
            taken: now,
            taken_bytes: 0,
            alarm,
            stuck: None,
            presence: Presence::default(),
            pings: Pings::new(),
        }
    }

    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Looks whether what is read next is another request's head; whether a request is under way.
    fn is_busy(&mut self) -> bool {
        let begun = self.requests.begun.load(Ordering::Relaxed);
        if begun != self.known {
            self.known = begun;
            self.head_since = None;
        }
        self.requests.are_under_way()
    }

    /// When a connection without a request will have been so for too long. Of HTTP/2 requests and answers count alone: a
    /// client may send frames that ask for nothing for ever.
    fn idle_ends(&self) -> Instant {
        let last = self.requests.last();
        let since = if self.protocol.is_http2() { last } else { last.max(self.last) };
        since + self.connections.idle_timeout
    }

    /// Wakes the connection's task at this time; ready where it has come.
    fn wake_at(&mut self, context: &mut Context, until: Instant) -> Poll<()> {
        if self.alarm.deadline() != until {
            self.alarm.as_mut().reset(until);
        }
        self.alarm.as_mut().poll(context)
    }

    /// When the reader of an answer will have taken nothing, or too little, for too long.
    fn patience_ends(&self) -> Option<Instant> {
        let since = self.requests.waiting_since()?;
        Some(since.max(self.taken) + self.connections.write_timeout)
    }

    /// Whether it has; otherwise it is looked again then.
    fn is_out_of_patience(&mut self, context: &mut Context) -> bool {
        self.patience_ends().is_some_and(|until| self.wake_at(context, until).is_ready())
    }

    /// So much was written that may be of an answer: the reader has its time anew once it has taken enough.
    fn has_taken(&mut self, bytes: usize) {
        let Connections { write_timeout, min_read_rate, .. } = self.connections;
        self.taken_bytes = self.taken_bytes.saturating_add(bytes as u64);
        if self.taken_bytes as f64 >= min_read_rate as f64 * write_timeout.as_secs_f64() {
            (self.taken, self.taken_bytes) = (self.last, 0);
        }
    }

    /// A write has come this far.
    fn written(&mut self, context: &mut Context, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = &result {
            self.stuck = None;
            self.last = Instant::now();
            if let Ok(written) = written
                && *written > MAX_REPLY
            {
                self.has_taken(*written);
            }
            if self.is_out_of_patience(context) {
                return Poll::Ready(Err(nobody()));
            }
            if self.patience_ends().is_none() {
                // Behind an answer nobody may read before something comes: hyper waits for that since the request.
                let until = self.idle_ends();
                if self.wake_at(context, until).is_ready() {
                    context.waker().wake_by_ref();
                }
            }
            return result;
        }
        let timeout = self.connections.write_timeout;
        let is_stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(timeout))).as_mut().poll(context).is_ready();
        if is_stuck || self.is_out_of_patience(context) {
            return Poll::Ready(Err(nobody()));
        }
        Poll::Pending
    }
}

fn nobody() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "nobody takes the answer, or not fast enough")
}

impl AsyncRead for Impatient {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context, buffer: &mut ReadBuf) -> Poll<io::Result<()>> {
        let is_busy = self.is_busy();
        let known = buffer.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            self.last = Instant::now();
            if self.protocol.is_http2() {
                self.head_since = None;
                let (now, progress) = (self.last, self.requests.progress());
                if self.pings.are_too_many(&buffer.filled()[known..], now, progress) {
                    self.requests.end(Ending::TooManyPings);
                }
            } else if !is_busy {
                let last = self.last;
                self.head_since.get_or_insert(last);
            }
            return Poll::Ready(result);
        }
        if self.is_out_of_patience(context) {
            return Poll::Ready(Err(nobody()));
        }
        if self.patience_ends().is_some() {
            return Poll::Pending;
        }
        if is_busy || self.stuck.is_some() {
            return Poll::Pending;
        }
        let until = match self.head_since {
            Some(since) => since + self.connections.header_timeout,
            None => self.idle_ends(),
        };
        ready!(self.wake_at(context, until));
        match self.head_since {
            Some(_) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head did not end"))),
            // The client is told.
            None if self.protocol.is_http2() => {
                self.requests.end(Ending::Idle);
                Poll::Pending
            }
            // As if the client had closed it.
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context,
        pieces: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.written(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes whenever it is woken and has nothing to write.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        let Self { stream, presence, requests, protocol, .. } = &mut *self;
        if !protocol.is_http2() {
            presence.poll(context, stream, requests)?;
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
