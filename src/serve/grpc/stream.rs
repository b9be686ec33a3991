//! `ModelStreamInfer`: requests one after another on one stream, and their answers in the same order. A request that is
//! refused is told so in its turn, and the stream goes on.

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

use super::super::body::{at_length, in_time, keep};
use super::super::log::{Record, Told};
use super::super::refused::Refused;
use super::super::service::{Service, Visit};
use super::inference::ModelStreamInferResponse;
use super::message::Asked;
use super::received::Received;
use super::sent::Pieces;
use super::{CONTENT_TYPE, refused, success};

/// The field that holds an answer.
const INFER_RESPONSE: u32 = 2;

pub(super) async fn infer(State(service): State<Arc<Service>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let received = Received::new(body, service.options.max_body_bytes);
    let stream = Stream { service, head, received, pieces: VecDeque::new(), is_over: false };
    // It is asked for its next frame only when the connection has room for one.
    let frames = stream::unfold(stream, async |mut stream| {
        let frame = stream.next().await?;
        Some((Ok::<_, Infallible>(frame), stream))
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

struct Stream {
    service: Arc<Service>,
    /// What the stream began with: as good as the head of each request on it.
    head: Parts,
    received: Received,
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
                Err(broken) => return Some(self.end(refused(&broken).into_parts().0.headers)),
            }
        }
        self.pieces.pop_front().map(Frame::data)
    }

    fn end(&mut self, trailers: HeaderMap) -> Frame<Bytes> {
        self.is_over = true;
        Frame::trailers(trailers)
    }

    /// The answer to the next request, or its refusal. None where there is no request any more; an error where the
    /// stream cannot be read on.
    async fn answer(&mut self) -> Result<Option<VecDeque<Bytes>>, Refused> {
        let service = self.service.clone();
        // Between two requests a stream may stay as long as a connection may.
        let idle = Instant::now() + service.options.connections.idle_timeout;
        let Some(len) = in_time(idle, self.received.next_len()).await? else { return Ok(None) };
        // The stream may be as old as it likes: a request's time begins here.
        let record = Record::open(&service, &self.head);
        let admitted = service.admit(&self.head.headers).and_then(|visit| {
            visit.place.hold(len as u64)?;
            Ok(visit)
        });
        let result = match admitted {
            Ok(visit) => {
                let message = in_time(visit.deadline, self.received.message(len)).await?;
                respond(&service, visit, message).await
            }
            Err(refused) => {
                in_time(Instant::now() + service.options.timeout, self.received.skip(len)).await?;
                Err(refused)
            }
        };
        let status = result.as_ref().map_or_else(Refused::status, |_| StatusCode::OK);
        service.metrics.count_response(status);
        let told = result.as_ref().map_or_else(Told::refused, |(told, _)| told.clone());
        let result = result.map(|(_, pieces)| pieces).or_else(|refused| refusal(&refused));
        let bytes = result.iter().flatten().map(|piece| piece.len() as u64).sum();
        record.close(&service, status.as_u16(), Some(bytes), Some(&told));
        result.map(Some)
    }
}

async fn respond(service: &Service, mut visit: Visit<'_>, message: Bytes) -> Result<(Told, VecDeque<Bytes>), Refused> {
    visit.received();
    let place = visit.place.clone();
    let hold = |bytes| Ok(place.hold(bytes)?);
    let Asked { tensors, form } = at_length(message.len(), || Asked::read(message, &service.regions, hold))?;
    visit.for_outputs(form.wanted.clone());
    let mut answer = tensors.encode(visit).await?;
    let begin = Instant::now();
    let pieces =
        at_length(size_of_val(&answer.reply[..]), || form.message(&answer, &place)?.within(INFER_RESPONSE).framed())?;
    let pieces = pieces.into_iter().map(|piece| keep(piece, place.clone())).collect();
    answer.is_made(begin.elapsed());
    Ok((Told::of(&answer), pieces))
}

fn refusal(refused: &Refused) -> Result<VecDeque<Bytes>, Refused> {
    let error_message = refused.grpc_status().message().to_string();
    Pieces::of(&ModelStreamInferResponse { error_message, infer_response: None }).framed()
}
