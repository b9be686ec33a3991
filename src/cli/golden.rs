//! Golden cases: small encoders with their inputs, what the reference computes in float64, and how far torch itself is
//! from that in each element type.

use std::path::{Path, PathBuf};

use safetensors::{Dtype as Stored, SafeTensors};

use super::pixels::PixelFile;
use crate::dtype::Dtype;
use crate::encoder::{Device, Encoder, Kernels};
use crate::error::{CheckpointError, Error, InputError, Result};
use crate::plan::Semantics;

/// The most that float32 may be off float64, as max |a−b| / max |b|: every known wrong variant of the model is above it,
/// and torchtune itself stays below 1.1e-6.
const F32_LIMIT: f64 = 3e-6;

/// The folder's list of cases with torch's own errors.
const ERRORS: &str = "torch_errors.json";

/// Where golden data lies, unless said otherwise: beside the program, or where a checkout has it.
pub(super) fn default_folder() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join("golden")));
    let candidates = beside.into_iter().chain([PathBuf::from("tests/golden")]);
    candidates.into_iter().find(|folder| folder.join(ERRORS).is_file())
}

/// The cases of one encoder in one semantics. Their errors count together: a case of a few dozen values by itself is one
/// draw of its roundings, and torch's own error on such cases varies by a quarter.
pub(super) struct GoldenSet {
    /// `tiny, torchtune`.
    pub(super) name: String,
    folder: PathBuf,
    semantics: Semantics,
    cases: Vec<GoldenCase>,
}

struct GoldenCase {
    path: PathBuf,
    /// Torch's error in bf16 and in fp16, in the Frobenius norm.
    torch: [f64; 2],
}

/// How far an encoder is from its references.
#[derive(Debug, Clone, Copy)]
pub(super) struct GoldenFinding {
    pub(super) error: f64,
    pub(super) limit: f64,
}

/// The sets of a folder: cases whose encoder and tensors stand in its files as they are: `SET/model.safetensors`,
/// `SET/config.json`, and `images`, `aspect_ratio` and `out_f64` in `SET/CASE.safetensors`.
///
/// # Errors
/// [`Error::Io`]; [`CheckpointError::Damaged`] where the list cannot be read.
pub(super) fn sets(folder: &Path) -> Result<Vec<GoldenSet>> {
    let list = folder.join(ERRORS);
    let text = std::fs::read_to_string(&list).map_err(Error::io(&list))?;
    let damaged = |reason: &str| CheckpointError::Damaged { path: list.clone(), reason: reason.to_string() };
    let errors: serde_json::Value = serde_json::from_str(&text).map_err(|e| damaged(&e.to_string()))?;
    let errors = errors["cases"].as_object().ok_or_else(|| damaged("it has no cases"))?;
    let mut sets: Vec<GoldenSet> = Vec::new();
    for (name, errors) in errors {
        let (set, file) = name.rsplit_once('/').ok_or_else(|| damaged("a case is named SET/CASE"))?;
        let (folder, path) = (folder.join(set), folder.join(format!("{name}.safetensors")));
        if !folder.join("model.safetensors").is_file() || !path.is_file() {
            continue;
        }
        let torch = |dtype: &str| errors[dtype]["frobenius"].as_f64().ok_or_else(|| damaged("a case lacks an error"));
        let meta = file.starts_with("meta") || set.starts_with("hf_");
        let semantics = if meta { Semantics::Meta } else { Semantics::Torchtune };
        let case = GoldenCase { path, torch: [torch("bfloat16")?, torch("float16")?] };
        let name = format!("{set}, {semantics}");
        match sets.iter_mut().find(|set| set.name == name) {
            Some(set) => set.cases.push(case),
            None => sets.push(GoldenSet { name, folder, semantics, cases: vec![case] }),
        }
    }
    Ok(sets)
}

impl GoldenSet {
    /// Encodes the cases and compares.
    ///
    /// # Errors
    /// Whatever keeps the encoder from being made or from running.
    pub(super) fn run(&self, device: &Device, dtype: Dtype, kernels: Kernels) -> Result<GoldenFinding> {
        let builder = Encoder::builder().model(&self.folder).semantics(self.semantics);
        let mut encoder = builder.device(device.clone()).dtype(dtype).kernels(kernels).build()?;
        let (mut largest, mut squares) = ([0.0f64; 2], [0.0; 3]);
        for case in &self.cases {
            let found = encoder.encode_pixels(&PixelFile::read(&case.path)?.pixels())?;
            let reference = case.reference()?;
            if reference.len() != found.embeddings.len() {
                let expected = format!("{:?}", found.shape);
                return Err(InputError::Shape { tensor: "out_f64", expected, found: vec![reference.len()] }.into());
            }
            let (mut off, mut all) = (0.0, 0.0);
            for (found, reference) in found.embeddings.iter().zip(&reference) {
                let difference = f64::from(*found) - reference;
                largest = [largest[0].max(difference.abs()), largest[1].max(reference.abs())];
                off += difference * difference;
                all += reference * reference;
            }
            let torch = case.torch[usize::from(dtype == Dtype::F16)];
            squares = [squares[0] + off, squares[1] + torch * torch * all, squares[2] + all];
        }
        Ok(match dtype {
            Dtype::F32 => GoldenFinding { error: largest[0] / largest[1], limit: F32_LIMIT },
            Dtype::Bf16 | Dtype::F16 => {
                let [error, limit] = [squares[0], squares[1]].map(|square| (square / squares[2]).sqrt());
                GoldenFinding { error, limit }
            }
        })
    }
}

impl GoldenCase {
    fn reference(&self) -> Result<Vec<f64>> {
        let bytes = std::fs::read(&self.path).map_err(Error::io(&self.path))?;
        let damaged = |reason: String| CheckpointError::Damaged { path: self.path.clone(), reason };
        let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
        let tensor = file.tensor("out_f64").map_err(|e| damaged(e.to_string()))?;
        if tensor.dtype() != Stored::F64 {
            return Err(damaged(format!("out_f64 is {:?}, not F64", tensor.dtype())).into());
        }
        Ok(tensor.data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect())
    }
}
