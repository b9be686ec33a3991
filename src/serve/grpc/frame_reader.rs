//! Reads messages from a body. Before each message stand five bytes: one says whether it is compressed, and four its length.

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;

use crate::batch::Place;
use crate::memory;
use crate::serve::core::error::ApiError;

/// The messages of a request's body.
pub(super) struct FrameReader {
    body: Body,
    /// What has arrived and is not a part of a message yet.
    rest: Bytes,
    /// The longest message that is taken.
    limit: usize,
}

impl FrameReader {
    pub(super) fn new(body: Body, limit: usize) -> Self {
        Self { body, rest: Bytes::new(), limit }
    }

    /// The one message of a body, held before any of it is kept.
    ///
    /// # Errors
    /// [`ApiError::Malformed`] where there is none or another one, and those of [`FrameReader::next_len`],
    /// [`FrameReader::message`] and [`Place::hold`].
    pub(super) async fn only(&mut self, place: &Place) -> Result<Bytes, ApiError> {
        let len = self.next_len().await?.ok_or_else(|| ApiError::malformed("there is no message"))?;
        place.hold(len as u64)?;
        let message = self.message(len).await?;
        if self.next_len().await?.is_some() {
            return Err(ApiError::malformed("there is more than one message"));
        }
        Ok(message)
    }

    /// The length of the next message. None where the body ends before it.
    ///
    /// # Errors
    /// [`ApiError::BodyTooLarge`], [`ApiError::BodyBroken`], [`ApiError::Unimplemented`] for a compressed message.
    pub(super) async fn next_len(&mut self) -> Result<Option<usize>, ApiError> {
        if self.rest.is_empty() && !self.more().await? {
            return Ok(None);
        }
        let mut head = [0; 5];
        self.fill(head.len(), |at, bytes| head[at..at + bytes.len()].copy_from_slice(bytes)).await?;
        let [compressed, len @ ..] = head;
        if compressed != 0 {
            return Err(ApiError::Unimplemented { what: "compression of messages".to_string() });
        }
        let len = u32::from_be_bytes(len) as usize;
        if len > self.limit { Err(ApiError::BodyTooLarge { limit: self.limit }) } else { Ok(Some(len)) }
    }

    /// The next message, whose length the caller has held.
    ///
    /// # Errors
    /// [`ApiError::BodyBroken`].
    pub(super) async fn message(&mut self, len: usize) -> Result<Bytes, ApiError> {
        let mut message = memory::reserve(len)?;
        self.fill(len, |_, bytes| message.extend_from_slice(bytes)).await?;
        Ok(message.into())
    }

    /// Passes over the next message, of this length.
    ///
    /// # Errors
    /// [`ApiError::BodyBroken`].
    pub(super) async fn skip(&mut self, len: usize) -> Result<(), ApiError> {
        self.fill(len, |_, _| {}).await
    }

    /// Hands over so many bytes, piece by piece, each with how many came before it.
    async fn fill(&mut self, len: usize, mut take: impl FnMut(usize, &[u8])) -> Result<(), ApiError> {
        let mut filled = 0;
        while filled < len {
            if self.rest.is_empty() && !self.more().await? {
                return Err(ApiError::BodyBroken { reason: "it ends within a message".to_string() });
            }
            let piece = self.rest.split_to(self.rest.len().min(len - filled));
            take(filled, &piece);
            filled += piece.len();
        }
        Ok(())
    }

    /// Waits for more bytes. False where there are none.
    async fn more(&mut self) -> Result<bool, ApiError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|e| ApiError::BodyBroken { reason: e.to_string() })?;
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                self.rest = data;
                return Ok(true);
            }
        }
        Ok(false)
    }
}
