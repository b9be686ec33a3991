//! SHA-256 of what decides a result's bits.

use std::fmt;

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::error::{ImageError, Result};
use crate::interrupt::Interrupt;
use crate::memory;

/// Bytes that are hashed in one piece. Large enough that a piece's own hash costs nothing, small enough that a picture's
/// pixels keep several cores busy.
const PIECE: usize = 1 << 18;

/// Bytes of a digest.
#[cfg(any(feature = "cli", feature = "serve"))]
pub(crate) const DIGEST_LEN: usize = size_of::<Digest>();

/// A SHA-256. `{}` shows it in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of the digests of all pieces of 256 KiB, so that several threads can share the work.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        let pieces: Vec<[u8; 32]> = bytes.par_chunks(PIECE).map(|piece| Sha256::digest(piece).into()).collect();
        Self(Sha256::digest(pieces.as_flattened()).into())
    }

    /// [`of_bytes`](Self::of_bytes), which ends early once nobody waits for it.
    ///
    /// # Errors
    /// [`ImageError::Interrupted`](crate::error::ImageError::Interrupted),
    /// [`InputError::OutOfMemory`](crate::error::InputError::OutOfMemory).
    pub(crate) fn of_bytes_until(bytes: &[u8], interrupt: Interrupt) -> Result<Self> {
        let mut pieces = memory::zeroed::<[u8; 32]>(bytes.len().div_ceil(PIECE))?;
        pieces.par_iter_mut().zip(bytes.par_chunks(PIECE)).try_for_each(|(digest, piece)| {
            interrupt.check()?;
            *digest = Sha256::digest(piece).into();
            Ok::<_, ImageError>(())
        })?;
        Ok(Self(Sha256::digest(pieces.as_flattened()).into()))
    }

    /// One digest for several; of one, itself.
    pub fn of_all(digests: &[Self]) -> Self {
        if let [one] = digests {
            return *one;
        }
        let mut fields = Fields::of("several");
        digests.iter().for_each(|digest| fields.add(digest.0));
        fields.finish()
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A digest of several fields: no two lists of fields have the same bytes.
pub(crate) struct Fields(Sha256);

impl Fields {
    /// Of a thing of this kind, which keeps apart what has equal fields by chance.
    pub(crate) fn of(kind: &str) -> Self {
        let mut fields = Self(Sha256::new());
        fields.add(kind);
        fields
    }

    pub(crate) fn add(&mut self, field: impl AsRef<[u8]>) {
        let field = field.as_ref();
        self.0.update((field.len() as u64).to_le_bytes());
        self.0.update(field);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_sha256s_of_the_pieces() {
        // sha256sum of the 32 bytes that `printf abc | sha256sum` names.
        let digest = Digest::of_bytes(b"abc").to_string();
        assert_eq!(digest, "4f8b42c22dd3729b519ba6f68d2da7cc5b2d606d05daed5ad5128cc03e6c6358");
    }

    #[test]
    fn every_byte_counts_and_so_does_its_place() {
        let bytes: Vec<u8> = (0..3 * PIECE + 5).map(|i| (i % 251) as u8).collect();
        let whole = Digest::of_bytes(&bytes);
        for place in [0, PIECE - 1, PIECE, 3 * PIECE, bytes.len() - 1] {
            let mut other = bytes.clone();
            other[place] ^= 1;
            assert_ne!(Digest::of_bytes(&other), whole, "byte {place}");
        }
        let mut swapped = bytes.clone();
        swapped[..2 * PIECE].rotate_left(PIECE);
        assert_ne!(Digest::of_bytes(&swapped), whole);
        assert_ne!(Digest::of_bytes(&bytes[..bytes.len() - 1]), whole);
    }

    #[test]
    fn a_digest_that_can_end_early_is_the_same() {
        for len in [0, 1, PIECE, 2 * PIECE + 3] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            assert_eq!(Digest::of_bytes_until(&bytes, Interrupt::NEVER).unwrap(), Digest::of_bytes(&bytes));
            let ended = Digest::of_bytes_until(&bytes, Interrupt::when(&|| true));
            assert_eq!(ended.is_ok(), len == 0, "{ended:?}");
        }
    }

    #[test]
    fn fields_keep_their_borders() {
        let digest = |kind: &str, fields: &[&str]| {
            let mut digest = Fields::of(kind);
            fields.iter().for_each(|field| digest.add(field));
            digest.finish()
        };
        let ab = digest("k", &["a", "b"]);
        for (kind, fields) in [("k", &["ab"][..]), ("k", &["", "ab"]), ("k", &["a", "b", ""]), ("ka", &["b"])] {
            assert_ne!(digest(kind, fields), ab, "{kind} {fields:?}");
        }
        assert_eq!(digest("k", &["a", "b"]), ab);
    }
}
