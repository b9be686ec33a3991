//! Connections: how many there are at once, and how long one may keep the server waiting.
//!
//! A head that does not end, a connection that asks for nothing, and an answer that nobody takes, or not fast enough, each
//! have a time, after which the connection is closed and what its request holds is given back. Bodies have times of their
//! own (`core/body.rs`). A connection without a request gives way where there are too many; one of HTTP/2 that ends is told
//! by GOAWAY.

mod descriptors;
mod pings;
mod presence;
mod prior_knowledge;
mod protocol;
mod requests;
mod slots;
mod timeouts;

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::options::Connections;
pub(super) use descriptors::raise_limit;
pub(super) use protocol::Protocol;
use requests::{Answer, Ending, UnderWay};
use slots::{Slot, Slots};
use timeouts::Impatient;

/// How long nothing is accepted after the system had no room for a connection: until one has given way, and where none can.
const GIVING_WAY: Duration = Duration::from_millis(1);
const PAUSE: Duration = Duration::from_millis(100);

/// How long a client of HTTP/2 may take to hear that its connection ends.
const GOODBYE: Duration = Duration::from_millis(200);

/// Accepts connections until `close` changes or is dropped; then lets those that are there finish their answers.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    protocol: Protocol,
    connections: Connections,
    mut close: watch::Receiver<()>,
) {
    let slots = Slots::new(connections.max);
    let (closing, _) = watch::channel(false);
    loop {
        let accepted = async {
            match listener.accept().await {
                Ok((stream, _)) => Ok((stream, slots.take().await)),
                Err(error) => Err(error),
            }
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            _ = close.changed() => break,
        };
        match accepted {
            Ok((stream, slot)) => {
                let closing = closing.subscribe();
                tokio::spawn(connection(stream, slot, router.clone(), protocol, connections, closing));
            }
            Err(error) if is_its_own(&error) => {}
            // Files or memory lack: there will be some when a connection ends.
            Err(_) => sleep(if slots.close_idlest() { GIVING_WAY } else { PAUSE }).await,
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
    slot: Slot,
    router: Router,
    protocol: Protocol,
    connections: Connections,
    closing: watch::Receiver<bool>,
) {
    // Without it, answers wait for the client's delayed acknowledgements.
    drop(stream.set_nodelay(true));
    let requests = slot.requests.clone();
    let io = TokioIo::new(Impatient::new(stream, protocol, connections, requests.clone()));
    let router = TowerToHyperService::new(router);
    // A request is under way until its answer begins, over HTTP/2 until all of it has been handed over: it may be a stream
    // that goes on.
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (call, seen) = (UnderWay::new(&requests, request.version()), requests.clone());
        let answer = router.call(request);
        async move {
            let answer = answer.await?;
            let call = Some(call).filter(|_| protocol.is_http2());
            Ok::<_, Infallible>(answer.map(|body| Answer::new(body, seen, call)))
        }
    });
    // What goes wrong is the client's: it has left, or was sent away.
    match protocol {
        Protocol::Http1 => {
            let mut builder = http1::Builder::new();
            // The times are `Impatient`'s: hyper's own for a head would count the time before it, too. Whether a client that
            // has closed its sending half is still there is `Presence`'s.
            builder.header_read_timeout(None).half_close(true);
            let mut connection = builder.serve_connection(io, service);
            let result =
                until_closed(&mut connection, |connection| connection.graceful_shutdown(), &slot, closing).await;
            if matches!(result, Some(Err(error)) if error.is_parse_version_h2()) {
                let stream = connection.into_parts().io.into_inner().into_stream();
                tokio::select! {
                    () = prior_knowledge::refuse(stream) => {}
                    _ = slot.requests.ended() => {}
                }
            }
        }
        Protocol::Http2 { max_concurrent_streams } => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.max_concurrent_streams(max_concurrent_streams);
            let mut connection = builder.serve_connection(io, service);
            until_closed(&mut connection, |connection| connection.graceful_shutdown(), &slot, closing).await;
        }
    }
}

/// Runs a connection to its end, and has it end with what it is at once `closing` comes, or at once where it is to end by
/// itself. What it ended with, where it did.
async fn until_closed<C: Future + Unpin>(
    connection: &mut C,
    shut_down: impl FnOnce(Pin<&mut C>),
    slot: &Slot,
    mut closing: watch::Receiver<bool>,
) -> Option<C::Output> {
    // What has come is read before the connection gives way.
    let ending = tokio::select! {
        biased;
        output = &mut *connection => return Some(output),
        _ = closing.wait_for(|closing| *closing) => None,
        ending = slot.requests.ended() => Some(ending),
    };
    shut_down(Pin::new(&mut *connection));
    match ending {
        None => tokio::select! {
            output = connection => Some(output),
            _ = slot.requests.ended() => None,
        },
        // A slot is not waited for longer than its connection takes to write what it has to say.
        Some(Ending::GivesWay) => timeout(Duration::ZERO, connection).await.ok(),
        Some(Ending::Idle | Ending::TooManyPings) => timeout(GOODBYE, connection).await.ok(),
    }
}
