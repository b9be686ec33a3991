//! Embeddings in the element type and the file that were asked for.

use axum::body::Bytes;

use super::service::Answer;
use crate::batch::Reply;
use crate::digest::Digest;
use crate::dtype::Dtype;

/// The embeddings as bytes, little endian. In f32 nothing is copied.
pub(super) fn embeddings(reply: Reply, dtype: Dtype) -> Bytes {
    if dtype == Dtype::F32 && cfg!(target_endian = "little") {
        return Bytes::from_owner(reply);
    }
    dtype.narrowed(&reply).into()
}

/// The ETag of embeddings in this element type. Equal tags mean equal values; the text around them may differ.
pub(super) fn etag(content_hash: &Digest, dtype: Dtype) -> String {
    format!("W/\"{content_hash}-{dtype}\"")
}

/// Whether an If-None-Match lists the tag.
pub(super) fn lists(tags: &str, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_string();
    tags.split(',').any(|tag| opaque(tag) == opaque(etag))
}

/// The content hashes of an answer, `[images, 32]` in U8: what stands behind the embeddings in a safetensors file.
pub(super) fn content_hashes(answer: &Answer) -> Bytes {
    answer.content_hashes.iter().flat_map(|digest| *digest.as_bytes()).collect::<Vec<_>>().into()
}

/// The head of a safetensors file of an answer, and its integers: what stands before the embeddings.
pub(super) fn safetensors_head(answer: &Answer, dtype: Dtype, metadata: &[(&'static str, String)]) -> Bytes {
    let num_images = answer.num_tiles.len();
    let rows = answer.embeddings_shape[0];
    let (counts, ratios) = (8 * num_images, 16 * num_images);
    let before = counts + ratios;
    let behind = before + rows * answer.embeddings_shape[1] * dtype.size();
    let hashes = answer.content_hashes.len();
    let metadata: serde_json::Map<String, serde_json::Value> =
        metadata.iter().map(|(name, value)| (name.to_string(), value.as_str().into())).collect();
    let header = serde_json::json!({
        "__metadata__": metadata,
        "num_tiles": { "dtype": "I64", "shape": [num_images], "data_offsets": [0, counts] },
        "aspect_ratio": { "dtype": "I64", "shape": [num_images, 2], "data_offsets": [counts, before] },
        "embeddings": {
            "dtype": dtype.safetensors_name(),
            "shape": answer.embeddings_shape,
            "data_offsets": [before, behind],
        },
        "content_hash": { "dtype": "U8", "shape": [hashes, 32], "data_offsets": [behind, behind + 32 * hashes] },
    });
    let mut json = header.to_string().into_bytes();
    // Values start on 8 bytes, so that readers can map them.
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    bytes.extend(integers(answer.num_tiles.iter().copied()));
    bytes.extend(integers(answer.aspect_ratios.as_flattened().iter().copied()));
    bytes.into()
}

/// INT64 values, little endian.
pub(super) fn integers(values: impl Iterator<Item = i64>) -> Vec<u8> {
    values.flat_map(i64::to_le_bytes).collect()
}

/// An element type by the name that requests have for it.
pub(super) fn dtype_named(name: &str) -> Option<Dtype> {
    match name {
        "FP32" | "fp32" | "f32" => Some(Dtype::F32),
        "FP16" | "fp16" | "f16" => Some(Dtype::F16),
        "BF16" | "bf16" => Some(Dtype::Bf16),
        _ => None,
    }
}
