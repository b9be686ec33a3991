//! The server: `POST /v1/encode`, the Open Inference Protocol over HTTP and gRPC, health and metrics, around one
//! [`Batcher`].
//!
//! `http/` and `grpc/` are two transports over `core/`, which knows neither of them. `connection/` carries both.
//!
//! ```text
//! request ── admitted ── body read ── header read ── decoded, cut ── queued ── encoded ── answered
//!            429, 503    408, 413     413, 415       4xx             504       5xx
//! ```

mod connection;
mod core;
#[doc(hidden)]
pub mod fuzzing;
mod grpc;
mod http;
mod options;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::batch::{Batcher, Inputs, Limits, Occupancy};
use crate::encoder::Encoder;
use crate::error::Error;
use crate::plan::Semantics;
use connection::Protocol;
use core::metrics::Metrics;
use core::model::Model;
use core::service::Service;
#[cfg(feature = "otel")]
use core::traces::Traces;
pub use options::{Connections, LostLogLines, Options};

/// Where a server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// For HTTP.
    pub http: SocketAddr,
    /// For gRPC, where it is served.
    pub grpc: Option<SocketAddr>,
    /// For health and metrics alone, where they have an address of their own.
    pub health: Option<SocketAddr>,
}

/// Why a server ended, or did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The runtime or the signals cannot be had.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    /// Spans cannot be sent to the collector's address, whoever is there.
    #[cfg(feature = "otel")]
    #[error("cannot send spans: {reason}")]
    Traces {
        /// What is wrong with it.
        reason: String,
    },
    /// The encoder's thread cannot be started.
    #[error(transparent)]
    Encoder(#[from] Error),
    /// The encoder is lost to this process, which should be started again.
    #[error("the encoder has stopped: {reason}")]
    Lost {
        /// The first failure.
        reason: String,
    },
    /// A second signal ended it before it was done.
    #[error("ended by a second signal, before all requests were answered")]
    Interrupted,
}

/// How often the encoder is looked at.
const WATCH: Duration = Duration::from_millis(50);

/// How long the last answers have to leave.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Serves until a signal (SIGTERM or SIGINT) ends it or the encoder is lost. `started` is told where it listens.
///
/// # Errors
/// [`ServeError`].
pub fn serve(encoder: Encoder, options: &Options, started: impl FnOnce(Addresses)) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(run(encoder, options, started));
    // A batch that hangs is not waited for.
    runtime.shutdown_background();
    result
}

async fn run(encoder: Encoder, options: &Options, started: impl FnOnce(Addresses)) -> Result<(), ServeError> {
    let mut signals =
        Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    let http_listener = listen(options.listen).await?;
    let grpc_listener = listen_if(options.grpc_listen).await?;
    let health_listener = listen_if(options.health_listen).await?;
    let service = Arc::new(service(encoder, options)?);
    let limits = limit_by_descriptors(options.connections, 1 + usize::from(grpc_listener.is_some()));
    let (close, closed) = watch::channel(());
    let serve = |listener: TcpListener, router: Router, protocol: Protocol, limits: Connections| {
        tokio::spawn(connection::serve(listener, router, protocol, limits, closed.clone()))
    };
    let address = |listener: &Option<TcpListener>| listener.as_ref().map(TcpListener::local_addr).transpose();
    let addresses = Addresses {
        http: http_listener.local_addr()?,
        grpc: address(&grpc_listener)?,
        health: address(&health_listener)?,
    };
    let http2 = Protocol::Http2 { max_concurrent_streams: options.max_concurrent_streams() };
    let http = serve(http_listener, http::router(service.clone()), Protocol::Http1, limits);
    let grpc = grpc_listener.map(|listener| serve(listener, grpc::router(service.clone()), http2, limits));
    if let Some(listener) = health_listener {
        // Probes are asked until the end; nobody waits for theirs.
        serve(listener, http::health_router(service.clone()), Protocol::Http1, options.connections.of_probes());
    }
    started(addresses);
    let result = until_the_end(&service, options, &mut signals).await;
    if !matches!(result, Err(ServeError::Interrupted)) {
        drop(close);
        let all_closed = async {
            drop(http.await);
            if let Some(grpc) = grpc {
                drop(grpc.await);
            }
        };
        drop(tokio::time::timeout(LAST_ANSWERS, all_closed).await);
        #[cfg(feature = "otel")]
        drop(tokio::task::spawn_blocking(move || service.traces.as_ref().map(Traces::end)).await);
    }
    result
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })
}

