//! D = alpha · op(A) · op(B) + beta · C, when its turn comes.

use std::ffi::c_void;

use half::{bf16, f16};

use crate::Type;

/// All that a product needs.
#[repr(C)]
pub(crate) struct Product {
    /// Rows and columns of D, and how many products make each of its elements.
    pub(crate) sizes: [u64; 3],
    /// Of A, B, C, D, as all that comes in fours.
    pub(crate) elements: [Type; 4],
    pub(crate) leading: [u64; 4],
    pub(crate) transposes: [bool; 2],
    pub(crate) addresses: [u64; 4],
    /// Alpha and beta.
    pub(crate) factors: [f32; 2],
    /// Address and bytes.
    pub(crate) workspace: [u64; 2],
}

/// Numbers of the driver's copy of a product.
const NUM_ARGUMENTS: usize = size_of::<Product>().div_ceil(8);

/// Partial sums of a dot product: as many as a vector register of the host has lanes.
const LANES: usize = 8;

impl Product {
    /// It, as the driver copies it.
    pub(crate) fn arguments(&self) -> [u64; NUM_ARGUMENTS] {
        let mut arguments = [0; NUM_ARGUMENTS];
        // SAFETY: the array is at least as long; the copy is only ever read as a product.
        unsafe { std::ptr::from_ref(self).copy_to_nonoverlapping(arguments.as_mut_ptr().cast(), 1) };
        arguments
    }

    /// Computes the product that `arguments` are.
    ///
    /// # Safety
    ///
    /// They are those of a product whose matrices and workspace are where it says, and nobody else's meanwhile.
    pub(crate) unsafe extern "C" fn run(arguments: *const c_void) {
        // SAFETY: the caller's promise.
        let product = unsafe { &*arguments.cast::<Self>() };
        let [m, n, k] = product.sizes.map(|size| size as usize);
        let [address, bytes] = product.workspace;
        // SAFETY: likewise; of no bytes, if there is no workspace.
        unsafe {
            std::slice::from_raw_parts_mut(if bytes > 0 { address as *mut u8 } else { [].as_mut_ptr() }, bytes as usize)
        }
        .fill(0xff);
        // Rows of op(A) and columns of op(B), each without gaps.
        let a = product.gather(0, m, k, !product.transposes[0]);
        let b = product.gather(1, n, k, product.transposes[1]);
        let [alpha, beta] = product.factors;
        for column in 0..n {
            for row in 0..m {
                let sum = dot(&a[row * k..][..k], &b[column * k..][..k]);
                let added = if beta == 0.0 { 0.0 } else { beta * product.element(2, row, column) };
                product.store(row, column, alpha * sum + added);
            }
        }
    }

    /// Lines of a matrix as f32, one after the other: its columns, or, if `strided`, its rows.
    fn gather(&self, matrix: usize, num_lines: usize, len: usize, strided: bool) -> Vec<f32> {
        let lines = (0..num_lines).flat_map(|line| (0..len).map(move |place| (line, place)));
        let at =
            |(line, place)| if strided { self.element(matrix, line, place) } else { self.element(matrix, place, line) };
        lines.map(at).collect()
    }

    fn element(&self, matrix: usize, row: usize, column: usize) -> f32 {
        let (address, place) = (self.addresses[matrix], column * self.leading[matrix] as usize + row);
        match self.elements[matrix] {
            // SAFETY: the element is one of the matrix, which is there.
            Type::F32 => unsafe { (address as *const f32).wrapping_add(place).read() },
            // SAFETY: likewise.
            Type::F16 => f16::from_bits(unsafe { (address as *const u16).wrapping_add(place).read() }).to_f32(),
            // SAFETY: likewise.
            Type::Bf16 => bf16::from_bits(unsafe { (address as *const u16).wrapping_add(place).read() }).to_f32(),
        }
    }

    fn store(&self, row: usize, column: usize, value: f32) {
        let (address, place) = (self.addresses[3], column * self.leading[3] as usize + row);
        match self.elements[3] {
            // SAFETY: the element is one of the matrix, which is there.
            Type::F32 => unsafe { (address as *mut f32).wrapping_add(place).write(value) },
            // SAFETY: likewise.
            Type::F16 => unsafe { (address as *mut u16).wrapping_add(place).write(f16::from_f32(value).to_bits()) },
            // SAFETY: likewise.
            Type::Bf16 => unsafe { (address as *mut u16).wrapping_add(place).write(bf16::from_f32(value).to_bits()) },
        }
    }
}

/// In f32, by [`LANES`] partial sums.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (a, b) = (a.chunks(LANES), b.chunks(LANES));
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}
