//! The two transcendental functions of the encoder, in f32 and without branches, on vectors.
//!
//! Coefficients are minimax fits made for this file; the tests hold them against float64. What uses them runs through `pulp`,
//! which compiles it once for each instruction set and picks at run time; it reaches only what is inlined into a `WithSimd`,
//! which a closure need not be.

use std::f32::consts::LOG2_E;

use pulp::{Simd, WithSimd};

/// p·x + the next coefficient, for each of them, from p = 0.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::f32s, coefficients: [f32; N]) -> S::f32s {
    let add = |sum, coefficient| simd.mul_add_f32s(sum, x, simd.splat_f32s(coefficient));
    coefficients[1..].iter().copied().fold(simd.splat_f32s(coefficients[0]), add)
}

/// eˣ for x ≤ 0, relative error below 2e-7; arguments under −87 give e⁻⁸⁷, which is zero next to any sum of weights.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Adding 1.5·2²³ leaves the rounded integer in the low bits of the mantissa.
    const MAGIC: f32 = 12_582_912.0;
    // ln 2 in two parts, the first short enough that its product with any exponent is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = simd.max_f32s(x, simd.splat_f32s(-87.0));
    let shifted = simd.mul_add_f32s(x, simd.splat_f32s(LOG2_E), simd.splat_f32s(MAGIC));
    let n = simd.sub_f32s(shifted, simd.splat_f32s(MAGIC));
    let r = simd.mul_add_f32s(n, simd.splat_f32s(-LN2_HIGH), x);
    let r = simd.mul_add_f32s(n, simd.splat_f32s(-LN2_LOW), r);
    let p = polynomial(simd, r, [0.001_393_365_2, 0.008_363_182, 0.041_666_467, 0.166_665_76, 0.5]);
    let fraction = simd.add_f32s(simd.mul_add_f32s(p, simd.mul_f32s(r, r), r), simd.splat_f32s(1.0));
    let exponent = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let power = simd.transmute_f32s_u32s(simd.add_u32s(exponent, simd.splat_u32s(0x3f80_0000)));
    simd.mul_f32s(fraction, power)
}

/// x·Φ(x), the exact (erf) form of GELU; error below 1.2e-7·|x|.
///
/// Φ(−|x|) = ½·erfc(|x|/√2) = ½·exp(−|x|·Q(|x|)) with Q a polynomial, so the negative tail keeps its relative accuracy
/// where 1 + erf would cancel. Q is fitted on 0…6; beyond, Φ(−|x|) is below 1e-9 and stays so.
#[inline(always)]
fn gelu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    #[rustfmt::skip]
    const Q: [f32; 11] = [
        -2.493_718_8e-9, 8.721_856e-8, -1.357_359_9e-6, 1.232_429_2e-5, -7.042_802_5e-5, 2.330_598e-4,
        -5.290_803e-5, -4.774_588e-3, 3.633_358e-2, 3.183_101_4e-1, 7.978_845e-1,
    ];
    let a = simd.abs_f32s(x);
    let q = polynomial(simd, simd.min_f32s(a, simd.splat_f32s(6.0)), Q);
    let tail = simd.mul_f32s(simd.splat_f32s(0.5), exp(simd, simd.neg_f32s(simd.mul_f32s(a, q))));
    let is_negative = simd.less_than_f32s(x, simd.splat_f32s(0.0));
    simd.mul_f32s(x, simd.select_f32s(is_negative, tail, simd.sub_f32s(simd.splat_f32s(1.0), tail)))
}

/// `gelu(x + bias)` of a row in place; run it through `Arch::dispatch`.
pub(super) struct BiasGelu<'a> {
    pub(super) row: &'a mut [f32],
    pub(super) bias: &'a [f32],
}

impl WithSimd for BiasGelu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (row, last) = S::as_mut_simd_f32s(self.row);
        let (bias, last_bias) = S::as_simd_f32s(self.bias);
        for (x, bias) in row.iter_mut().zip(bias) {
            *x = gelu(simd, simd.add_f32s(*x, *bias));
        }
        let x = simd.add_f32s(simd.partial_load_f32s(last), simd.partial_load_f32s(last_bias));
        simd.partial_store_f32s(last, gelu(simd, x));
    }
}

#[cfg(test)]
mod tests {
    use pulp::Arch;

    use super::*;

    /// [`exp`] of every number, on this CPU's vectors.
    struct Exp<'a>(&'a mut [f32]);

    impl WithSimd for Exp<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let (vectors, rest) = S::as_mut_simd_f32s(self.0);
            vectors.iter_mut().for_each(|x| *x = exp(simd, *x));
            simd.partial_store_f32s(rest, exp(simd, simd.partial_load_f32s(rest)));
        }
    }

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        let arguments: Vec<f32> = (0..=870_000).map(|i| -i as f32 * 1e-4).collect();
        let mut results = arguments.clone();
        Arch::new().dispatch(Exp(&mut results));
        for (x, result) in arguments.iter().zip(&results) {
            let expected = f64::from(*x).exp();
            let error = (f64::from(*result) - expected).abs() / expected;
            assert!(error < 2e-7, "exp({x}) is off by {error:e}");
        }
        let mut least = [-1e30, f32::NEG_INFINITY, -87.1];
        Arch::new().dispatch(Exp(&mut least));
        assert!(least.iter().all(|result| (0.0..1e-37).contains(result)), "{least:?}");
    }

    #[test]
    fn gelu_is_the_erf_form() {
        let arguments: Vec<f32> = (-120_000..=120_000).map(|i| i as f32 * 1e-4).collect();
        // Split in halves that are exact, so that the bias is seen.
        let halves: Vec<f32> = arguments.iter().map(|x| x / 2.0).collect();
        let mut results = halves.clone();
        Arch::new().dispatch(BiasGelu { row: &mut results, bias: &halves });
        for (x, result) in arguments.iter().zip(&results) {
            let wide = f64::from(*x);
            let expected = 0.5 * wide * libm::erfc(-wide / std::f64::consts::SQRT_2);
            let error = (f64::from(*result) - expected).abs();
            assert!(error <= 1.2e-7 * wide.abs(), "gelu({x}) is off by {error:e}");
        }
    }
}
