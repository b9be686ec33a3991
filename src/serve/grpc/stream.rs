//! `ModelStreamInfer`: requests one after another on one stream, and their answers in the same order. A request that is
//! rejected has an error in its turn, and the stream goes on.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use tonic::Status;

use super::frame_reader::FrameReader;
use super::frame_writer::FrameWriter;
use super::protocol::inference::ModelStreamInferResponse;
use super::protocol::{CONTENT_TYPE, success};
use super::{error, infer, message};
use crate::serve::core::access_log::Record;
use crate::serve::core::body::{BodyClock, hold_place};
use crate::serve::core::error::ApiError;
use crate::serve::core::outcome::RequestOutcome;
use crate::serve::core::pipeline::{Answered, ResponseParts};
use crate::serve::core::request::RequestContext;
use crate::serve::core::service::Service;
use crate::serve::options::Connections;

/// The field that holds an answer.
const INFER_RESPONSE: u32 = 2;

pub(super) async fn infer(State(service): State<Arc<Service>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let frames = FrameReader::new(body, service.options.max_body_bytes);
    let stream = Stream { service, head, frames, pieces: VecDeque::new(), is_over: false };
    // It is asked for its next frame only when the connection has room for one.
    let responses = stream::unfold(stream, async |mut stream| {
        let frame = stream.next().await?;
        Some((Ok::<_, Infallible>(frame), stream))
    });
    let mut response = Response::new(Body::new(StreamBody::new(responses)));
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

struct Stream {
    service: Arc<Service>,
    /// What the stream began with: as good as the head of each request on it.
    head: Parts,
    frames: FrameReader,
    /// What is left to send of the last answer.
    pieces: VecDeque<Bytes>,
    is_over: bool,
}

impl Stream {
    async fn next(&mut self) -> Option<Frame<Bytes>> {
        if self.is_over {
            return None;
        }
        if self.pieces.is_empty() {
            match self.answer().await {
                Ok(Some(pieces)) => self.pieces = pieces,
                Ok(None) => return Some(self.end(success())),
                Err(broken) => return Some(self.end(error::response(&broken).into_parts().0.headers)),
            }
        }
        self.pieces.pop_front().map(Frame::data)
    }

    fn end(&mut self, trailers: HeaderMap) -> Frame<Bytes> {
        self.is_over = true;
        Frame::trailers(trailers)
    }

    /// The response to the next request, or its error. None where there are no more requests; an error where the stream
    /// cannot be read on.
    async fn answer(&mut self) -> Result<Option<VecDeque<Bytes>>, ApiError> {
        let service = self.service.clone();
        // Between two requests a stream may stay as long as a connection may.
        let connections = &service.options.connections;
        let idle = Instant::now() + connections.idle_timeout;
        let mut clock = BodyClock::new(idle, &Connections { body_timeout: connections.idle_timeout, ..*connections });
        let Some(len) = self.frames.next_len(&mut clock).await? else { return Ok(None) };
        // The stream may be as old as it likes: a request's time begins here. The head is the stream's, so its
        // If-None-Match is no request's.
        let record = Record::open(&service, &self.head);
        let result = match RequestContext::announce(&service, &self.head.headers) {
            Ok(context) => {
                let mut clock = BodyClock::new(context.deadline, connections);
                let message = self.frames.message(len, &context.place, &mut clock).await?;
                infer::answer(&service, context, message, write).await
            }
            Err(error) => {
                let mut clock = BodyClock::new(Instant::now() + service.options.timeout, connections);
                self.frames.skip(len, &mut clock).await?;
                Err(error)
            }
        };
        service.count_response(&result);
        let status = result.as_ref().map_or_else(ApiError::status, |_| StatusCode::OK);
        let (outcome, pieces) = match result {
            Ok(Answered { response, outcome, .. }) => (outcome, Ok(response)),
            Err(error) => (RequestOutcome::from(&error), error_message(&error)),
        };
        let bytes = pieces.iter().flatten().map(|piece| piece.len() as u64).sum();
        record.close(&service, status.as_u16(), Some(bytes), Some(&outcome));
        pieces.map(Some)
    }
}

fn write(parts: &ResponseParts) -> Result<VecDeque<Bytes>, ApiError> {
    let pieces = message::write(parts)?.within(INFER_RESPONSE).framed()?;
    Ok(pieces.into_iter().map(|piece| hold_place(piece, parts.place.clone())).collect())
}

fn error_message(error: &ApiError) -> Result<VecDeque<Bytes>, ApiError> {
    let error_message = Status::from(error).message().to_string();
    FrameWriter::new(&ModelStreamInferResponse { error_message, infer_response: None }).framed()
}
