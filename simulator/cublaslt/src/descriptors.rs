//! What describes a product: the operation, the matrices, and what is wanted of an algorithm.

use std::ffi::{CStr, c_int, c_void};

use crate::status::Status;
use crate::{Type, unsupported};

/// `CUBLAS_COMPUTE_32F` and its pedantic form.
const COMPUTE_F32: [c_int; 2] = [68, 69];

/// `CUBLASLT_EPILOGUE_DEFAULT`.
const NO_EPILOGUE: c_int = 1;

/// `CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_*` unless it is set.
const DEFAULT_ALIGNMENT: u32 = 256;

/// `cublasLtMatmulDesc_t`.
#[derive(Clone, Copy, Debug, Hash)]
pub struct MatmulDesc {
    pub(crate) transposes: [bool; 2],
}

/// `cublasLtMatrixLayout_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatrixLayout {
    pub(crate) element: Type,
    pub(crate) rows: u64,
    pub(crate) columns: u64,
    pub(crate) leading: u64,
}

/// `cublasLtMatmulPreference_t`.
#[derive(Clone, Copy, Debug)]
pub struct MatmulPreference {
    pub(crate) workspace_bytes: u64,
    /// What the addresses of A, B, C and D are multiples of.
    pub(crate) alignments: [u32; 4],
}

/// The end of a descriptor.
///
/// # Safety
///
/// It was made by a `Box`, and is not used again.
pub(crate) unsafe fn destroy<T>(object: *mut T) -> Result<(), Status> {
    if object.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: not null, and the rest is the caller's promise.
    drop(unsafe { Box::from_raw(object) });
    Ok(())
}

fn create<T>(out: Option<&mut *mut T>, object: T) -> Result<(), Status> {
    *out.ok_or(Status::INVALID_VALUE)? = Box::into_raw(Box::new(object));
    Ok(())
}

/// The value of an attribute, which must have the size of its type.
///
/// # Safety
///
/// `value` is null, or as many bytes are there.
unsafe fn read<T: Copy>(value: *const c_void, bytes: usize) -> Result<T, Status> {
    if value.is_null() || bytes != size_of::<T>() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: not null, of the right size; integers may have any value.
    Ok(unsafe { value.cast::<T>().read_unaligned() })
}

/// `CUBLAS_OP_N` or `CUBLAS_OP_T`.
fn transpose(operation: c_int) -> Result<bool, Status> {
    match operation {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(unsupported(format_args!("matrix operation {other}"))),
    }
}

/// Only a value that changes nothing.
fn only<T: PartialEq + std::fmt::Debug>(attribute: c_int, value: T, plain: &[T]) -> Result<(), Status> {
    if plain.contains(&value) { Ok(()) } else { Err(unsupported(format_args!("{value:?} for attribute {attribute}"))) }
}

