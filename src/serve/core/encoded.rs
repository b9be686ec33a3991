//! A request's embeddings, and the facts about them that a response tells.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::cache::Lookup;
use super::etag::etag;
use super::metrics::RequestStats;
use crate::batch::Reply;
use crate::digest::Digest;
use crate::dtype::Dtype;
use crate::image::Canvas;
use crate::stages::{Stage, StageTimes};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The embeddings that a request asked for.
pub(crate) struct Encoded {
    pub(crate) reply: Reply,
    /// Rows and width.
    pub(crate) embeddings_shape: [usize; 2],
    /// Tiles of each image that have rows in the embeddings.
    pub(crate) num_tiles: Vec<i64>,
    pub(crate) aspect_ratios: Vec<[i64; 2]>,
    /// One a picture, or one for a pixel tensor.
    pub(crate) content_hashes: Vec<Digest>,
    /// One a picture; none for a pixel tensor.
    pub(crate) placements: Vec<Placement>,
    pub(crate) times: StageTimes,
    /// None where there is no cache.
    pub(crate) lookup: Option<Lookup>,
    pub(crate) stats: RequestStats,
}

/// Where a picture lies on its canvas.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placement {
    /// The picture's height and width in its file.
    pub(crate) size: [usize; 2],
    pub(crate) canvas: Canvas,
}

impl Encoded {
    /// Counts the request as answered, its response written in this time. Returns the headers that tell its times.
    pub(crate) fn finish(&mut self, serialise: Duration) -> HeaderMap {
        self.times.add(Stage::Serialise, serialise);
        self.stats.succeed(&self.times, self.lookup);
        let timing = HeaderValue::try_from(server_timing(&self.times)).ok();
        let lookup = self.lookup.map(|lookup| HeaderValue::from_static(lookup.header()));
        let headers = [(SERVER_TIMING, timing), (CACHE_STATUS, lookup)];
        headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// The content hash of the whole response.
    pub(crate) fn content_hash(&self) -> Digest {
        Digest::of_all(&self.content_hashes)
    }

    /// The ETag of the embeddings in this element type.
    pub(crate) fn etag(&self, dtype: Dtype) -> String {
        etag(&self.content_hash(), dtype)
    }
}

/// The value of a `Server-Timing` header, in milliseconds.
fn server_timing(times: &StageTimes) -> String {
    let stages = times.iter().map(|(stage, time)| format!("{};dur={:.3}", stage.name(), time.as_secs_f64() * 1e3));
    stages.collect::<Vec<_>>().join(", ")
}
