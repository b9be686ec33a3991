//! Every kernel against float64, on the shapes that break kernels: one row, one key, rows and widths that fill no tile,
//! outliers, poisoned surroundings.

mod bench;
mod bias_activation;
mod flash_attention;
mod gated_residual;
mod gather_rows;
mod layer_norm;
mod layer_norm_linear;
mod linear;
mod linear_residual;
mod measure;
mod patch_embedding;
mod patchify;
mod place_weight;
mod projection;
mod scatter_embeddings;
mod tile_norm;
mod tile_position;

use crate::dtype::Dtype;
use crate::error::CudaError;
use crate::plan::Form;

use super::driver::{Context, Stream};
use super::ops::{Kernels, tilings};
pub(crate) use bench::{Bench, DeviceMatrix};
pub(crate) use measure::{Draw, relative_error, rounded, rounding_error};

/// What a case does on a GPU.
type Run = dyn Fn(&Bench) -> Result<Finding, CudaError>;

/// One kernel on one shape.
pub(crate) struct Case {
    /// The kernel's name.
    pub(crate) kernel: &'static str,
    /// The shape, and what is odd about it.
    pub(crate) shape: String,
    /// Runs it.
    pub(crate) run: Box<Run>,
}

/// How far a kernel's result is from float64.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Finding {
    /// ‖found − expected‖ / ‖expected‖; NaN where something was not written, or was written that must not be.
    pub(crate) error: f64,
    /// The most it may be.
    pub(crate) limit: f64,
}

/// The cases of all kernels of a form for an element type; those of the portable form include what all forms share, and
/// the baseline's.
fn cases(dtype: Dtype, form: Form) -> Vec<Case> {
    let products =
        [patch_embedding::cases, layer_norm_linear::cases, linear_residual::cases, projection::cases].into_iter();
    let products = products.flat_map(|cases| cases(dtype, form)).map(|case| in_all_tilings(case, form));
    let shared = [
        place_weight::cases as fn(Dtype) -> Vec<Case>,
        patchify::cases,
        tile_position::cases,
        tile_norm::cases,
        layer_norm::cases,
        bias_activation::cases,
        gated_residual::cases,
        gather_rows::cases,
        scatter_embeddings::cases,
    ];
    let shared = shared.into_iter().filter(|_| form == Form::Portable);
    let attention = flash_attention::cases(dtype, form);
    products.chain(attention).chain(shared.flat_map(|cases| cases(dtype))).collect()
}

/// The case in every tiling of a product: the largest error, and NaN where two tilings give different bits.
fn in_all_tilings(case: Case, form: Form) -> Case {
    let Case { kernel, shape, run } = case;
    let run = Box::new(move |bench: &Bench| {
        let of = |tiling: usize| {
            let bench = bench.in_tiling(tiling);
            run(&bench).map(|finding| (finding, bench.seen()))
        };
        let (mut worst, bits) = of(0)?;
        for tiling in 1..tilings(form).len() {
            let (Finding { error, limit }, other) = of(tiling)?;
            let is_worse = error.is_nan() || error > worst.error;
            worst = if is_worse { Finding { error, limit } } else { worst };
            worst.error = if other == bits { worst.error } else { f64::NAN };
        }
        Ok(worst)
    });
    Case { kernel, shape, run }
}

/// How many cases there are.
pub(crate) fn num_cases(dtype: Dtype, form: Form) -> usize {
    cases(dtype, form).len()
}

/// GPU number `ordinal`, for people.
pub(crate) fn describe(ordinal: usize) -> Result<String, CudaError> {
    let context = Context::new(ordinal)?;
    let model = context.model();
    let (major, minor) = model.capability;
    Ok(format!("cuda:{ordinal} ({}, compute capability {major}.{minor})", model.name))
}

/// Runs every kernel's cases for `dtype` in `form` on GPU number `ordinal`. Hands each finding over as it comes: the kernel,
/// the shape, and how far the result is from float64 with the most it may be.
pub(crate) fn run(
    ordinal: usize,
    dtype: Dtype,
    form: Form,
    mut found: impl FnMut(&str, &str, Result<(f64, f64), CudaError>),
) -> Result<(), CudaError> {
    let context = Context::new(ordinal)?;
    let stream = Stream::new(&context)?;
    let kernels = Kernels::load(&context, dtype, form)?;
    let bench = Bench::new(&context, &kernels, &stream);
    for case in cases(dtype, form) {
        let finding = (case.run)(&bench).map(|finding| (finding.error, finding.limit));
        found(case.kernel, &case.shape, finding);
    }
    Ok(())
}
