//! Connections: how many there are at once, and how long one may keep the server waiting.
//!
//! A head that does not end, a connection that asks for nothing, and an answer that nobody takes, or not fast enough, each
//! have a time, after which the connection is closed and what its request holds is given back. Bodies have the request's
//! deadline.

mod protocol;
mod requests;
mod timeouts;

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;

use super::options::Connections;
pub(super) use protocol::Protocol;
use requests::{Answer, Requests, UnderWay};
use timeouts::Impatient;

/// How long nothing is accepted after the system had no room for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Calls of a connection of HTTP/2 at once; a client with more of them waits.
const MAX_CALLS: u32 = 256;

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
    let io = TokioIo::new(Impatient::new(stream, protocol, connections, requests.clone()));
    let router = TowerToHyperService::new(router);
    // A request is under way until its answer begins, over HTTP/2 until all of it has been handed over: it may be a stream
    // that goes on.
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (call, seen) = (UnderWay::new(&requests), requests.clone());
        let answer = router.call(request);
        async move {
            let answer = answer.await?;
            let call = Some(call).filter(|_| protocol == Protocol::Http2);
            Ok::<_, Infallible>(answer.map(|body| Answer::new(body, seen, call)))
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
