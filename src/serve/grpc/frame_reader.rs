//! Reads messages from a body. Before each message stand five bytes: one says whether it is compressed, and four its length.

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;

use crate::batch::Place;
use crate::serve::core::body::{BodyClock, append};
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

    /// The one message of a body.
    ///
    /// # Errors
    /// [`ApiError::Malformed`] where there is none or another one, and those of [`FrameReader::next_len`] and
    /// [`FrameReader::message`].
    pub(super) async fn only(&mut self, place: &Place, mut clock: BodyClock) -> Result<Bytes, ApiError> {
        let len = self.next_len(&mut clock).await?.ok_or_else(|| ApiError::malformed("there is no message"))?;
        let message = self.message(len, place, &mut clock).await?;
        if self.next_len(&mut clock).await?.is_some() {
            return Err(ApiError::malformed("there is more than one message"));
        }
        Ok(message)
    }

    /// The length of the next message. None where the body ends before it.
    ///
    /// # Errors
    /// [`ApiError::BodyTooLarge`], [`ApiError::BodyTooSlow`], [`ApiError::BodyBroken`], [`ApiError::Unimplemented`] for a
    /// compressed message.
    pub(super) async fn next_len(&mut self, clock: &mut BodyClock) -> Result<Option<usize>, ApiError> {
        if self.rest.is_empty() && !self.more(clock).await? {
            return Ok(None);
        }
        let mut head = [0; 5];
        self.fill(head.len(), clock, |at, bytes| {
            head[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })
        .await?;
        let [compressed, len @ ..] = head;
        if compressed != 0 {
            return Err(ApiError::Unimplemented { what: "compression of messages".to_string() });
        }
        let len = u32::from_be_bytes(len) as usize;
        if len > self.limit { Err(ApiError::BodyTooLarge { limit: self.limit }) } else { Ok(Some(len)) }
    }

    /// The next message.
    ///
    /// # Errors
    /// [`ApiError::BodyTooSlow`], [`ApiError::BodyBroken`], and those of [`append`].
    pub(super) async fn message(
        &mut self,
        len: usize,
        place: &Place,
        clock: &mut BodyClock,
    ) -> Result<Bytes, ApiError> {
        let mut message = Vec::new();
        self.fill(len, clock, |_, bytes| append(&mut message, bytes, place)).await?;
        Ok(message.into())
    }

    /// Passes over the next message, of this length.
    ///
    /// # Errors
    /// [`ApiError::BodyTooSlow`], [`ApiError::BodyBroken`].
    pub(super) async fn skip(&mut self, len: usize, clock: &mut BodyClock) -> Result<(), ApiError> {
        self.fill(len, clock, |_, _| Ok(())).await
    }

    /// Hands over so many bytes, piece by piece, each with how many came before it.
    async fn fill(
        &mut self,
        len: usize,
        clock: &mut BodyClock,
        mut take: impl FnMut(usize, &[u8]) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        let mut filled = 0;
        while filled < len {
            if self.rest.is_empty() && !self.more(clock).await? {
                return Err(ApiError::BodyBroken { reason: "it ends within a message".to_string() });
            }
            let piece = self.rest.split_to(self.rest.len().min(len - filled));
            filled += piece.len();
            take(filled - piece.len(), &piece)?;
        }
        Ok(())
    }

    /// Waits for more bytes. False where there are none.
    async fn more(&mut self, clock: &mut BodyClock) -> Result<bool, ApiError> {
        while let Some(frame) = clock.wait(self.body.frame()).await? {
            let frame = frame.map_err(|e| ApiError::BodyBroken { reason: e.to_string() })?;
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                clock.receive(data.len());
                self.rest = data;
                return Ok(true);
            }
        }
        Ok(false)
    }
}
