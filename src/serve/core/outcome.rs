//! The outcome of a request, as the access log and the spans tell it.

use super::cache::Lookup;
use super::encoded::Encoded;
use super::error::ApiError;
use crate::stages::StageTimes;

/// What a request came to. A response carries it to the access log as an extension.
#[derive(Debug, Clone)]
pub(crate) enum RequestOutcome {
    /// Embeddings.
    Encoded {
        images: usize,
        tiles: i64,
        batch_requests: usize,
        content_hash: String,
        times: StageTimes,
        lookup: Option<Lookup>,
    },
    /// An error. The status is HTTP's, whichever protocol the request came by.
    Failed { reason: String, status: u16 },
}

impl From<&Encoded> for RequestOutcome {
    fn from(encoded: &Encoded) -> Self {
        Self::Encoded {
            images: encoded.num_tiles.len(),
            tiles: encoded.num_tiles.iter().sum(),
            batch_requests: encoded.reply.batch_requests,
            content_hash: encoded.content_hash().to_string(),
            times: encoded.times,
            lookup: encoded.lookup,
        }
    }
}

impl From<&ApiError> for RequestOutcome {
    fn from(error: &ApiError) -> Self {
        Self::Failed { reason: error.message(), status: error.status().as_u16() }
    }
}
