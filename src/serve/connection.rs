//! Connections: how many there are at once, and how long one may keep the server waiting.
//!
//! A head that does not end, a connection that asks for nothing, and an answer that nobody takes each have a time, after
//! which the connection is closed and what its request holds is given back. Bodies have the request's deadline.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// How long nothing is accepted after the system had no room for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Bytes of a frame that answers a ping or settings; whoever sends those has taken nothing of an answer.
const MAX_REPLY: usize = 17;

/// Calls of a connection of HTTP/2 at once; a client with more of them waits.
const MAX_CALLS: u32 = 256;

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub struct Connections {
    /// How many there are at once; more wait to be accepted.
    pub max: usize,
    /// How long a request's head may take, from its first byte or, the first one's, from the connection's beginning.
    pub header_timeout: Duration,
    /// How long a connection may stay between an answer and the next request.
    pub idle_timeout: Duration,
    /// How long the reader of an answer may take nothing of it.
    pub write_timeout: Duration,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    /// Without TLS, from the first byte on.
    Http2,
}

/// Accepts connections until `close` changes or is dropped; then lets those that are there finish their answers.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    protocol: Protocol,
    connections: Connections,
    mut close: watch::Receiver<()>,
) {
    let slots = Arc::new(Semaphore::new(connections.max.clamp(1, Semaphore::MAX_PERMITS)));
    let (closing, _) = watch::channel(false);
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            accepted = accepted => accepted,
            _ = close.changed() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, router.clone(), protocol, connections, closing.subscribe());
                tokio::spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) if is_its_own(&error) => {}
            // Files or memory lack: there will be some when a connection ends.
            Err(_) => sleep(PAUSE).await,
        }
    }
    drop(listener);
    closing.send_replace(true);
    // Each connection listens until it has ended.
    closing.closed().await;
}

/// Whether a connection failed before it was accepted, which says nothing of the next.
fn is_its_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(
    stream: TcpStream,
    router: Router,
    protocol: Protocol,
    connections: Connections,
    closing: watch::Receiver<bool>,
) {
    // Without it, answers wait for the client's delayed acknowledgements.
    drop(stream.set_nodelay(true));
    let requests = Arc::<Requests>::default();
    let seen = requests.clone();
    let io = TokioIo::new(Impatient::new(stream, protocol, connections, requests.clone()));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let under_way = UnderWay::new(&requests);
        let answer = router.call(request);
        async move {
            let _under_way = under_way;
            answer.await
        }
    });
    // What goes wrong is the client's: it has left, or was sent away.
    match protocol {
        Protocol::Http1 => {
            // The times are `Impatient`'s: hyper's own for a head would count the time before it, too.
            let connection = http1::Builder::new().header_read_timeout(None).serve_connection(io, service);
            drop(until_closed(connection, |connection| connection.graceful_shutdown(), closing).await);
        }
        Protocol::Http2 => {
            let service = service_fn(move |request| {
                let (call, seen) = (UnderWay::new(&seen), seen.clone());
                let answer = service.call(request);
                async move { Ok::<_, Infallible>(answer.await?.map(|body| Answer { body, seen, _call: call })) }
            });
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.max_concurrent_streams(MAX_CALLS);
            let connection = builder.serve_connection(io, service);
            drop(until_closed(connection, |connection| connection.graceful_shutdown(), closing).await);
        }
    }
}

/// Runs a connection to its end, and has it end with what it is at once `closing` comes.
async fn until_closed<C: Future>(
    connection: C,
    shut_down: impl FnOnce(Pin<&mut C>),
    mut closing: watch::Receiver<bool>,
) -> C::Output {
    let mut connection = pin!(connection);
    tokio::select! {
        output = connection.as_mut() => return output,
        _ = closing.wait_for(|closing| *closing) => shut_down(connection.as_mut()),
    }
    connection.await
}

/// Requests of a connection that were begun, and those whose answer has begun.
#[derive(Debug, Default)]
struct Requests {
    begun: AtomicU64,
    answered: AtomicU64,
    /// Pieces of answers that were handed to HTTP/2 and have not left: their reader says how much it takes.
    pieces: AtomicU64,
    /// When one of them was handed over, or an answer ended.
    last: Mutex<Option<Instant>>,
}

