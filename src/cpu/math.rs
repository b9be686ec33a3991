//! The two transcendental functions of the encoder, in f32 and without branches, so that loops over them vectorise.
//!
//! Coefficients are minimax fits made for this file; the tests hold them against float64. Loops that use them run
//! through `pulp`, which compiles them once for each instruction set and picks at run time; it reaches only what is
//! inlined into a `WithSimd`, which a closure need not be.

use std::f32::consts::LOG2_E;

use pulp::{Simd, WithSimd};

/// eˣ for x ≤ 0, relative error below 2e-7; arguments under −87 give e⁻⁸⁷, which is zero next to any sum of weights.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5·2²³ leaves the rounded integer in the low bits of the mantissa.
    const MAGIC: f32 = 12_582_912.0;
    // ln 2 in two parts, the first short enough that its product with any exponent is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.max(-87.0);
    let shifted = x.mul_add(LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let p = 0.001_393_365_2_f32;
    let p = p.mul_add(r, 0.008_363_182);
    let p = p.mul_add(r, 0.041_666_467);
    let p = p.mul_add(r, 0.166_665_76);
    let p = p.mul_add(r, 0.5);
    let fraction = p.mul_add(r * r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    fraction * power
}

/// x·Φ(x), the exact (erf) form of GELU; error below 1.2e-7·|x|.
///
/// Φ(−|x|) = ½·erfc(|x|/√2) = ½·exp(−|x|·Q(|x|)) with Q a polynomial, so the negative tail keeps its relative accuracy
/// where 1 + erf would cancel. Q is fitted on 0…6; beyond, Φ(−|x|) is below 1e-9 and stays so.
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    let a = x.abs();
    let z = a.min(6.0);
    let q = -2.493_718_8e-9_f32;
    let q = q.mul_add(z, 8.721_856e-8);
    let q = q.mul_add(z, -1.357_359_9e-6);
    let q = q.mul_add(z, 1.232_429_2e-5);
    let q = q.mul_add(z, -7.042_802_5e-5);
    let q = q.mul_add(z, 2.330_598e-4);
    let q = q.mul_add(z, -5.290_803e-5);
    let q = q.mul_add(z, -4.774_588e-3);
    let q = q.mul_add(z, 3.633_358e-2);
    let q = q.mul_add(z, 3.183_101_4e-1);
    let q = q.mul_add(z, 7.978_845e-1);
    let tail = 0.5 * exp(-a * q);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// `gelu(x + bias)` of a row in place; run it through `Arch::dispatch`.
pub(super) struct BiasGelu<'a> {
    pub(super) row: &'a mut [f32],
    pub(super) bias: &'a [f32],
}

impl WithSimd for BiasGelu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (x, bias) in self.row.iter_mut().zip(self.bias) {
            *x = gelu(*x + bias);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        for i in 0..=870_000 {
            let x = -i as f32 * 1e-4;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 2e-7, "exp({x}) is off by {error:e}");
        }
        assert!(exp(-1e30) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn gelu_is_the_erf_form() {
        for i in -120_000..=120_000 {
            let x = i as f32 * 1e-4;
            let wide = f64::from(x);
            let expected = 0.5 * wide * libm::erfc(-wide / std::f64::consts::SQRT_2);
            let error = (f64::from(gelu(x)) - expected).abs();
            assert!(error <= 1.2e-7 * wide.abs(), "gelu({x}) is off by {error:e}");
        }
    }
}
