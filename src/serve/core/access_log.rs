//! One line a request, for whoever collects logs: what was asked, what came of it, and where its time went. Spans, where
//! somebody collects those, say the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use super::cache::Lookup;
use super::outcome::RequestOutcome;
use super::service::Service;
#[cfg(feature = "otel")]
use super::traces::SpanStart;
use crate::stages::Stage;

/// The header that names a request; one that comes without is given a name.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest name that is taken over.
const MAX_ID_LEN: usize = 128;

/// Tells of a request when its answer begins to leave. What only looks (health, metrics, metadata) is logged for debugging.
pub(crate) async fn requests(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let record = Record::open(&service, &head);
    let mut response = next.run(Request::from_parts(head, body)).await;
    let outcome = response.extensions_mut().remove::<RequestOutcome>();
    let (status, bytes) = (response.status().as_u16(), response.body().size_hint().exact());
    let id = record.close(&service, status, bytes, outcome.as_ref());
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Characters of a method or a path in logs and spans. Those wait in memory for a reader, so no client may make them long.
const MAX_LEN: usize = 256;

/// The beginning of what a client calls something.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(MAX_LEN).collect()
}

/// A request from its beginning until its answer begins to leave.
pub(crate) struct Record {
    begin: Instant,
    id: HeaderValue,
    method: String,
    path: String,
    #[cfg(feature = "otel")]
    span: Option<SpanStart>,
}

impl Record {
    #[cfg_attr(not(feature = "otel"), allow(unused_variables, reason = "traces are a feature"))]
    pub(crate) fn open(service: &Service, head: &Parts) -> Self {
        let given = head.headers.get(&REQUEST_ID).filter(|id| id.len() <= MAX_ID_LEN && id.to_str().is_ok());
        Self {
            begin: Instant::now(),
            id: given.cloned().unwrap_or_else(new_id),
            method: cut(head.method.as_str()),
            path: cut(head.uri.path()),
            #[cfg(feature = "otel")]
            span: service.traces.as_ref().map(|_| SpanStart::new(head)),
        }
    }

    /// Tells what came of it; its name.
    #[cfg_attr(not(feature = "otel"), allow(unused_variables, reason = "traces are a feature"))]
    pub(crate) fn close(
        self,
        service: &Service,
        status: u16,
        bytes: Option<u64>,
        outcome: Option<&RequestOutcome>,
    ) -> HeaderValue {
        let name = self.id.to_str().unwrap_or_default();
        #[cfg(feature = "otel")]
        if let Some(((traces, span), outcome)) = service.traces.as_ref().zip(self.span.as_ref()).zip(outcome) {
            traces.answered(span, name, bytes, outcome);
        }
        self.log(name, status, bytes, outcome);
        self.id
    }

    /// One line.
    fn log(&self, id: &str, status: u16, bytes: Option<u64>, outcome: Option<&RequestOutcome>) {
        let Self { method, path, .. } = self;
        let milliseconds = self.begin.elapsed().as_secs_f64() * 1e3;
        match outcome {
            Some(RequestOutcome::Encoded { images, tiles, batch_requests, content_hash, times, lookup }) => {
                let stage = |stage| times.get(stage).map(|time| time.as_secs_f64() * 1e3);
                tracing::info!(
                    id,
                    %method,
                    path,
                    status,
                    milliseconds,
                    receive_ms = stage(Stage::Receive),
                    decode_ms = stage(Stage::Decode),
                    preprocess_ms = stage(Stage::Preprocess),
                    queue_ms = stage(Stage::Queue),
                    compute_ms = stage(Stage::Compute),
                    h2d_ms = stage(Stage::H2d),
                    gpu_ms = stage(Stage::Gpu),
                    d2h_ms = stage(Stage::D2h),
                    cache_ms = stage(Stage::Cache),
                    serialise_ms = stage(Stage::Serialise),
                    cache = lookup.map(Lookup::name),
                    images,
                    tiles,
                    batch_requests,
                    bytes,
                    content_hash,
                    "encoded"
                );
            }
            Some(RequestOutcome::Failed { reason, status }) if *status >= 500 => {
                tracing::error!(id, %method, path, status, milliseconds, reason, "failed");
            }
            Some(RequestOutcome::Failed { reason, status }) => {
                tracing::info!(id, %method, path, status, milliseconds, reason, "refused");
            }
            None => tracing::debug!(id, %method, path, status, milliseconds, bytes, "answered"),
        }
    }
}

/// A name that no other request of this process has, and hardly one of another.
fn new_id() -> HeaderValue {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    let id = format!("{time:x}-{count:x}");
    HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("-"))
}