async fn listen_if(address: Option<SocketAddr>) -> Result<Option<TcpListener>, ServeError> {
    match address {
        Some(address) => listen(address).await.map(Some),
        None => Ok(None),
    }
}

/// What each of so many listeners' connections may take, with the descriptors that the process can have.
fn limit_by_descriptors(connections: Connections, listeners: usize) -> Connections {
    let max = connection::raise_limit(listeners);
    if max < connections.max {
        tracing::warn!(connections = max, asked = connections.max, "the limit of descriptors allows fewer connections");
    }
    Connections { max: connections.max.min(max), ..connections }
}

/// Returns when there is nothing left to compute.
async fn until_the_end(service: &Service, options: &Options, signals: &mut Signals) -> Result<(), ServeError> {
    let end_lost = |reason: String| {
        tracing::error!(reason, "the encoder is lost");
        service.stop(&reason);
        Err(ServeError::Lost { reason })
    };
    tokio::select! {
        () = signals.next() => {}
        reason = lost(service, options.batch_timeout) => return end_lost(reason),
    }
    tracing::info!(requests = service.batcher.occupancy().admitted, "draining");
    service.batcher.drain();
    tokio::select! {
        () = signals.next() => Err(ServeError::Interrupted),
        reason = lost(service, options.batch_timeout) => end_lost(reason),
        () = empty(service) => Ok(()),
        () = tokio::time::sleep(options.drain_timeout) => {
            service.stop("the server is shutting down, and its time to finish is over");
            Ok(())
        }
    }
}

fn service(mut encoder: Encoder, options: &Options) -> Result<Service, ServeError> {
    let limits = Limits {
        max_requests: options.max_requests,
        max_bytes: options.max_bytes,
        preparers: options.image_threads,
        batch_tiles: encoder.max_batch_tiles(),
        max_delay: options.max_delay,
    };
    let config = encoder.config();
    // Meta's semantics have tensors of exactly so many tiles.
    let num_tiles = if encoder.semantics() == Semantics::Meta { config.max_num_tiles } else { 1 };
    let first = Inputs::Pixels {
        values: vec![0.25; num_tiles * config.tile_len()],
        shape: [1, num_tiles, config.in_channels, config.tile_size, config.tile_size],
        aspect_ratio: Some(vec![[1, 1]]),
    };
    let model = Model::new(&mut encoder);
    let metrics = Arc::new(Metrics::default());
    let counted = metrics.clone();
    let batcher = Batcher::observed(encoder, limits, first, move |batch| counted.observe_batch(batch))?;
    #[allow(unused_mut, reason = "traces are a feature")]
    let mut service = Service::new(batcher, model, metrics, options.clone());
    #[cfg(feature = "otel")]
    if let Some(endpoint) = &options.otlp_endpoint {
        let traces = Traces::start(endpoint);
        service.traces = Some(traces.map_err(|error| ServeError::Traces { reason: error.to_string() })?);
    }
    Ok(service)
}

/// Returns when the encoder is lost, which includes a batch that takes too long; says why.
async fn lost(service: &Service, batch_timeout: Duration) -> String {
    loop {
        if let Some(reason) = service.batcher.lost() {
            return reason.to_string();
        }
        if service.batcher.computing_for().is_some_and(|time| time > batch_timeout) {
            let seconds = batch_timeout.as_secs_f64();
            service.batcher.lose(&format!("a batch has taken more than {seconds} s"));
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// Returns when no request is there any more. A body has no longer to come than one that stops halfway.
async fn empty(service: &Service) {
    let begin = Instant::now();
    loop {
        let Occupancy { announced, admitted, .. } = service.batcher.occupancy();
        if admitted == 0 && (announced == 0 || begin.elapsed() > service.options.connections.body_timeout) {
            return;
        }
        tokio::time::sleep(WATCH / 5).await;
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
