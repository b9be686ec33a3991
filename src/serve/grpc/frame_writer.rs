//! Writes messages in pieces. Large ones are sent from where they were computed.

use std::collections::VecDeque;

use axum::body::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::serve::core::error::ApiError;

/// A piece of fewer bytes is copied to those beside it, for a frame of its own would cost more.
const LARGE: usize = 4096;

/// A message's bytes.
#[derive(Default)]
pub(super) struct FrameWriter {
    pieces: VecDeque<Bytes>,
    /// What comes behind them.
    small: Vec<u8>,
}

impl FrameWriter {
    /// The fields of `message`. More may follow, as long as they are not among those.
    pub(super) fn new(message: &impl Message) -> Self {
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

    /// The message behind its length, ready to be sent.
    ///
    /// # Errors
    /// [`ApiError::Malformed`] where the length does not fit into its four bytes.
    pub(super) fn framed(mut self) -> Result<VecDeque<Bytes>, ApiError> {
        let len = self.len();
        let too_long =
            |_| ApiError::malformed(format!("{len} bytes of answer are no gRPC message: ask for less at once"));
        let len = u32::try_from(len).map_err(too_long)?;
        let mut head = vec![0];
        head.extend(len.to_be_bytes());
        self.prepend(head);
        self.pieces.push_back(self.small.into());
        self.pieces.retain(|piece| !piece.is_empty());
        Ok(self.pieces)
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