impl Requests {
    fn mark(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn last(&self) -> Option<Instant> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request until its answer begins, or its client has left.
struct UnderWay(Arc<Requests>);

impl UnderWay {
    fn new(requests: &Arc<Requests>) -> Self {
        requests.begun.fetch_add(1, Ordering::Relaxed);
        Self(requests.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // What is to be written of it may still be.
        self.0.mark();
        self.0.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// An answer of HTTP/2, which is under way until all of it has been handed over: it may be a stream that goes on.
struct Answer {
    body: Body,
    seen: Arc<Requests>,
    _call: UnderWay,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let seen = self.seen.clone();
        let piece = Pin::new(&mut self.body).poll_frame(context);
        piece.map_ok(|frame| frame.map_data(|bytes| Bytes::from_owner(Piece::new(bytes, seen))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// A piece of an answer until it has left.
struct Piece {
    bytes: Bytes,
    seen: Arc<Requests>,
}

impl Piece {
    fn new(bytes: Bytes, seen: Arc<Requests>) -> Self {
        seen.mark();
        seen.pieces.fetch_add(1, Ordering::Relaxed);
        Self { bytes, seen }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.seen.pieces.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose waits have an end. All of it happens in the connection's task, so the counts are never behind.
struct Impatient {
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
    /// When something was last written that may be an answer.
    taken: Instant,
    /// Wakes the reader.
    alarm: Pin<Box<Sleep>>,
    /// Ends a write that is stuck.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    fn new(stream: TcpStream, protocol: Protocol, connections: Connections, requests: Arc<Requests>) -> Self {
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
            alarm,
            stuck: None,
        }
    }

    /// Looks whether what is read next is another request's head; whether a request is under way.
    fn is_busy(&mut self) -> bool {
        let begun = self.requests.begun.load(Ordering::Relaxed);
        if begun != self.known {
            self.known = begun;
            self.head_since = None;
        }
        begun != self.requests.answered.load(Ordering::Relaxed)
    }

    /// Wakes the connection's task at this time; ready where it has come.
    fn wake_at(&mut self, context: &mut Context, until: Instant) -> Poll<()> {
        if self.alarm.deadline() != until {
            self.alarm.as_mut().reset(until);
        }
        self.alarm.as_mut().poll(context)
    }

    /// When the reader of an answer will have taken nothing for too long, though all it was let has been written.
    fn waits_until(&self) -> Option<Instant> {
        let is_waiting = self.requests.pieces.load(Ordering::Relaxed) > 0;
        let handed = self.requests.last().filter(|_| is_waiting);
        handed.map(|handed| handed.max(self.taken) + self.connections.write_timeout)
    }

    /// A write has come this far.
    fn written(&mut self, context: &mut Context, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = &result {
            self.stuck = None;
            self.last = Instant::now();
            if written.as_ref().is_ok_and(|written| *written > MAX_REPLY) {
                self.taken = self.last;
            }
            // Behind an answer nobody may read before something comes: hyper waits for that since the request.
            let until = self.waits_until().unwrap_or(self.last + self.connections.idle_timeout);
            let _ = self.wake_at(context, until);
            return result;
        }
        let timeout = self.connections.write_timeout;
        ready!(self.stuck.get_or_insert_with(|| Box::pin(sleep(timeout))).as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nobody takes the answer")))
    }
}

impl AsyncRead for Impatient {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context, buffer: &mut ReadBuf) -> Poll<io::Result<()>> {
        let is_busy = self.is_busy();
        if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            self.last = Instant::now();
            if self.protocol == Protocol::Http2 {
                self.head_since = None;
            } else if !is_busy {
                let last = self.last;
                self.head_since.get_or_insert(last);
            }
            return Poll::Ready(result);
        }
        if let Some(until) = self.waits_until() {
            ready!(self.wake_at(context, until));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nobody takes the answer")));
        }
        if is_busy || self.stuck.is_some() {
            return Poll::Pending;
        }
        let until = match self.head_since {
            Some(since) => since + self.connections.header_timeout,
            None => self.requests.last().map_or(self.last, |last| last.max(self.last)) + self.connections.idle_timeout,
        };
        ready!(self.wake_at(context, until));
        match self.head_since {
            Some(_) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head did not end"))),
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

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
