//! The protocols of listeners.

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    /// Without TLS, from the first byte on. A connection has so many requests at once; more of them wait.
    Http2 {
        max_concurrent_streams: u32,
    },
}

impl Protocol {
    pub(crate) fn is_http2(self) -> bool {
        matches!(self, Self::Http2 { .. })
    }
}
