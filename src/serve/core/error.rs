//! Every refusal with its status, in one place.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tonic::{Code, Status};

use super::log::Told;
use super::shared_memory::RegionError;
use crate::batch::{Failure, Phase, Refusal};
use crate::error::{CudaError, Error, ImageError, InputError};

/// The driver's status of a call that lacked memory for itself.
const CUDA_ERROR_OUT_OF_MEMORY: u32 = 2;

/// Characters of a message at most: gRPC's travels in a header.
const MAX_MESSAGE: usize = 1000;

/// Why a request has no answer but this.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error(transparent)]
    Queue(#[from] Refusal),
    #[error(transparent)]
    Batch(#[from] Failure),
    #[error(transparent)]
    Encoder(#[from] Error),
    #[error(transparent)]
    Region(#[from] RegionError),
    #[error("the body is beyond the limit of {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("the body did not arrive in time")]
    BodyTooSlow,
    #[error("the body ended early: {reason}")]
    BodyBroken { reason: String },
    #[error("{reason}")]
    Malformed { reason: String },
    #[error("{what} is not here")]
    NotHere { what: String },
    #[error("{what} is not implemented")]
    Unimplemented { what: String },
    #[error("the embeddings are those of {etag}")]
    Unchanged { etag: String },
    #[error("the request was dropped: {reason}")]
    Dropped { reason: &'static str },
}

impl Refused {
    /// A request that breaks a rule of the protocol.
    pub(super) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed { reason: reason.into() }
    }

    /// What went wrong, as HTTP has it.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Queue(Refusal::Full { .. }) => StatusCode::TOO_MANY_REQUESTS,
            Self::Queue(Refusal::TooLarge { .. })
            | Self::BodyTooLarge { .. }
            | Self::Encoder(Error::Image(ImageError::TooLarge { .. })) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Queue(Refusal::Closed { .. }) | Self::Batch(Failure::Lost { .. }) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Batch(Failure::Expired) => StatusCode::GATEWAY_TIMEOUT,
            Self::Batch(Failure::Failed(error)) | Self::Encoder(error) => match error {
                Error::Image(ImageError::UnknownFormat { .. } | ImageError::Unsupported { .. }) => {
                    StatusCode::UNSUPPORTED_MEDIA_TYPE
                }
                Error::Input(InputError::OutOfMemory { .. })
                | Error::Cuda(
                    CudaError::OutOfMemory { .. }
                    | CudaError::OutOfPinnedMemory { .. }
                    | CudaError::Driver { code: CUDA_ERROR_OUT_OF_MEMORY, .. },
                ) => StatusCode::INSUFFICIENT_STORAGE,
                Error::Image(_) | Error::Input(_) => StatusCode::BAD_REQUEST,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Region(error) => error.status(),
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BodyBroken { .. } | Self::Malformed { .. } | Self::Unimplemented { .. } => StatusCode::BAD_REQUEST,
            Self::NotHere { .. } => StatusCode::NOT_FOUND,
            // 304 is for GET and HEAD alone.
            Self::Unchanged { .. } => StatusCode::PRECONDITION_FAILED,
            Self::Dropped { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The same, as gRPC has it. A retry is worth its while where gRPC's own clients are told so, in milliseconds.
    pub(super) fn grpc_status(&self) -> Status {
        let code = match self.status() {
            _ if matches!(self, Self::Unimplemented { .. }) => Code::Unimplemented,
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                Code::InvalidArgument
            }
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::CONFLICT => Code::AlreadyExists,
            StatusCode::PRECONDITION_FAILED => Code::FailedPrecondition,
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::INSUFFICIENT_STORAGE => Code::ResourceExhausted,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            _ => Code::Internal,
        };
        let mut status = Status::new(code, self.message());
        if let Some(seconds) = self.retry_after() {
            status.metadata_mut().insert("grpc-retry-pushback-ms", (1000 * seconds).into());
        }
        if let Self::Unchanged { etag } = self
            && let Ok(etag) = etag.parse()
        {
            status.metadata_mut().insert("etag", etag);
        }
        status
    }

    /// What is told, which is short whatever a client calls its tensors.
    pub(super) fn message(&self) -> String {
        let message = self.to_string();
        match message.char_indices().nth(MAX_MESSAGE) {
            Some((end, _)) => format!("{}…", &message[..end]),
            None => message,
        }
    }

    /// Seconds after which to try again, where that helps.
    fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Queue(Refusal::Full { .. } | Refusal::Closed { phase: Phase::Starting }) => Some(1),
            _ => None,
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.message() }).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status();
        response.extensions_mut().insert(Told::refused(&self));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Self::Unchanged { etag } = &self
            && let Ok(etag) = etag.try_into()
        {
            headers.insert(header::ETAG, etag);
        }
        response
    }
}

/// The answer where no route leads.
pub(super) async fn no_such_path(uri: Uri) -> Refused {
    Refused::NotHere { what: uri.path().to_string() }
}
