//! How long steps take, where somebody has timed them.

use serde::Serialize;

use super::Form;

/// Seconds of a launch over several rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The round in the middle.
    pub median: f64,
    /// The fastest round.
    pub least: f64,
    /// The slowest round.
    pub most: f64,
    /// How many there were.
    pub rounds: usize,
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
