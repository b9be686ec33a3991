//! Whether requests come to what they should.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;

/// Requests that fail one after another until the server says that it is not ready: fewer may be an accident.
const FAILURES: u32 = 5;

/// How long it says so after the last of them. Then a request is let in, for nothing else shows that the fault is over.
const REST: Duration = Duration::from_secs(30);

/// The failures since the last success. Those count that the server is to blame for (500). Refusals, deadlines and a lack
/// of memory do not: clients can bring them about, and must not be able to take a server out of service.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Failures>);

#[derive(Debug, Default)]
struct Failures {
    count: u32,
    last: Option<Instant>,
}

impl Health {
    /// A request was answered with this status.
    pub(crate) fn observe(&self, status: StatusCode) {
        self.observe_at(status, Instant::now());
    }

    /// Whether so many requests have failed that others should go elsewhere.
    pub(crate) fn is_failing(&self) -> bool {
        self.is_failing_at(Instant::now())
    }

    fn observe_at(&self, status: StatusCode, now: Instant) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match status {
            StatusCode::OK => *failures = Failures::default(),
            StatusCode::INTERNAL_SERVER_ERROR => {
                *failures = Failures { count: failures.count.saturating_add(1), last: Some(now) };
            }
            _ => {}
        }
    }

    fn is_failing_at(&self, now: Instant) -> bool {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.count >= FAILURES && failures.last.is_some_and(|last| now < last + REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_count_until_a_success_or_a_rest() {
        let (health, now) = (Health::default(), Instant::now());
        let fail = |times| (0..times).for_each(|_| health.observe_at(StatusCode::INTERNAL_SERVER_ERROR, now));
        fail(FAILURES - 1);
        assert!(!health.is_failing_at(now));
        for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::GATEWAY_TIMEOUT, StatusCode::INSUFFICIENT_STORAGE] {
            health.observe_at(status, now);
        }
        assert!(!health.is_failing_at(now), "none of these is the server's fault");
        fail(1);
        assert!(health.is_failing_at(now));
        assert!(!health.is_failing_at(now + REST), "it is tried again");
        health.observe_at(StatusCode::OK, now);
        assert!(!health.is_failing_at(now));
        fail(FAILURES - 1);
        assert!(!health.is_failing_at(now), "they count from the last success");
    }
}
