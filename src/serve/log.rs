//! One line a request, for whoever collects logs: what was asked, what came of it, and where its time went.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::HttpBody;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use super::metrics::{Stage, Timing};
use super::refused::Refused;
use super::service::Answer;

/// The header that names a request; one that comes without is given a name.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest name that is taken over.
const MAX_ID_LEN: usize = 128;

/// What an answer tells the log, beside its status.
#[derive(Debug, Clone)]
pub(super) enum Told {
    /// What was encoded.
    Encoded { images: usize, tiles: i64, batch_requests: usize, content_hash: String, timing: Timing },
    /// Why nothing was; the status is HTTP's, whichever protocol it is.
    Refused { reason: String, status: u16 },
}

impl Told {
    pub(super) fn of(answer: &Answer) -> Self {
        Self::Encoded {
            images: answer.num_tiles.len(),
            tiles: answer.num_tiles.iter().sum(),
            batch_requests: answer.reply.batch_requests,
            content_hash: answer.content_hash().to_string(),
            timing: answer.timing,
        }
    }

    pub(super) fn refused(refused: &Refused) -> Self {
        Self::Refused { reason: refused.message(), status: refused.status().as_u16() }
    }
}

/// Logs a request when its answer begins to leave. What only looks (health, metrics, metadata) is logged for debugging.
pub(super) async fn requests(request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let given = request.headers().get(&REQUEST_ID).filter(|id| id.len() <= MAX_ID_LEN && id.to_str().is_ok());
    let id = given.cloned().unwrap_or_else(new_id);
    let (method, path) = (request.method().clone(), request.uri().path().to_string());
    let mut response = next.run(request).await;
    let status = response.status().as_u16();
    let milliseconds = begin.elapsed().as_secs_f64() * 1e3;
    let bytes = response.body().size_hint().exact();
    let name = id.to_str().unwrap_or_default();
    match response.extensions_mut().remove::<Told>() {
        Some(Told::Encoded { images, tiles, batch_requests, content_hash, timing }) => {
            let stage = |stage| timing.milliseconds(stage);
            tracing::info!(
                id = name,
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
                images,
                tiles,
                batch_requests,
                bytes,
                content_hash,
                "encoded"
            );
        }
        Some(Told::Refused { reason, status }) if status >= 500 => {
            tracing::error!(id = name, %method, path, status, milliseconds, reason, "failed");
        }
        Some(Told::Refused { reason, status }) => {
            tracing::info!(id = name, %method, path, status, milliseconds, reason, "refused");
        }
        None => tracing::debug!(id = name, %method, path, status, milliseconds, bytes, "answered"),
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// A name that no other request of this process has, and hardly one of another.
fn new_id() -> HeaderValue {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    let id = format!("{time:x}-{count:x}");
    HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("-"))
}
