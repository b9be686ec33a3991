//! `tilesight serve`: the encoder as a service over HTTP and gRPC.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::TypedValueParser;
use clap::{Args, value_parser};

use super::allocator::keep_reserve;
use super::log::{Log, LogForm, LogLevel};
use super::model::EncoderOptions;
use crate::error::{Error, Result};
use crate::serve::{Addresses, Connections, Options, ServeError, serve};

/// How long a process whose encoder is lost may take to end by itself: a driver that hangs could hold it for ever.
const END: Duration = Duration::from_secs(5);

/// Serve embeddings over HTTP and gRPC
#[derive(Args)]
#[command(after_help = "Examples:
  tilesight serve --model Llama-3.2-11B-Vision
  curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/encode --output embeddings.safetensors")]
pub(super) struct Arguments {
    #[command(flatten)]
    encoder: EncoderOptions,
    /// The address to listen on for HTTP; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// The address to listen on for gRPC: the Open Inference Protocol, as Triton's clients speak it
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8001")]
    grpc_listen: SocketAddr,
    /// Serve HTTP alone
    #[arg(long, conflicts_with = "grpc_listen")]
    no_grpc: bool,
    /// The address to listen on for /health/live, /health/ready and /metrics alone, over HTTP: probes are answered there
    /// whatever connections there are elsewhere
    #[arg(long, value_name = "ADDRESS")]
    health_listen: Option<SocketAddr>,
    /// A name besides localhost and loopback addresses that clients may call the server by, in the header Host; may be
    /// given several times. A server on a loopback address answers to no other; elsewhere any will do where none is named
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// An origin, as https://example.org, whose pages may use the server from a browser; may be given several times.
    /// Pages of all others get 403
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    allow_origin: Vec<String>,
    /// Connections of each protocol at once, as far as descriptors allow; beyond them the one that has been without a
    /// request for the longest gives way, and where all have requests, more wait
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_connections: usize,
    /// How long a request's head may take, from its first byte or from the connection's beginning
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = seconds())]
    header_timeout: u64,
    /// How long the sender of a body may send nothing of it before it is refused
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = seconds())]
    body_timeout: u64,
    /// How many bytes a second the sender of a body sends at least, beyond the first --body-timeout
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 10)]
    min_write_rate: u64,
    /// How long a connection, or a stream of gRPC, may stay between an answer and the next request
    #[arg(long, value_name = "SECONDS", default_value_t = 75, value_parser = seconds())]
    idle_timeout: u64,
    /// How long the reader of an answer may take nothing of it before it is dropped
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = seconds())]
    write_timeout: u64,
    /// How many bytes a second the reader of an answer takes at least, over each --write-timeout, before it is dropped
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 10)]
    min_read_rate: u64,
    /// Requests that are there at once, from the last byte of the body to the last of the answer; more get 429. A connection
    /// of gRPC has a quarter of them, at most 256
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_requests: usize,
    /// Bytes that their bodies, pixels and embeddings may take together; more get 429
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 30)]
    max_bytes: u64,
    /// The largest body, or message of gRPC
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    max_body_bytes: usize,
    /// The most pixels of a picture; decoding takes up to 16 bytes a pixel
    #[arg(long, value_name = "N", default_value_t = 50_000_000)]
    max_pixels: usize,
    /// Pictures decoded and cut at once [default: one for each core]
    #[arg(long, value_name = "N")]
    image_threads: Option<NonZeroUsize>,
    /// Regions of system shared memory that clients may register, to hand over tensors there, and get them (Triton's
    /// extension); 0 leaves it out. Whoever can ask the server has it open, read and write any shared memory object that
    /// its user may
    #[arg(long, value_name = "N", default_value_t = 0)]
    shared_memory_regions: usize,
    /// Bytes of embeddings that are kept by their content hash, those used last: what is asked for again is not encoded
    /// again; 0 keeps none. They come on top of --max-bytes
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    answer_cache: u64,
    /// A collector of OpenTelemetry that takes OTLP over gRPC, as http://127.0.0.1:4317: each request to encode is sent there
    /// as spans [default: OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT, where one is set]
    #[cfg(feature = "otel")]
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// How long a batch that is not full waits for more
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0, value_parser = value_parser!(u64).range(..=1000 * MAX_SECONDS))]
    max_delay: u64,
    /// How long a request may take; the headers tilesight-timeout-ms and grpc-timeout ask for less
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = seconds())]
    timeout: u64,
    /// How long a batch may compute before the encoder counts as lost
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = seconds())]
    batch_timeout: u64,
    /// How the log is written, to standard error
    #[arg(long, value_name = "FORM", default_value = "text")]
    log: LogForm,
    /// The least that is logged; `info` is a line for each request to encode, `debug` one for every other as well
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LogLevel,
    /// How long requests that are there are worked on after SIGTERM; a second signal ends at once
    #[arg(long, value_name = "SECONDS", default_value_t = 25, value_parser = seconds())]
    drain_timeout: u64,
}