/// Exported functions: a body within [`call`](crate::call).
macro_rules! exports {
    ($(
        $(#[$attribute:meta])*
        fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block
    )*) => {$(
        $(#[$attribute])*
        ///
        /// # Safety
        ///
        /// Pointers are null, or valid for what NVIDIA's manual says is read from or written to them.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $crate::Status {
            const NAME: &std::ffi::CStr = $crate::descriptors::named(concat!(stringify!($name), "\0"));
            $crate::call(NAME, || $body)
        }
    )*};
}
pub(crate) use exports;

/// A name that was written with its zero.
pub(crate) const fn named(with_zero: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(with_zero.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("the name is written with one zero, at its end"),
    }
}

exports! {
    /// Sums and factors are f32.
    fn cublasLtMatmulDescCreate(desc: Option<&mut *mut MatmulDesc>, compute_type: c_int, scale_type: c_int) {
        only(0, compute_type, &COMPUTE_F32)?;
        only(1, scale_type, &[0])?;
        create(desc, MatmulDesc { transposes: [false; 2] })
    }

    /// The end of a description.
    fn cublasLtMatmulDescDestroy(desc: *mut MatmulDesc) {
        // SAFETY: the manual asks for the same.
        unsafe { destroy(desc) }
    }

    /// Transposes; everything else only as it is without being set.
    fn cublasLtMatmulDescSetAttribute(
        desc: Option<&mut MatmulDesc>,
        attribute: c_int,
        value: *const c_void,
        bytes: usize,
    ) {
        let desc = desc.ok_or(Status::INVALID_VALUE)?;
        if !(0..=7).contains(&attribute) {
            return Err(unsupported(format_args!("attribute {attribute} of a product")));
        }
        // SAFETY: the manual asks for the same.
        let value = unsafe { read::<c_int>(value, bytes) }?;
        match attribute {
            0 => only(attribute, value, &COMPUTE_F32),
            3 => transpose(value).map(|transpose| desc.transposes[0] = transpose),
            4 => transpose(value).map(|transpose| desc.transposes[1] = transpose),
            7 => only(attribute, value, &[NO_EPILOGUE]),
            // The scale's type, pointers to the host's factors, C as it is, all of the matrix.
            _ => only(attribute, value, &[0]),
        }
    }

    /// A column-major matrix.
    fn cublasLtMatrixLayoutCreate(
        layout: Option<&mut *mut MatrixLayout>,
        element: c_int,
        rows: u64,
        columns: u64,
        leading: i64,
    ) {
        let (element, leading) = (Type::of(element)?, u64::try_from(leading).map_err(|_| Status::INVALID_VALUE)?);
        create(layout, MatrixLayout { element, rows, columns, leading })
    }

    /// The end of a layout.
    fn cublasLtMatrixLayoutDestroy(layout: *mut MatrixLayout) {
        // SAFETY: the manual asks for the same.
        unsafe { destroy(layout) }
    }

    /// Sizes and types; column-major, and one matrix, is all that there is.
    fn cublasLtMatrixLayoutSetAttribute(
        layout: Option<&mut MatrixLayout>,
        attribute: c_int,
        value: *const c_void,
        bytes: usize,
    ) {
        let layout = layout.ok_or(Status::INVALID_VALUE)?;
        // SAFETY: the manual asks for the same.
        let number = || unsafe { read::<c_int>(value, bytes) };
        // SAFETY: likewise.
        let size = || unsafe { read::<u64>(value, bytes) };
        match attribute {
            0 => layout.element = Type::of(number()?)?,
            1 => only(attribute, number()?, &[0])?,
            2 => layout.rows = size()?,
            3 => layout.columns = size()?,
            4 => layout.leading = size()?,
            5 => only(attribute, number()?, &[1])?,
            6 => only(attribute, size()?, &[0])?,
            other => return Err(unsupported(format_args!("attribute {other} of a matrix"))),
        }
        Ok(())
    }

    /// No workspace, and everything aligned to 256 bytes.
    fn cublasLtMatmulPreferenceCreate(preference: Option<&mut *mut MatmulPreference>) {
        create(preference, MatmulPreference { workspace_bytes: 0, alignments: [DEFAULT_ALIGNMENT; 4] })
    }

    /// The end of a preference.
    fn cublasLtMatmulPreferenceDestroy(preference: *mut MatmulPreference) {
        // SAFETY: the manual asks for the same.
        unsafe { destroy(preference) }
    }

    /// Workspace and alignments; masks of schemes have nothing to choose from.
    fn cublasLtMatmulPreferenceSetAttribute(
        preference: Option<&mut MatmulPreference>,
        attribute: c_int,
        value: *const c_void,
        bytes: usize,
    ) {
        let preference = preference.ok_or(Status::INVALID_VALUE)?;
        match attribute {
            // SAFETY: the manual asks for the same.
            1 => preference.workspace_bytes = unsafe { read(value, bytes) }?,
            5..=8 => {
                // SAFETY: likewise.
                let alignment: u32 = unsafe { read(value, bytes) }?;
                if !alignment.is_power_of_two() {
                    return Err(Status::INVALID_VALUE);
                }
                preference.alignments[attribute as usize - 5] = alignment;
            }
            other => return Err(unsupported(format_args!("attribute {other} of a preference"))),
        }
        Ok(())
    }
}
