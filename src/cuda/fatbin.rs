//! The compiled kernels that this build carries.

use super::architecture::Architecture;
use crate::digest::Fields;

/// One file of `kernels/`, compiled for every architecture of [`architectures`].
pub struct Fatbin {
    /// The file's path in `kernels/` without its extension: `projection`, `sm90/projection`.
    pub name: &'static str,
    /// What the driver loads a module from.
    pub image: &'static Aligned<[u8]>,
    /// What ptxas said of registers and spills.
    #[cfg(test)]
    pub ptxas: &'static str,
}

/// Bytes that start where the words of a fatbin's header may.
#[repr(C, align(16))]
pub struct Aligned<T: ?Sized>(pub T);

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// The fatbin of that name; none where the build was for other architectures than its folder is of.
pub fn find(name: &str) -> Option<&'static Fatbin> {
    FATBINS.iter().find(|fatbin| fatbin.name == name)
}

/// The architectures that the kernels were compiled for, ascending.
pub fn architectures() -> Vec<Architecture> {
    // The build script wrote the list.
    Architecture::list(env!("TILESIGHT_CUDA_ARCHS")).unwrap_or_default()
}

/// What tells one build's kernels from another's.
pub fn build() -> String {
    let mut fields = Fields::of("kernels");
    for fatbin in FATBINS {
        fields.add(fatbin.name);
        fields.add(&fatbin.image.0);
    }
    fields.finish().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_carries_what_it_names() {
        assert_eq!(Architecture::join(&architectures()), env!("TILESIGHT_CUDA_ARCHS"));
        for fatbin in FATBINS {
            assert!(std::ptr::eq(find(fatbin.name).unwrap(), fatbin));
            // The magic number of a fatbin, at an address where it can be read as a word.
            assert_eq!(fatbin.image.0[..4], 0xba55_ed50_u32.to_le_bytes(), "{}", fatbin.name);
            assert!(fatbin.image.0.as_ptr().addr().is_multiple_of(16), "{}", fatbin.name);
        }
        assert!(find("absent").is_none());
    }
}
