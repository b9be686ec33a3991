//! The three element types of weights and embeddings, and widening them to f32.

use std::str::FromStr;

use half::f16;
use rayon::prelude::*;

use crate::error::{Error, InputError};
use crate::memory;

/// An element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE 754 single precision.
    F32,
    /// The upper half of an F32.
    Bf16,
    /// IEEE 754 half precision.
    #[serde(rename = "fp16")]
    F16,
}

impl Dtype {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// The name in safetensors files.
    pub fn safetensors_name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
        }
    }

    /// The name in the Open Inference Protocol, which KServe and Triton speak.
    pub fn kserve_name(self) -> &'static str {
        match self {
            Self::F32 => "FP32",
            Self::Bf16 => "BF16",
            Self::F16 => "FP16",
        }
    }

    /// The element type of this name in the Open Inference Protocol. None where it is another.
    pub fn from_kserve_name(name: &str) -> Option<Self> {
        [Self::F32, Self::Bf16, Self::F16].into_iter().find(|dtype| dtype.kserve_name() == name)
    }

    /// Widens little-endian elements to f32, exactly. `out` has one value for each element of `bytes`.
    ///
    /// The bytes need no alignment: a safetensors file may place tensors anywhere.
    ///
    /// # Panics
    /// Where `bytes` has not as many elements as `out`.
    pub fn widen(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), out.len() * self.size(), "bytes and elements disagree");
        match self {
            Self::F32 => widen_each(bytes, out, f32::from_le_bytes),
            Self::Bf16 => widen_each(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
            Self::F16 => widen_each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        }
    }

    /// Rounds f32 values to this type, to nearest and ties to even: little-endian bytes, made by all threads.
    ///
    /// # Errors
    /// [`InputError::OutOfMemory`].
    pub fn try_narrowed(self, values: &[f32]) -> Result<Vec<u8>, Error> {
        // Pieces that fit the inner caches.
        const PIECE: usize = 1 << 14;
        let mut bytes = memory::zeroed(values.len().saturating_mul(self.size()))?;
        let pieces = bytes.par_chunks_mut(PIECE * self.size()).zip(values.par_chunks(PIECE));
        pieces.for_each(|(bytes, values)| self.narrow_into(values, bytes));
        Ok(bytes)
    }

    /// [`try_narrowed`](Self::try_narrowed), for values whose number is the caller's own.
    ///
    /// # Panics
    /// Where memory lacks.
    pub fn narrowed(self, values: &[f32]) -> Vec<u8> {
        self.try_narrowed(values).expect("memory for the narrowed values")
    }

    /// All of these little-endian elements as f32, as [`widen`](Self::widen) makes them.
    ///
    /// # Errors
    /// [`InputError::OutOfMemory`].
    ///
    /// # Panics
    /// Where `bytes` ends within an element.
    pub fn widened(self, bytes: &[u8]) -> Result<Vec<f32>, Error> {
        let mut values = memory::zeroed(bytes.len() / self.size())?;
        self.widen(bytes, &mut values);
        Ok(values)
    }

    /// Rounds likewise, on this thread. `out` has the bytes of as many elements as there are values.
    pub(crate) fn narrow_into(self, values: &[f32], out: &mut [u8]) {
        assert_eq!(out.len(), values.len() * self.size(), "bytes and elements disagree");
        match self {
            Self::F32 => narrow_each(values, out, f32::to_le_bytes),
            Self::Bf16 => narrow_each(values, out, |x| half::bf16::from_f32(x).to_le_bytes()),
            Self::F16 => narrow_each(values, out, |x| f16::from_f32(x).to_le_bytes()),
        }
    }
}

fn narrow_each<const SIZE: usize>(values: &[f32], bytes: &mut [u8], one: impl Fn(f32) -> [u8; SIZE]) {
    for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
        *bytes = one(*value);
    }
}

fn widen_each<const SIZE: usize>(bytes: &[u8], out: &mut [f32], one: impl Fn([u8; SIZE]) -> f32) {
    let (elements, _) = bytes.as_chunks::<SIZE>();
    for (out, element) in out.iter_mut().zip(elements) {
        *out = one(*element);
    }
}

impl FromStr for Dtype {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "f32" | "fp32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "fp16" | "f16" => Ok(Self::F16),
            _ => {
                let reason = "there are f32, bf16 and fp16";
                Err(InputError::Unavailable { option: "dtype", found: name.to_string(), reason }.into())
            }
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "fp16",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widening_inverts_narrowing_for_every_half() {
        for dtype in [Dtype::Bf16, Dtype::F16] {
            for bits in 0..=u16::MAX {
                let bytes = bits.to_le_bytes();
                let mut wide = [0.0];
                dtype.widen(&bytes, &mut wide);
                let back = dtype.narrowed(&wide);
                assert!(wide[0].is_nan() || back == bytes, "{dtype} {bits:04x} came back as {back:02x?}");
            }
        }
    }

    #[test]
    fn all_threads_round_as_one() {
        let values: Vec<f32> = (0..100_003).map(|i| (i as f32 * 0.37).sin() * 1e3).collect();
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            let mut one_by_one = vec![0; values.len() * dtype.size()];
            let places = one_by_one.chunks_exact_mut(dtype.size());
            places.zip(&values).for_each(|(bytes, value)| dtype.narrow_into(&[*value], bytes));
            assert!(dtype.narrowed(&values) == one_by_one, "{dtype}");
        }
    }

    #[test]
    fn widening_takes_unaligned_bytes() {
        let mut bytes = vec![0xff];
        bytes.extend_from_slice(&1.5f32.to_le_bytes());
        let mut wide = [0.0];
        Dtype::F32.widen(&bytes[1..], &mut wide);
        assert_eq!(wide, [1.5]);
    }
}
