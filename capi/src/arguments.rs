//! What comes from the caller, checked as far as it can be.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

use crate::status::Refusal;

/// A struct of the interface, which starts with its own size. All of its bytes may be zero.
///
/// # Safety
/// The type is `repr(C)`, its first field is the `usize` that says its size, and zeros are a value of it.
pub(crate) unsafe trait SizedStruct: Copy {
    /// Its size in the first release that had it.
    const FIRST_SIZE: usize;
    /// Its name, for messages.
    const NAME: &'static str;

    /// What a later release may give a meaning; until then it is zero.
    fn reserved(&self) -> u32 {
        0
    }
}

/// A struct from the caller, of whatever size its release gave it.
///
/// # Safety
/// `from` is null, or points to as many readable bytes as its first `size_t` says.
pub(crate) unsafe fn read_struct<T: SizedStruct>(from: *const T) -> Result<T, Refusal> {
    // SAFETY: the caller's promise.
    let size = unsafe { struct_size(from) }?;
    let known = size.min(size_of::<T>());
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes are readable by the caller's promise, and fit `value`; the two do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), value.as_mut_ptr().cast::<u8>(), known) };
    // SAFETY: the caller's promise covers `size` bytes, of which these are the last.
    let unknown = unsafe { slice(from.cast::<u8>().wrapping_add(known), size - known, T::NAME) }?;
    if unknown.iter().any(|byte| *byte != 0) {
        return Err(Refusal::argument(format!(
            "{} sets fields that this version ({}) does not know",
            T::NAME,
            env!("CARGO_PKG_VERSION")
        )));
    }
    // SAFETY: zeros are a value of the type, and what was copied over them came from one of its fields on.
    let value = unsafe { value.assume_init() };
    match value.reserved() {
        0 => Ok(value),
        found => Err(Refusal::argument(format!("{}: reserved must be zero, found {found}", T::NAME))),
    }
}

/// Hands a struct to the caller, as much of it as the caller's release knows.
///
/// # Safety
/// `to` is null, or points to as many writable bytes as its first `size_t` says.
pub(crate) unsafe fn write_struct<T: SizedStruct>(to: *mut T, value: &T) -> Result<(), Refusal> {
    // SAFETY: the caller's promise.
    let size = unsafe { struct_size(to.cast_const()) }?;
    let skipped = size_of::<usize>();
    let known = size.min(size_of::<T>()) - skipped;
    let (from, to) =
        (std::ptr::from_ref(value).cast::<u8>().wrapping_add(skipped), to.cast::<u8>().wrapping_add(skipped));
    // SAFETY: both have so many bytes behind their size, which stays as the caller set it.
    unsafe { std::ptr::copy_nonoverlapping(from, to, known) };
    Ok(())
}

/// # Safety
/// `of` is null, or points to a readable `size_t`.
unsafe fn struct_size<T: SizedStruct>(of: *const T) -> Result<usize, Refusal> {
    require_aligned(of, T::NAME)?;
    // SAFETY: it is not null and aligned, and readable by the caller's promise.
    let size = unsafe { of.cast::<usize>().read() };
    if size < T::FIRST_SIZE {
        let least = T::FIRST_SIZE;
        return Err(Refusal::argument(format!("{} must start with its size, at least {least}, found {size}", T::NAME)));
    }
    // What no struct of this interface will come to: the field was not set.
    const MOST: usize = 1 << 12;
    if size > MOST {
        return Err(Refusal::argument(format!("{} must start with its size, found {size}", T::NAME)));
    }
    Ok(size)
}

/// Values in the caller's memory. None of them may be where there is no memory.
///
/// # Safety
/// `data` is null, or points to `len` readable values that nobody writes while they are borrowed.
pub(crate) unsafe fn slice<'a, T>(data: *const T, len: usize, name: &str) -> Result<&'a [T], Refusal> {
    if len == 0 {
        return Ok(&[]);
    }
    require_aligned(data, name)?;
    require_len::<T>(len, name)?;
    // SAFETY: not null, aligned, of a length that a slice may have, and readable by the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}

/// Memory of the caller's to write.
///
/// # Safety
/// `data` is null, or points to `len` values that may be written, and that nobody else uses while they are borrowed. Every
/// pattern of bits is a value of the type.
pub(crate) unsafe fn slice_mut<'a, T>(data: *mut T, len: usize, name: &str) -> Result<&'a mut [T], Refusal> {
    if len == 0 {
        return Ok(&mut []);
    }
    require_aligned(data.cast_const(), name)?;
    require_len::<T>(len, name)?;
    // SAFETY: not null, aligned, of a length that a slice may have, and the caller's to lend.
    Ok(unsafe { std::slice::from_raw_parts_mut(data, len) })
}

/// A text of the caller's; none where it is null.
///
/// # Safety
/// `text` is null, or points to bytes that end with a zero.
pub(crate) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<Option<&'a str>, Refusal> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map(Some).map_err(|_| Refusal::argument(format!("{name} must be UTF-8")))
}

/// Refuses pointers that are nothing, or that no such value can be at.
pub(crate) fn require_aligned<T>(pointer: *const T, name: &str) -> Result<(), Refusal> {
    if pointer.is_null() {
        return Err(Refusal::argument(format!("{name} is null")));
    }
    if !pointer.is_aligned() {
        return Err(Refusal::argument(format!("{name} must be aligned to {} bytes", align_of::<T>())));
    }
    Ok(())
}

fn require_len<T>(len: usize, name: &str) -> Result<(), Refusal> {
    match len.checked_mul(size_of::<T>()) {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
        _ => Err(Refusal::argument(format!("{name} cannot have {len} elements"))),
    }
}
