//! The comparer that golden tests trust; `tests/encoder/comparer.rs` tests it.

use std::fmt;

/// How far a result is from the reference.
#[derive(Clone, Copy)]
pub struct Difference {
    /// max |a−b| / max |b|; infinite where either holds something that is not a number.
    pub max: f64,
    /// ‖a−b‖ / ‖b‖.
    pub frobenius: f64,
    /// Where |a−b| is largest, and the two values.
    pub worst: (usize, f64, f64),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, found, expected) = self.worst;
        write!(f, "{:.3e} of the largest value, {:.3e} of the norm; ", self.max, self.frobenius)?;
        write!(f, "worst at {index}: {found:e} for {expected:e}")
    }
}

/// Compares a result with the reference. Panics where the lengths differ or the reference is all zeros: neither can
/// be compared.
pub fn difference(result: &[f32], reference: &[f64]) -> Difference {
    assert_eq!(result.len(), reference.len(), "lengths differ");
    let largest = reference.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    assert!(largest > 0.0, "the reference is all zeros");
    let (mut worst, mut squares, mut all) = ((0, 0.0, 0.0), 0.0, 0.0);
    let mut max = -1.0;
    for (index, (a, b)) in result.iter().zip(reference).enumerate() {
        let a = f64::from(*a);
        let off = if (a - b).is_nan() { f64::INFINITY } else { (a - b).abs() };
        if off > max {
            (max, worst) = (off, (index, a, *b));
        }
        squares += off * off;
        all += b * b;
    }
    Difference { max: max / largest, frobenius: (squares / all).sqrt(), worst }
}
