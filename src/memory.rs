//! Memory whose size comes from outside. Where it lacks, the call fails and nothing else does.

#[cfg(feature = "serve")]
use std::io;

use bytemuck::Zeroable;

use crate::error::InputError;

/// Room for `len` values, none of which is there yet.
///
/// # Errors
/// [`InputError::OutOfMemory`].
pub(crate) fn reserve<T>(len: usize) -> Result<Vec<T>, InputError> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| out_of_memory::<T>(len))?;
    Ok(values)
}

/// Memory that a dependency is about to take in ways that cannot fail. It is asked for here first, where it can be refused,
/// and given back at once: another thread may take it in between, so this keeps the dependency from what is too large, and
/// not from a process that has no memory left for anything.
///
/// # Errors
/// [`InputError::OutOfMemory`].
pub(crate) fn require(bytes: u64) -> Result<(), InputError> {
    let len = usize::try_from(bytes).map_err(|_| InputError::OutOfMemory { bytes })?;
    reserve::<u8>(len).map(drop)
}

/// `len` zeros, as the system gives them: the pages come when they are written, on all threads that write them.
///
/// # Errors
/// [`InputError::OutOfMemory`].
pub(crate) fn zeroed<T: Zeroable>(len: usize) -> Result<Vec<T>, InputError> {
    bytemuck::try_zeroed_vec(len).map_err(|()| out_of_memory::<T>(len))
}

/// All values of an iterator that knows how many they are.
///
/// # Errors
/// [`InputError::OutOfMemory`].
pub(crate) fn collect<T>(values: impl ExactSizeIterator<Item = T>) -> Result<Vec<T>, InputError> {
    let mut collected = reserve(values.len())?;
    collected.extend(values);
    Ok(collected)
}

/// A copy of values.
///
/// # Errors
/// [`InputError::OutOfMemory`].
pub(crate) fn copy<T: Copy>(values: &[T]) -> Result<Vec<T>, InputError> {
    collect(values.iter().copied())
}

/// Appends values.
///
/// # Errors
/// [`InputError::OutOfMemory`].
pub(crate) fn append<T: Copy>(to: &mut Vec<T>, values: &[T]) -> Result<(), InputError> {
    to.try_reserve(values.len()).map_err(|_| out_of_memory::<T>(values.len()))?;
    to.extend_from_slice(values);
    Ok(())
}

/// Bytes that are written one after another.
#[cfg(feature = "serve")]
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

#[cfg(feature = "serve")]
impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        append(&mut self.0, bytes).map_err(|e| io::Error::new(io::ErrorKind::OutOfMemory, e))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn out_of_memory<T>(len: usize) -> InputError {
    InputError::OutOfMemory { bytes: (len as u64).saturating_mul(size_of::<T>() as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_cannot_be_had_is_an_error_that_says_how_much() {
        let len = isize::MAX as usize / 8;
        assert_eq!(reserve::<u64>(len), Err(InputError::OutOfMemory { bytes: 8 * len as u64 }));
        assert_eq!(zeroed::<u8>(usize::MAX), Err(InputError::OutOfMemory { bytes: u64::MAX }));
        let mut bytes = vec![1u8];
        append(&mut bytes, &[2, 3]).unwrap();
        assert_eq!((bytes, copy(&[4, 5]), zeroed::<i64>(2)), (vec![1, 2, 3], Ok(vec![4, 5]), Ok(vec![0, 0])));
    }
}
