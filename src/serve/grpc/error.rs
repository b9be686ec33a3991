//! Errors as gRPC statuses.

use axum::http::StatusCode;
use axum::response::Response;
use tonic::{Code, Status};

use crate::serve::core::error::ApiError;
use crate::serve::core::outcome::RequestOutcome;

impl From<&ApiError> for Status {
    /// The status. Where a retry can help it says when, in milliseconds, as gRPC's own clients read it.
    fn from(error: &ApiError) -> Self {
        let mut status = Self::new(code(error), error.message());
        if let Some(seconds) = error.retry_after() {
            status.metadata_mut().insert("grpc-retry-pushback-ms", (1000 * seconds).into());
        }
        if let ApiError::NotModified { etag } = error
            && let Ok(etag) = etag.parse()
        {
            status.metadata_mut().insert("etag", etag);
        }
        status
    }
}

fn code(error: &ApiError) -> Code {
    match error.status() {
        _ if matches!(error, ApiError::Unimplemented { .. }) => Code::Unimplemented,
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY => Code::InvalidArgument,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::CONFLICT => Code::AlreadyExists,
        StatusCode::PRECONDITION_FAILED => Code::FailedPrecondition,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::INSUFFICIENT_STORAGE => Code::ResourceExhausted,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        _ => Code::Internal,
    }
}

/// The response that has no message, but this status.
pub(super) fn response(error: &ApiError) -> Response {
    let mut response: Response = Status::from(error).into_http();
    response.extensions_mut().insert(RequestOutcome::from(error));
    response
}
