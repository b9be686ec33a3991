//! ETags of embeddings.

use crate::digest::Digest;
use crate::dtype::Dtype;

/// The ETag of embeddings in this element type. Equal tags mean equal values; the text around them may differ.
pub(crate) fn etag(content_hash: &Digest, dtype: Dtype) -> String {
    format!("W/\"{content_hash}-{dtype}\"")
}

/// Whether an If-None-Match lists the tag.
pub(crate) fn lists(tags: &str, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_string();
    tags.split(',').any(|tag| opaque(tag) == opaque(etag))
}
