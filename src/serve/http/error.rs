//! Errors as HTTP responses.

use axum::body::Body;
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};

use crate::serve::core::error::ApiError;
use crate::serve::core::outcome::RequestOutcome;

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.message() }).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status();
        response.extensions_mut().insert(RequestOutcome::from(&self));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Self::NotModified { etag } = &self
            && let Ok(etag) = etag.try_into()
        {
            headers.insert(header::ETAG, etag);
        }
        response
    }
}

/// The response where no route leads.
pub(super) async fn not_found(uri: Uri) -> ApiError {
    ApiError::NotFound { what: uri.path().to_string() }
}
