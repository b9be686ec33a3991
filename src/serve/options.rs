//! The limits and times of a server.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What a server takes and how long it waits.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address to listen on for HTTP; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The address to listen on for gRPC, where it is served.
    pub grpc_listen: Option<SocketAddr>,
    /// The address to listen on for health and metrics alone, over HTTP, if they have one of their own.
    pub health_listen: Option<SocketAddr>,
    /// Names besides `localhost` and loopback addresses that clients may call the server by. On an address that is no
    /// loopback any name will do where this is empty.
    pub allow_hosts: Vec<String>,
    /// Origins whose pages may use the server from a browser, as `https://example.org`.
    pub allow_origins: Vec<String>,
    /// What connections may take.
    pub connections: Connections,
    /// Lines of the log that were lost, for the metrics.
    pub lost_log_lines: LostLogLines,
    /// Requests between the last byte of their body and the last byte of their answer. A connection of HTTP/2 has a quarter
    /// of them, at most 256.
    pub max_requests: usize,
    /// Bytes that all of them hold together: bodies, pixels and embeddings.
    pub max_bytes: u64,
    /// The largest body.
    pub max_body_bytes: usize,
    /// The most pixels of a picture. Decoding takes up to 16 bytes a pixel on each of `image_threads` threads.
    pub max_pixels: usize,
    /// Pictures that are decoded and cut at once.
    pub image_threads: usize,
    /// Regions of system shared memory that clients may register; with none, Triton's extension for them is off.
    pub shared_memory_regions: usize,
    /// Bytes of embeddings that are kept by their content hash, beside `max_bytes`; with none, all are encoded.
    pub answer_cache: u64,
    /// Where spans of OpenTelemetry are sent, if anywhere: a collector's address, as `http://127.0.0.1:4317`.
    #[cfg(feature = "otel")]
    pub otlp_endpoint: Option<String>,
    /// How long a batch that is not full waits for more.
    pub max_delay: Duration,
    /// How long a request may take in all; a client may ask for less.
    pub timeout: Duration,
    /// How long a batch may compute before the encoder counts as lost.
    pub batch_timeout: Duration,
    /// How long requests that are there are worked on after the first signal to end.
    pub drain_timeout: Duration,
}

impl Options {
    /// Requests that a connection of HTTP/2 has at once: a share of all, so that no client has them all.
    pub(super) fn max_concurrent_streams(&self) -> u32 {
        (self.max_requests / 4).clamp(1, 256) as u32
    }
}

/// How many lines of the log were lost, where the log can tell.
#[derive(Clone, Default)]
pub struct LostLogLines(Option<Arc<dyn Fn() -> u64 + Send + Sync>>);

impl LostLogLines {
    /// `count` is asked whenever the metrics are read.
    pub fn new(count: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(count)))
    }

    pub(super) fn count(&self) -> Option<u64> {
        self.0.as_ref().map(|count| count())
    }
}

impl fmt::Debug for LostLogLines {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_tuple("LostLogLines").field(&self.count()).finish()
    }
}

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub struct Connections {
    /// How many there are at once, as far as descriptors allow. Beyond them the one that has been without a request for the
    /// longest gives way; where all have requests, more wait.
    pub max: usize,
    /// How long a request's head may take, from its first byte or, the first one's, from the connection's beginning.
    pub header_timeout: Duration,
    /// How long the sender of a body may send nothing of it, or less than `min_write_rate` allows.
    pub body_timeout: Duration,
    /// How many bytes a second the sender of a body sends at least, beyond the first `body_timeout`.
    pub min_write_rate: u64,
    /// How long a connection may stay between an answer and the next request.
    pub idle_timeout: Duration,
    /// How long the reader of an answer may take nothing of it, or less than `min_read_rate` allows.
    pub write_timeout: Duration,
    /// How many bytes a second the reader of an answer takes at least, over each `write_timeout`.
    pub min_read_rate: u64,
}

impl Connections {
    /// What those of the listener for health may take: few, for probes are few and short.
    pub(super) fn of_probes(self) -> Self {
        const SECOND: Duration = Duration::from_secs(1);
        Self {
            max: 16,
            header_timeout: self.header_timeout.min(5 * SECOND),
            idle_timeout: self.idle_timeout.min(30 * SECOND),
            write_timeout: self.write_timeout.min(5 * SECOND),
            ..self
        }
    }
}
