//! What the tests share: golden files, and the comparer.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use safetensors::{Dtype, SafeTensors};
use tilesight::encoder::{Device, EncoderBuilder};
use tilesight::error::ConfigError;
use tilesight::plan::Plan;
use tilesight::{Encoder, EncoderConfig, Error, Pixels};

/// The limit of float32 against float64, as max |a−b| / max |b|: every known wrong variant is above it, and torchtune
/// itself stays below 1.1e-6.
pub const F32_LIMIT: f64 = 3e-6;

/// A folder of golden data.
pub fn golden(set: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(set)
}

/// An encoder on the CPU, also where there is a GPU.
pub fn on_cpu() -> EncoderBuilder {
    Encoder::builder().device(Device::Cpu)
}

/// The golden set `tiny`, as its README has it.
pub fn tiny_config() -> EncoderConfig {
    EncoderConfig {
        patch_size: 14,
        num_heads: 2,
        clip_embed_dim: 160,
        clip_num_layers: 3,
        clip_hidden_states: vec![0, 2],
        num_layers_projection: 2,
        decoder_embed_dim: 96,
        tile_size: 28,
        max_num_tiles: 4,
        in_channels: 3,
    }
}

/// What is wrong with a configuration, where something is.
#[track_caller]
pub fn config_refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> ConfigError {
    match result {
        Err(Error::Config(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// A tensor of a golden file, its values widened to f64.
#[derive(Clone)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Tensor {
    pub fn f32(&self) -> Vec<f32> {
        self.values.iter().map(|x| *x as f32).collect()
    }

    pub fn i64(&self) -> Vec<i64> {
        self.values.iter().map(|x| *x as i64).collect()
    }
}

/// Every tensor of a safetensors file.
pub fn read(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let widen = |name: &str| {
        let view = file.tensor(name).unwrap();
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            Dtype::F32 => data.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            Dtype::I64 => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
            Dtype::U8 => data.iter().map(|b| f64::from(*b)).collect(),
            Dtype::BF16 => data.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f64()).collect(),
            other => panic!("{name} is {other:?}"),
        };
        Tensor { shape: view.shape().to_vec(), values }
    };
    file.names().into_iter().map(|name| (name.to_string(), widen(name))).collect()
}

/// How far a result is from the reference.
#[derive(Debug, Clone, Copy)]
pub struct Difference {
    /// max |a−b| / max |b|; infinite where either holds something that is not a number.
    pub max: f64,
    /// ‖a−b‖ / ‖b‖.
    pub frobenius: f64,
    /// Where |a−b| is largest, and the two values.
    pub worst: (usize, f64, f64),
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

/// Fails unless `result` is within `limit` of `reference`.
#[track_caller]
pub fn assert_close(what: &str, result: &[f32], reference: &[f64], limit: f64) {
    let found = difference(result, reference);
    assert!(found.max <= limit, "{what}: {found:?} is beyond {limit:e}");
}

/// The pixel tensor of a golden case.
pub struct Case {
    pub tensors: BTreeMap<String, Tensor>,
    images: Vec<f32>,
    shape: [usize; 6],
    aspect_ratio: Option<Vec<[i64; 2]>>,
}

impl Case {
    pub fn read(path: &Path) -> Self {
        let tensors = read(path);
        let images = &tensors["images"];
        let aspect_ratio = tensors.get("aspect_ratio").map(|t| t.i64().as_chunks().0.to_vec());
        Self { images: images.f32(), shape: images.shape.clone().try_into().unwrap(), aspect_ratio, tensors }
    }

    pub fn new(images: Vec<f32>, shape: [usize; 6], aspect_ratio: Option<Vec<[i64; 2]>>) -> Self {
        Self { tensors: BTreeMap::new(), images, shape, aspect_ratio }
    }

    pub fn pixels(&self) -> Pixels<'_> {
        Pixels { images: &self.images, shape: self.shape, aspect_ratio: self.aspect_ratio.as_deref() }
    }
}

/// Values between -2 and 2, the same for the same seed: SplitMix64.
pub fn noise(len: usize, seed: u64) -> Vec<f32> {
    let value = |index: usize| {
        let mut bits = (seed << 32).wrapping_add(index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits >> 40) as f32 / (1u32 << 22) as f32 - 2.0
    };
    (0..len).map(value).collect()
}

/// What every step of the last plan wrote, by the step's name.
#[derive(Default)]
pub struct Trace {
    pub plan: Option<Plan>,
    pub steps: BTreeMap<String, Vec<f32>>,
}

/// Has an encoder keep what its steps write.
pub fn trace(encoder: &mut Encoder) -> Arc<Mutex<Trace>> {
    let trace = Arc::new(Mutex::new(Trace::default()));
    let kept = trace.clone();
    encoder.observe(move |output| {
        let mut kept = kept.lock().unwrap();
        kept.steps.insert(output.step.name.clone(), output.values.to_vec());
        kept.plan = Some(output.plan.clone());
    });
    trace
}
