//! The golden data of the picture tests, which `tests/golden/make_images.py` wrote.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use crate::golden_data::golden;

/// The small pictures of every kind, in the order of their names.
pub fn files_to_decode() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(golden("images/decode"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// A safetensors file of expected values.
pub struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    /// A file of `tests/golden/images`.
    pub fn read(name: &str) -> Self {
        Self::read_from(&golden("images").join(name))
    }

    pub fn read_from(path: &Path) -> Self {
        Self { bytes: std::fs::read(path).unwrap() }
    }

    pub fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.bytes).unwrap().tensor(name).is_ok()
    }

    pub fn u8(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        self.values(name, Dtype::U8, |[value]: [u8; 1]| value)
    }

    pub fn u16(&self, name: &str) -> (Vec<usize>, Vec<u16>) {
        self.values(name, Dtype::U16, u16::from_le_bytes)
    }

    pub fn i32(&self, name: &str) -> (Vec<usize>, Vec<i32>) {
        self.values(name, Dtype::I32, i32::from_le_bytes)
    }

    pub fn i64(&self, name: &str) -> (Vec<usize>, Vec<i64>) {
        self.values(name, Dtype::I64, i64::from_le_bytes)
    }

    pub fn f32(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        self.values(name, Dtype::F32, f32::from_le_bytes)
    }

    pub fn bf16(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        self.values(name, Dtype::BF16, |bytes| half::bf16::from_le_bytes(bytes).to_f32())
    }

    fn values<const N: usize, T>(&self, name: &str, dtype: Dtype, read: impl Fn([u8; N]) -> T) -> (Vec<usize>, Vec<T>) {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(tensor.dtype(), dtype, "{name}");
        (tensor.shape().to_vec(), tensor.data().as_chunks::<N>().0.iter().map(|&bytes| read(bytes)).collect())
    }
}

/// A picture of slopes, stripes and noise, `[height, width, 3]`: `picture` of the Python script.
pub fn picture(height: usize, width: usize) -> Vec<u8> {
    let mut levels = Vec::with_capacity(height * width * 3);
    for y in 0..height {
        for x in 0..width {
            for c in 0..3 {
                let mut hash = ((x * 2654435761 + y * 40503 + c * 9973) % (1 << 32)) as u32;
                hash = (hash ^ (hash >> 15)).wrapping_mul(2246822519);
                let stripes = (x / 5 + y / 7) % 2 * 90;
                levels.push((x * 3 + y * 2 + c * 40 + stripes + (hash >> 24) as usize / 4) as u8);
            }
        }
    }
    levels
}

/// Numbers without a pattern, the same every time.
pub fn seeded_numbers(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed.wrapping_mul(0x9e3779b97f4a7c15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545f4914f6cdd1d)
    })
}
