//! How long an encode and its steps take, where somebody has timed them.

use std::time::Duration;

use serde::Serialize;

use super::{Form, Plan};

/// Where the time of an encode went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// On the CPU, and step by step for an observer.
    Host {
        /// All of it.
        compute: Duration,
    },
    /// On a GPU. Times of several batches are added up, though their ways overlap.
    Gpu {
        /// From the first piece of the pixels to the last one's arrival, by the GPU's events.
        h2d: Duration,
        /// The kernels, by the GPU's events.
        compute: Duration,
        /// The results' way back by the GPU's events, and their widening to f32 by the host's clock.
        d2h: Duration,
    },
}

/// How something that was measured, such as the seconds of a launch, varies over several rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The round in the middle.
    pub median: f64,
    /// The least of a round.
    pub least: f64,
    /// The most of a round.
    pub most: f64,
    /// How many there were.
    pub rounds: usize,
}

impl Spread {
    /// Over one value a round; none of no rounds. The median of an even number is the mean of the two in the middle.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let [lower, upper] = [(values.len() - 1) / 2, values.len() / 2].map(|middle| values[middle]);
        Some(Self { median: lower.midpoint(upper), least, most, rounds: values.len() })
    }
}

/// One kind of step in one form and tiling.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepTiming {
    /// The step's name without its layer's number: `transformer.qkv`.
    pub step: String,
    /// The form of its kernel; none where all forms share one.
    pub form: Option<Form>,
    /// The tiling; none where there is nothing to choose.
    pub tiling: Option<&'static str>,
    /// Whether it is the matrix product alone, by the best of cuBLASLt's algorithms, with nothing before or after.
    pub bare_product: bool,
    /// Floating-point operations of a launch.
    pub flops: u64,
    /// Bytes that a launch must move.
    pub bytes: u64,
    /// None where launches were not timed.
    pub seconds: Option<Spread>,
}

/// A step of one walk over a plan.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepSpan {
    /// Seconds from the start of the walk to its own.
    pub start: f64,
    /// Seconds that it took.
    pub seconds: f64,
}

/// Walks over one plan, step by step.
#[derive(Debug, Clone, Serialize)]
pub struct Profile {
    /// What was walked.
    pub plan: Plan,
    /// For each walk, its steps in the plan's order.
    pub rounds: Vec<Vec<StepSpan>>,
}

/// What a device does in a second at best, measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Peak {
    /// FLOPs of a large matrix product, in the element type that the encoder multiplies; none where no library for it is
    /// there.
    pub flops: Option<f64>,
    /// Bytes that a large copy reads and writes.
    pub bytes: f64,
}

impl Peak {
    /// Seconds that so many FLOPs and bytes take at least; without FLOPs' rate, what the bytes take.
    pub fn seconds(&self, flops: u64, bytes: u64) -> f64 {
        let product = self.flops.map_or(0.0, |rate| flops as f64 / rate);
        product.max(bytes as f64 / self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_its_middle_and_both_ends() {
        let of = |values: &[f64]| Spread::of(values.to_vec()).map(|s| [s.least, s.median, s.most]);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[2.0]), Some([2.0, 2.0, 2.0]));
        assert_eq!(of(&[4.0, 1.0]), Some([1.0, 2.5, 4.0]));
        assert_eq!(of(&[9.0, 1.0, 2.0]), Some([1.0, 2.0, 9.0]));
    }
}
