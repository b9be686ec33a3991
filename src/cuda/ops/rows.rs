//! What the kernels that give each warp a row have in common, and how views are held against one another.

use super::{Array, Kernel, Matrix};
use crate::cuda::abi;
use crate::dtype::Dtype;

/// The entry point of a kernel that goes along rows: named as its file is.
pub(super) const fn row_kernel(name: &'static str) -> Kernel {
    Kernel { file: name, name, suffix: "", block: 32 * abi::ROW_WARPS, shared_bytes: 0 }
}

/// A grid with a warp for each of `rows` rows.
pub(super) fn row_grid(rows: usize) -> [u32; 3] {
    [number(rows.div_ceil(abi::ROW_WARPS as usize)), 1, 1]
}

/// A count as kernels take it.
///
/// # Panics
/// Where it does not fit: no plan has so many rows or columns.
pub(super) fn number(count: usize) -> u32 {
    let Ok(number) = u32::try_from(count) else { panic!("{count} is more than a kernel counts to") };
    number
}

/// Where a matrix starts, or null.
pub(super) fn matrix_or_null(matrix: Option<Matrix>) -> *mut std::ffi::c_void {
    matrix.map_or(std::ptr::null_mut(), |matrix| matrix.pointer())
}

/// Where an array starts, or null.
pub(super) fn array_or_null<T>(array: Option<Array<T>>) -> *mut T {
    array.map_or(std::ptr::null_mut(), |array| array.pointer())
}

/// Groups of columns of a row with moments of their own.
pub(super) fn num_moments(width: usize) -> usize {
    width.div_ceil(abi::MOMENTS_COLUMNS as usize)
}

impl Matrix<'_> {
    /// # Panics
    /// Unless there are at least `rows` rows of `width` elements of `dtype`, each row on 16 bytes.
    pub(super) fn require(&self, what: &str, rows: usize, width: usize, dtype: Dtype) {
        self.require_unaligned(what, rows, width, dtype);
        assert!(self.stride.is_multiple_of(Self::ALIGNMENT), "{what}: rows {} elements apart", self.stride);
    }

    /// The same of rows that may start anywhere.
    pub(super) fn require_unaligned(&self, what: &str, rows: usize, width: usize, dtype: Dtype) {
        assert_eq!(self.dtype, dtype, "{what} has another element type");
        assert_eq!(self.width, width, "{what} has another width");
        assert!(self.rows >= rows, "{what} has {} rows for {rows}", self.rows);
    }
}

impl<T> Array<'_, T> {
    /// # Panics
    /// Unless there are at least `len` values.
    pub(super) fn require(&self, what: &str, len: usize) {
        assert!(self.len >= len, "{what} has {} values for {len}", self.len);
    }
}

impl Array<'_, f32> {
    /// # Panics
    /// Unless pairs of values can be read at once.
    pub(super) fn require_pairs(&self, what: &str) {
        assert!(self.address.is_multiple_of(8), "{what} starts at {:#x}, between two pairs", self.address);
    }
}
