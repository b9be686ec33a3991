//! `POST /v1/encode`: a picture in, a safetensors file out.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::body::{Pieces, at_length, receive, swallow};
use super::log::Told;
use super::output;
use super::refused::Refused;
use super::service::Service;
use crate::dtype::Dtype;

/// Takes a JPEG, PNG or WebP picture as the body, whatever the Content-Type; `?dtype=` names the embeddings' element type.
pub(super) async fn encode(State(service): State<Arc<Service>>, request: Request) -> Response {
    let response = answer(&service, request).await.unwrap_or_else(IntoResponse::into_response);
    service.metrics.count_response(response.status());
    response
}

async fn answer(service: &Service, request: Request) -> Result<Response, Refused> {
    let (head, body) = request.into_parts();
    let admitted = dtype(head.uri.query()).and_then(|dtype| Ok((dtype, service.admit(&head.headers)?)));
    let (dtype, mut visit) = match admitted {
        Ok(admitted) => admitted,
        Err(refused) => {
            swallow(body);
            return Err(refused);
        }
    };
    let file = receive(body, &visit.place, service.options.max_body_bytes, visit.deadline).await?;
    visit.received();
    visit.unless_known(&head.headers, dtype);
    let place = visit.place.clone();
    let mut answer = visit.pictures(vec![file]).await?;
    let begin = Instant::now();
    let model = &service.model;
    let [placement] = answer.placements[..] else {
        return Err(Refused::Dropped { reason: "one picture has one place" });
    };
    let etag = answer.etag(dtype);
    let content_hashes = output::content_hashes(&answer);
    let head = output::safetensors_head(
        &answer,
        dtype,
        &[
            ("tilesight_version", env!("CARGO_PKG_VERSION").to_string()),
            ("semantics", model.semantics.name().to_string()),
            ("computed_in", model.computed_in.to_string()),
            ("tokens_per_tile", model.config.num_tokens().to_string()),
            ("tile_size", model.config.tile_size.to_string()),
            ("max_num_tiles", model.config.max_num_tiles.to_string()),
            ("preprocess", model.preprocessor.as_ref().map_or("", |p| p.preprocess().name()).to_string()),
            // Height and width in the file, and after resizing; the rest of the canvas is padding.
            ("picture_size", pair(placement.size)),
            ("resized", pair(placement.canvas.resized)),
        ],
    );
    if dtype != Dtype::F32 {
        place.hold((dtype.size() * answer.reply.len()) as u64)?;
    }
    let embeddings = at_length(size_of_val(&answer.reply[..]), || output::embeddings(answer.reply.clone(), dtype));
    let mut response = Response::new(Body::new(Pieces::new([head, embeddings, content_hashes], &place)));
    let made = answer.is_made(begin.elapsed());
    response.extensions_mut().insert(Told::of(&answer));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if let Ok(etag) = etag.try_into() {
        headers.insert(header::ETAG, etag);
    }
    headers.extend(made);
    Ok(response)
}

/// Two numbers as JSON has them.
fn pair([first, second]: [usize; 2]) -> String {
    format!("[{first}, {second}]")
}

/// The element type that the query asks for.
fn dtype(query: Option<&str>) -> Result<Dtype, Refused> {
    let mut dtype = Dtype::F32;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let named = pair.strip_prefix("dtype=").and_then(output::dtype_named);
        dtype = named.ok_or_else(|| Refused::malformed(format!("{pair:?}: there is dtype=fp32, fp16 or bf16")))?;
    }
    Ok(dtype)
}
