//! The parsers of requests alone, without a server around them: what the fuzz targets feed. No part of the interface.

use axum::body::Bytes;
use axum::http::HeaderValue;

use super::core::error::ApiError;
use super::core::pipeline::InferRequest;
use super::core::shared_memory::Regions;
use super::core::tensors::Contents;
use super::grpc;
use super::http::infer;

/// What a body asks for over HTTP, with the header that says how long its JSON is, where there is one: how many files or
/// values it has. The status and the reason where it is refused.
///
/// # Errors
/// Every refusal that needs no model.
pub fn http(json_len: Option<&[u8]>, body: &[u8]) -> Result<usize, (u16, String)> {
    // What cannot be a header's value never comes here.
    let json_len = json_len.map(|value| HeaderValue::from_bytes(value).unwrap_or(HeaderValue::from_static("")));
    count(infer::read(json_len.as_ref(), Bytes::copy_from_slice(body), &Regions::new(1), &|_| Ok(())))
}

/// The same of a message over gRPC.
///
/// # Errors
/// Likewise.
pub fn grpc(message: &[u8]) -> Result<usize, (u16, String)> {
    count(grpc::message::read(Bytes::copy_from_slice(message), &Regions::new(1), &|_| Ok(())))
}

fn count(request: Result<InferRequest, ApiError>) -> Result<usize, (u16, String)> {
    match request.and_then(|request| request.tensors.into_contents()) {
        Ok(Contents::Pictures(files)) => Ok(files.len()),
        Ok(Contents::Pixels { values, .. }) => Ok(values.len()),
        Err(error) => Err((error.status().as_u16(), error.message())),
    }
}
