//! Messages as they are sent: in pieces, the large ones from where they were computed.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Bytes, HttpBody};
use axum::http::HeaderMap;
use http_body::Frame;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::super::body::keep;
use super::super::refused::Refused;
use crate::batch::Place;

/// A piece of fewer bytes is copied to those beside it, for a frame of its own would cost more.
const LARGE: usize = 4096;

/// A message's bytes.
#[derive(Default)]
pub(super) struct Pieces {
    pieces: VecDeque<Bytes>,
    /// What comes behind them.
    small: Vec<u8>,
}

impl Pieces {
    /// The fields of `message`. More may follow, as long as they are not among those.
    pub(super) fn of(message: &impl Message) -> Self {
        Self { pieces: VecDeque::new(), small: message.encode_to_vec() }
    }

    /// Appends a field of bytes.
    pub(super) fn push(&mut self, number: u32, bytes: Bytes) {
        encode_key(number, WireType::LengthDelimited, &mut self.small);
        encode_varint(bytes.len() as u64, &mut self.small);
        if bytes.len() < LARGE {
            self.small.extend_from_slice(&bytes);
        } else {
            self.pieces.extend([std::mem::take(&mut self.small).into(), bytes]);
        }
    }

    /// This message as the one field of another.
    pub(super) fn within(mut self, number: u32) -> Self {
        let mut head = Vec::new();
        encode_key(number, WireType::LengthDelimited, &mut head);
        encode_varint(self.len() as u64, &mut head);
        self.prepend(head);
        self
    }

    /// The message behind its length, ready to be sent. The request's place is kept until the last piece has left, or the
    /// client has.
    ///
    /// # Errors
    /// [`Refused::Malformed`] where the length does not fit into its four bytes.
    pub(super) fn framed(mut self, place: Option<&Arc<Place>>) -> Result<VecDeque<Bytes>, Refused> {
        let len = self.len();
        let too_long =
            |_| Refused::malformed(format!("{len} bytes of answer are no gRPC message: ask for less at once"));
        let len = u32::try_from(len).map_err(too_long)?;
        let mut head = vec![0];
        head.extend(len.to_be_bytes());
        self.prepend(head);
        self.pieces.push_back(self.small.into());
        self.pieces.retain(|piece| !piece.is_empty());
        let kept = |piece| match place {
            Some(place) => keep(piece, place.clone()),
            None => piece,
        };
        Ok(self.pieces.into_iter().map(kept).collect())
    }

    /// The first piece holds names and shapes: copying it to what comes before costs nothing, and saves a frame.
    fn prepend(&mut self, mut head: Vec<u8>) {
        match self.pieces.pop_front() {
            Some(first) => {
                head.extend_from_slice(&first);
                self.pieces.push_front(head.into());
            }
            None => {
                head.append(&mut self.small);
                self.small = head;
            }
        }
    }

    fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum::<usize>() + self.small.len()
    }
}

/// An answer of one message, and the status behind it.
pub(super) struct Answer {
    pub(super) pieces: VecDeque<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let piece = self.pieces.pop_front().map(Frame::data);
        Poll::Ready(piece.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }
}
