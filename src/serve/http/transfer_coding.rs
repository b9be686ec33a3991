//! Transfer codings of requests: there is chunked, and no other.
//!
//! Reference: <https://www.rfc-editor.org/rfc/rfc9112#section-6.1>, which has 501 for codings that a server does not know.
//! Where the last of them is not chunked, so that nobody knows where the body ends, hyper has refused the request (400).

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::body::drain;
use crate::serve::core::error::ApiError;
use crate::serve::core::outcome::RequestOutcome;

const UNKNOWN: StatusCode = StatusCode::NOT_IMPLEMENTED;

/// Refuses requests whose body is coded otherwise.
pub(super) async fn require_known(request: Request, next: Next) -> Response {
    match unknown(request.headers()) {
        None => next.run(request).await,
        Some(coding) => {
            drain(request.into_body());
            let error = ApiError::Unimplemented { what: format!("transfer coding {coding}") };
            let outcome = RequestOutcome::Failed { reason: error.message(), status: UNKNOWN.as_u16() };
            let mut response = error.into_response();
            *response.status_mut() = UNKNOWN;
            response.extensions_mut().insert(outcome);
            response
        }
    }
}

/// The codings, where they are anything but chunked alone.
fn unknown(headers: &HeaderMap) -> Option<String> {
    let lines: Vec<_> = headers.get_all(header::TRANSFER_ENCODING).iter().collect();
    match &lines[..] {
        [] => None,
        [line] if line.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => None,
        lines => Some(lines.iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect::<Vec<_>>().join(", ")),
    }
}
