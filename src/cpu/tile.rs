//! The product whose sums stay in registers: some rows of one operand by some vectors of the other.

use pulp::{Arch, Simd, WithSimd};

/// Work in tiles whose size is this CPU's.
pub(super) trait InTiles: Sized {
    type Output;

    /// Called with a tile's rows, and its vectors of [`Simd::F32_LANES`] columns; inline it always, or it is compiled for
    /// another CPU than this.
    fn run<S: Simd, const ROWS: usize, const VECTORS: usize>(self, simd: S) -> Self::Output;
}

/// Does the work in tiles that leave room for the operands among the registers: 24 sums, three vectors of columns and one
/// of rows among 32, or 12, two and one among 16. That many sums also hide how long one takes, on all CPUs known.
pub(super) fn dispatch<W: InTiles>(work: W) -> W::Output {
    Arch::new().dispatch(Dispatch(work))
}

struct Dispatch<W>(W);

impl<W: InTiles> WithSimd for Dispatch<W> {
    type Output = W::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> W::Output {
        if S::REGISTER_COUNT >= 32 { self.0.run::<S, 8, 3>(simd) } else { self.0.run::<S, 6, 2>(simd) }
    }
}

/// Rows of a tile on this CPU.
pub(super) fn num_rows() -> usize {
    struct Ask;
    impl InTiles for Ask {
        type Output = usize;

        #[inline(always)]
        fn run<S: Simd, const ROWS: usize, const VECTORS: usize>(self, _: S) -> usize {
            ROWS
        }
    }
    dispatch(Ask)
}

/// Σ over k of `left[k][row] · right[k][column]`, with `left` `[k, ROWS]` and `right` `[k, VECTORS · lanes]`; the shorter of
/// both decides how many k there are.
#[inline(always)]
pub(super) fn product<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    left: &[f32],
    right: &[[S::f32s; VECTORS]],
) -> [[S::f32s; VECTORS]; ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    let (left, _) = left.as_chunks::<ROWS>();
    for (left, right) in left.iter().zip(right) {
        for (sums, left) in sums.iter_mut().zip(left) {
            let left = simd.splat_f32s(*left);
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = simd.mul_add_f32s(left, *right, *sum);
            }
        }
    }
    sums
}

/// `len` numbers that begin at a cache line, so that no vector lies in two; what they are is left over.
pub(super) fn aligned(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    const LINE: usize = 64;
    let most = len + LINE / size_of::<f32>();
    if buffer.len() < most {
        buffer.resize(most, 0.0);
    }
    let start = buffer.as_ptr().align_offset(LINE);
    &mut buffer[start..start + len]
}

/// The rows of vectors that numbers are.
#[inline(always)]
pub(super) fn vectors<S: Simd, const VECTORS: usize>(numbers: &[f32]) -> &[[S::f32s; VECTORS]] {
    S::as_simd_f32s(numbers).0.as_chunks().0
}

/// Likewise.
#[inline(always)]
pub(super) fn vectors_mut<S: Simd, const VECTORS: usize>(numbers: &mut [f32]) -> &mut [[S::f32s; VECTORS]] {
    S::as_mut_simd_f32s(numbers).0.as_chunks_mut().0
}
