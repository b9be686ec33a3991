//! `POST /v1/encode`: a picture in, a safetensors file out.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::body::announce_and_receive;
use crate::dtype::Dtype;
use crate::embeddings_file::{self, integers};
use crate::serve::core::body::ResponseBody;
use crate::serve::core::encoded::Encoded;
use crate::serve::core::error::ApiError;
use crate::serve::core::model::Model;
use crate::serve::core::outputs::{RequestedOutputs, Values, parse_dtype};
use crate::serve::core::pipeline::{self, Answered, InferRequest, ResponseParts};
use crate::serve::core::service::Service;
use crate::serve::core::tensors::Tensors;

/// Takes a JPEG, PNG or WebP picture as the body, whatever the Content-Type. `?dtype=` names the embeddings' element type.
pub(super) async fn encode(State(service): State<Arc<Service>>, request: Request) -> Response {
    let result = respond(&service, request).await;
    service.count_response(&result);
    result.map_or_else(IntoResponse::into_response, Answered::into_response)
}

async fn respond(service: &Service, request: Request) -> Result<Answered<Response>, ApiError> {
    let (head, body) = request.into_parts();
    let (dtype, mut context, file) =
        announce_and_receive(service, &head.headers, body, dtype(head.uri.query())).await?;
    context.set_if_none_match(&head.headers);
    let request =
        |file| InferRequest { id: None, outputs: RequestedOutputs::all(dtype), tensors: Tensors::picture(file) };
    pipeline::infer(context, file, |file, _| Ok(request(file)), |parts| write(&service.model, &parts)).await
}

fn write(model: &Model, parts: &ResponseParts) -> Result<Response, ApiError> {
    let ResponseParts { outputs, encoded, place, .. } = *parts;
    let head = file_head(model, encoded, outputs.dtype())?;
    let embeddings = outputs.bytes(Values::Floats(&encoded.reply), place)?;
    let hashes: Vec<u8> = encoded.content_hashes.iter().flat_map(|digest| *digest.as_bytes()).collect();
    let mut response = Response::new(Body::new(ResponseBody::new([head, embeddings, hashes.into()], place)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if let Ok(etag) = encoded.etag(outputs.dtype()).try_into() {
        headers.insert(header::ETAG, etag);
    }
    Ok(response)
}

/// The file up to its embeddings.
fn file_head(model: &Model, encoded: &Encoded, dtype: Dtype) -> Result<Bytes, ApiError> {
    let [placement] = encoded.placements[..] else {
        return Err(ApiError::Dropped { reason: "one picture has one placement" });
    };
    let preprocess = model.preprocessor.as_ref().map_or("", |preprocessor| preprocessor.preprocess().name());
    let mut metadata = embeddings_file::metadata(&model.config, model.semantics, model.computed_in, Some(preprocess));
    // Height and width in the file, and after resizing; the rest of the canvas is padding.
    metadata.push(("picture_size", pair(placement.size)));
    metadata.push(("resized", pair(placement.canvas.resized)));
    let (images, hashes) = (encoded.num_tiles.len(), encoded.content_hashes.len());
    let entries = embeddings_file::entries(images, encoded.embeddings_shape, dtype, hashes);
    let mut head = embeddings_file::header(&entries, &metadata);
    head.extend(integers(encoded.num_tiles.iter().copied()));
    head.extend(integers(encoded.aspect_ratios.as_flattened().iter().copied()));
    Ok(head.into())
}

/// Two numbers as JSON has them.
fn pair([first, second]: [usize; 2]) -> String {
    format!("[{first}, {second}]")
}

/// The element type that the query asks for.
fn dtype(query: Option<&str>) -> Result<Dtype, ApiError> {
    let mut dtype = Dtype::F32;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let named = pair.strip_prefix("dtype=").and_then(parse_dtype);
        dtype = named.ok_or_else(|| ApiError::malformed(format!("{pair:?}: there is dtype=fp32, fp16 or bf16")))?;
    }
    Ok(dtype)
}