/// The longest time that an option takes, a year: the clock of a process can be added to no further than it counts.
const MAX_SECONDS: u64 = 366 * 24 * 3600;

/// A time of an option.
fn seconds() -> impl TypedValueParser<Value = u64> {
    value_parser!(u64).range(..=MAX_SECONDS)
}

/// An origin, as browsers write it.
fn origin(text: &str) -> std::result::Result<String, &'static str> {
    let expected = "an origin is a scheme and a host, and a port if need be, as https://example.org";
    let (scheme, authority) = text.split_once("://").ok_or(expected)?;
    let is_whole = !scheme.is_empty() && !authority.is_empty() && !authority.contains(['/', '?', '#', '@']);
    if is_whole { Ok(text.to_ascii_lowercase()) } else { Err(expected) }
}

/// The collector's address, by the flag or by OpenTelemetry's variables.
#[cfg(feature = "otel")]
fn otlp_endpoint(arguments: &Arguments) -> Option<String> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return None;
    }
    let standard =
        || variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"));
    arguments.otlp_endpoint.clone().or_else(standard)
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let log = Log::start(arguments.log, arguments.log_level);
    keep_reserve().map_err(|error| Error::Threads { threads: 1, reason: error.to_string() })?;
    let encoder = arguments.encoder.build_telling(&|line| log.note(line))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options {
        listen: arguments.listen,
        grpc_listen: (!arguments.no_grpc).then_some(arguments.grpc_listen),
        health_listen: arguments.health_listen,
        allow_hosts: arguments.allow_host.clone(),
        allow_origins: arguments.allow_origin.clone(),
        connections: Connections {
            max: arguments.max_connections,
            header_timeout: Duration::from_secs(arguments.header_timeout),
            body_timeout: Duration::from_secs(arguments.body_timeout),
            min_write_rate: arguments.min_write_rate,
            idle_timeout: Duration::from_secs(arguments.idle_timeout),
            write_timeout: Duration::from_secs(arguments.write_timeout),
            min_read_rate: arguments.min_read_rate,
        },
        lost_log_lines: log.lost_lines(),
        max_requests: arguments.max_requests,
        max_bytes: arguments.max_bytes,
        max_body_bytes: arguments.max_body_bytes,
        max_pixels: arguments.max_pixels,
        image_threads: arguments.image_threads.map_or(cores, usize::from),
        shared_memory_regions: arguments.shared_memory_regions,
        answer_cache: arguments.answer_cache,
        #[cfg(feature = "otel")]
        otlp_endpoint: otlp_endpoint(arguments),
        max_delay: Duration::from_millis(arguments.max_delay),
        timeout: Duration::from_secs(arguments.timeout),
        batch_timeout: Duration::from_secs(arguments.batch_timeout),
        drain_timeout: Duration::from_secs(arguments.drain_timeout),
    };
    let started = |Addresses { http, grpc, health }: Addresses| match log.form() {
        LogForm::Text => {
            if let Some(health) = health {
                log.note(format_args!("health and metrics on http://{health}"));
            }
            if let Some(grpc) = grpc {
                log.note(format_args!("listening on grpc://{grpc}"));
            }
            log.note(format_args!("listening on http://{http}"));
        }
        LogForm::Json => {
            let [grpc, health] = [grpc, health].map(|address| address.map(tracing::field::display));
            tracing::info!(%http, grpc, health, "listening");
        }
    };
    let Err(error) = serve(encoder, &options, started) else {
        return Ok(ExitCode::SUCCESS);
    };
    match log.form() {
        LogForm::Text => log.note(format_args!("error: {error}")),
        LogForm::Json => tracing::error!(reason = %error, "ended"),
    }
    if let ServeError::Lost { .. } = error {
        std::thread::spawn(|| {
            std::thread::sleep(END);
            std::process::abort();
        });
    }
    Ok(ExitCode::from(1))
}
