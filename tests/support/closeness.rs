//! The assertion that a result is within a limit of its reference.

use crate::difference::difference;

/// The limit of float32 against float64, as max |a−b| / max |b|: every known wrong variant is above it, and torchtune
/// itself stays below 1.1e-6.
pub const F32_LIMIT: f64 = 3e-6;

/// Fails unless `result` is within `limit` of `reference`.
#[track_caller]
pub fn assert_close(what: &str, result: &[f32], reference: &[f64], limit: f64) {
    let found = difference(result, reference);
    assert!(found.max <= limit, "{what}: beyond {limit:e}: {found}");
}
