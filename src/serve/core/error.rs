//! Why a request has no embeddings, and the status of each reason.

use axum::http::StatusCode;

use super::shared_memory::RegionError;
use crate::batch::{Failure, Phase, Refusal};
use crate::error::{Error, ErrorKind, InputError};

/// Characters of a message at most: gRPC's travels in a header.
const MAX_MESSAGE: usize = 1000;

/// An error that a client is told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error(transparent)]
    Admission(#[from] Refusal),
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
    #[error("the Host is none of this server's names; --allow-host adds one")]
    ForeignHost,
    #[error("a browser sent this for a page of another site; --allow-origin lets its pages in")]
    ForeignOrigin,
    #[error("{reason}")]
    Malformed { reason: String },
    #[error("{what} is not here")]
    NotFound { what: String },
    #[error("{what} is not implemented")]
    Unimplemented { what: String },
    #[error("the embeddings are those of {etag}")]
    NotModified { etag: String },
    #[error("the request was dropped: {reason}")]
    Dropped { reason: &'static str },
}

impl ApiError {
    /// A request that breaks a rule of the protocol.
    pub(crate) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed { reason: reason.into() }
    }

    /// HTTP's status, by which logs and metrics of every protocol count.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Admission(refusal) | Self::Batch(Failure::Refused(refusal)) => refusal_status(refusal),
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Batch(Failure::Lost { .. }) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Batch(Failure::Expired) => StatusCode::GATEWAY_TIMEOUT,
            Self::Batch(Failure::Failed(error)) | Self::Encoder(error) => encoder_status(error.kind()),
            Self::Region(error) => region_status(error),
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BodyBroken { .. } | Self::Malformed { .. } | Self::Unimplemented { .. } => StatusCode::BAD_REQUEST,
            Self::ForeignHost => StatusCode::MISDIRECTED_REQUEST,
            Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            // 304 is for GET and HEAD alone.
            Self::NotModified { .. } => StatusCode::PRECONDITION_FAILED,
            Self::Dropped { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The message for the client, which is short whatever a client calls its tensors.
    pub(crate) fn message(&self) -> String {
        let message = self.to_string();
        match message.char_indices().nth(MAX_MESSAGE) {
            Some((end, _)) => format!("{}…", &message[..end]),
            None => message,
        }
    }

    /// Seconds after which to try again, where that helps.
    pub(crate) fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Admission(refusal) | Self::Batch(Failure::Refused(refusal)) => match refusal {
                Refusal::Full { .. } | Refusal::Closed { phase: Phase::Starting } => Some(1),
                // By then the requests that are here now have been answered.
                Refusal::Overloaded { expected, .. } => Some((expected.as_secs_f64().ceil() as u32).max(1)),
                _ => None,
            },
            _ => None,
        }
    }
}

impl From<InputError> for ApiError {
    fn from(error: InputError) -> Self {
        Self::Encoder(error.into())
    }
}

fn refusal_status(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::Full { .. } | Refusal::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
        Refusal::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::Closed { .. } => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// A request holds pictures and pixels; the model, the device and the options are the server's own.
fn encoder_status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::ImageFormat => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorKind::ImageTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::Image | ErrorKind::Input => StatusCode::BAD_REQUEST,
        ErrorKind::Overflow => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::OutOfMemory => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Config
        | ErrorKind::Checkpoint
        | ErrorKind::Io
        | ErrorKind::Hub
        | ErrorKind::Unavailable
        | ErrorKind::NotFinite
        | ErrorKind::Device
        | ErrorKind::DeviceLost => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn region_status(error: &RegionError) -> StatusCode {
    match error {
        RegionError::Unknown { .. } => StatusCode::NOT_FOUND,
        RegionError::Registered { .. } => StatusCode::CONFLICT,
        RegionError::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
        RegionError::OutOfMemory { .. } => StatusCode::INSUFFICIENT_STORAGE,
        // The objects' file system is full.
        RegionError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            StatusCode::INSUFFICIENT_STORAGE
        }
        RegionError::Off
        | RegionError::Incomplete { .. }
        | RegionError::Empty
        | RegionError::Key { .. }
        | RegionError::Open { .. }
        | RegionError::NoObject { .. }
        | RegionError::Beyond { .. }
        | RegionError::TooSmall { .. }
        | RegionError::Io { .. } => StatusCode::BAD_REQUEST,
    }
}
