//! Requests to encode as spans of OpenTelemetry, sent to a collector by OTLP over gRPC (feature `otel`).
//!
//! A request is one span, a child of the span that its `traceparent` names; each stage of its way is a child of that, as
//! long as `Server-Timing` says. Stages stand one after another in the order of the way: what is done picture by picture is
//! one span. Spans are made when the answer begins to leave, and handed to a thread of their own, which sends them; where
//! it does not keep up, or nobody takes them, they are dropped, and no request waits.

use std::time::{Duration, Instant, SystemTime};

use axum::extract::MatchedPath;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use super::access_log::cut;
use super::cache::Lookup;
use super::outcome::RequestOutcome;

/// How long the last spans have to leave when the server ends.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// What a server without a name of its own is called, unless the environment has a name for it.
const SERVICE_NAME: &str = "tilesight";

/// Where spans go.
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// A request from its beginning on.
pub(crate) struct SpanStart {
    /// The caller's span, where it has named one.
    parent: Context,
    time: SystemTime,
    clock: Instant,
    name: String,
    attributes: Vec<KeyValue>,
}

impl Traces {
    /// Sends spans to this address. Nobody need be there. Whatever else the SDK reads from its `OTEL_` variables counts as
    /// well: sampling, headers, the queue, attributes of the process.
    ///
    /// # Errors
    /// [`ExporterBuildError`] where the address is none that can be sent to.
    pub(crate) fn start(endpoint: &str) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build();
        let tracer = provider.tracer("tilesight");
        Ok(Self { provider, tracer })
    }

    /// A request has its answer: its spans, unless its caller's or the server's sampling leaves them out.
    pub(crate) fn answered(&self, start: &SpanStart, id: &str, bytes: Option<u64>, outcome: &RequestOutcome) {
        let builder = self.tracer.span_builder(start.name.clone()).with_kind(SpanKind::Server);
        let builder = builder.with_start_time(start.time).with_attributes(start.attributes.iter().cloned());
        let mut span = self.tracer.build_with_context(builder, &start.parent);
        if span.is_recording() {
            span.set_attribute(KeyValue::new("tilesight.request_id", id.to_string()));
            if let Some(bytes) = bytes {
                span.set_attribute(KeyValue::new("http.response.body.size", bytes as i64));
            }
            self.tell(&mut span, start.time, outcome);
        }
        span.end_with_timestamp(start.time + start.clock.elapsed());
    }

    /// What a request's span says of its answer, and the spans of its stages.
    fn tell(&self, span: &mut opentelemetry_sdk::trace::Span, begin: SystemTime, outcome: &RequestOutcome) {
        match outcome {
            RequestOutcome::Encoded { images, tiles, batch_requests, content_hash, times, lookup } => {
                span.set_attributes([
                    KeyValue::new("tilesight.status", 200),
                    KeyValue::new("tilesight.images", *images as i64),
                    KeyValue::new("tilesight.tiles", *tiles),
                    KeyValue::new("tilesight.batch_requests", *batch_requests as i64),
                    KeyValue::new("tilesight.content_hash", content_hash.clone()),
                ]);
                if let Some(lookup) = lookup.map(Lookup::name) {
                    span.set_attribute(KeyValue::new("tilesight.cache", lookup));
                }
                let parent = Context::new().with_remote_span_context(span.span_context().clone());
                let mut begin = begin;
                for (stage, time) in times.iter() {
                    let builder = self.tracer.span_builder(stage.name()).with_kind(SpanKind::Internal);
                    let mut stage = self.tracer.build_with_context(builder.with_start_time(begin), &parent);
                    begin += time;
                    stage.end_with_timestamp(begin);
                }
            }
            RequestOutcome::Failed { reason, status } => {
                span.set_attribute(KeyValue::new("tilesight.status", i64::from(*status)));
                span.set_attribute(KeyValue::new("tilesight.reason", reason.clone()));
                // A client's mistake is no error of the server's.
                if *status >= 500 {
                    span.set_attribute(KeyValue::new("error.type", status.to_string()));
                    span.set_status(Status::error(reason.clone()));
                }
            }
        }
    }

    /// Sends what there is left, for a while. Blocks.
    pub(crate) fn end(&self) {
        // What goes wrong is in the log already.
        drop(self.provider.shutdown_with_timeout(LAST_SPANS));
    }
}

/// What is said of this process: what the environment says, and our name where it has none.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = || Resource::builder().with_attribute(version.clone());
    let name = resource().build().get(&"service.name".into());
    if name.is_some_and(|name| !name.as_str().starts_with("unknown_service")) {
        return resource().build();
    }
    resource().with_service_name(SERVICE_NAME).build()
}

impl SpanStart {
    /// A request's beginning, which is now.
    pub(crate) fn new(head: &Parts) -> Self {
        let (time, clock) = (SystemTime::now(), Instant::now());
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(&head.headers));
        let (method, path) = (cut(head.method.as_str()), cut(head.uri.path()));
        let content_type = head.headers.get(header::CONTENT_TYPE);
        let is_grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        // Names and attributes are OpenTelemetry's conventions for each protocol.
        if let Some((service, method)) = path.trim_start_matches('/').split_once('/').filter(|_| is_grpc) {
            let attributes = vec![
                KeyValue::new("rpc.system", "grpc"),
                KeyValue::new("rpc.service", service.to_string()),
                KeyValue::new("rpc.method", method.to_string()),
            ];
            return Self { parent, time, clock, name: format!("{service}/{method}"), attributes };
        }
        let mut attributes =
            vec![KeyValue::new("http.request.method", method.clone()), KeyValue::new("url.path", path)];
        let mut name = method;
        if let Some(route) = head.extensions.get::<MatchedPath>() {
            name = format!("{name} {}", route.as_str());
            attributes.push(KeyValue::new("http.route", route.as_str().to_string()));
        }
        Self { parent, time, clock, name, attributes }
    }
}

/// Headers, as the context of a caller is read from them.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}
