//! Frames of HTTP/2 that ask for nothing but an answer of the connection itself: PING, SETTINGS, and PRIORITY, which does not
//! even get that. h2 answers as many as come; of resets, of headers that go on, and of DATA frames with little or nothing in
//! them it has limits of its own, and ends the connection with ENHANCE_YOUR_CALM.
//!
//! The rule is gRPC's of too many pings: one that comes too soon after the one before is a strike, strikes are forgotten when
//! there is a request or an answer, and after some of them the connection ends.
//!
//! Reference: <https://github.com/grpc/proposal/blob/master/A8-client-side-keepalive.md>,
//! <https://www.rfc-editor.org/rfc/rfc9113#section-4.1>.

use std::time::Duration;

use tokio::time::Instant;

/// Frames further apart than this are no strike; gRPC's clients ping every ten seconds at most, or once for an answer.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// A client that measures its bandwidth may have some pings under way behind one answer.
const MAX_STRIKES: u32 = 32;

const PREFACE_LEN: usize = 24;
const HEAD_LEN: usize = 9;

const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

/// Counts the needless frames of one connection.
pub(super) struct Pings {
    /// Bytes to come of the preface or of a payload.
    skip: usize,
    /// The beginning of a frame's head.
    head: [u8; HEAD_LEN],
    head_len: usize,
    last: Option<Instant>,
    strikes: u32,
    /// The connection's progress at the last strike.
    progress: u64,
}

impl Pings {
    pub(super) fn new() -> Self {
        Self { skip: PREFACE_LEN, head: [0; HEAD_LEN], head_len: 0, last: None, strikes: 0, progress: 0 }
    }

    /// Looks at what was read; whether there are too many now. `progress` changes with every request and every piece of an
    /// answer.
    pub(super) fn are_too_many(&mut self, mut bytes: &[u8], now: Instant, progress: u64) -> bool {
        if progress != self.progress {
            (self.progress, self.strikes) = (progress, 0);
        }
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEAD_LEN - self.head_len).min(bytes.len());
            self.head[self.head_len..][..taken].copy_from_slice(&bytes[..taken]);
            self.head_len += taken;
            bytes = &bytes[taken..];
            if self.head_len == HEAD_LEN {
                let [a, b, c, kind, ..] = self.head;
                (self.head_len, self.skip) = (0, u32::from_be_bytes([0, a, b, c]) as usize);
                if matches!(kind, PRIORITY | SETTINGS | PING) {
                    self.count(now);
                }
            }
        }
        self.strikes > MAX_STRIKES
    }

    fn count(&mut self, now: Instant) {
        if self.last.is_some_and(|last| now - last < MIN_INTERVAL) {
            self.strikes = self.strikes.saturating_add(1);
        }
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, len: usize) -> Vec<u8> {
        let mut bytes = (len as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, 0, 0, 0, 0, 0]);
        // A payload that looks like pings.
        bytes.extend([0, 0, 0, PING, 0, 0, 0, 0, 0].iter().cycle().take(len));
        bytes
    }

    /// Whether a conversation ends as a flood, read in pieces of this size.
    fn is_flood(frames: &[Vec<u8>], piece: usize, interval: Duration) -> bool {
        let bytes = [vec![PING; PREFACE_LEN], frames.concat()].concat();
        let (mut pings, mut now) = (Pings::new(), Instant::now());
        let mut read = |piece: &[u8]| {
            now += interval;
            pings.are_too_many(piece, now, 0)
        };
        bytes.chunks(piece).any(&mut read)
    }

    #[test]
    fn frames_are_counted_however_they_come() {
        let strikes = MAX_STRIKES as usize;
        for piece in [1, 2, 9, 17, 40, 1 << 20] {
            for kind in [PRIORITY, SETTINGS, PING] {
                let flood = vec![frame(kind, 8); strikes + 2];
                assert!(is_flood(&flood, piece, Duration::ZERO), "kind {kind} in pieces of {piece}");
                assert!(!is_flood(&flood[1..], piece, Duration::ZERO), "kind {kind} in pieces of {piece}");
            }
            let others = vec![[frame(0, 9 * strikes), frame(1, 900), frame(8, 4), frame(3, 4)].concat(); strikes];
            assert!(!is_flood(&others, piece, Duration::ZERO), "pieces of {piece}");
        }
    }

    #[test]
    fn pings_with_time_or_requests_between_them_are_none() {
        let pings = vec![frame(PING, 8); 1000];
        assert!(!is_flood(&pings, 17, MIN_INTERVAL));
        assert!(is_flood(&pings, 17, MIN_INTERVAL / 2));
        let (mut counted, now) = (Pings::new(), Instant::now());
        counted.skip = 0;
        for (progress, ping) in pings.chunks(30).enumerate() {
            assert!(!counted.are_too_many(&ping.concat(), now, progress as u64));
        }
    }
}
