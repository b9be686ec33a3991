//! Fatbins, as far as the driver looks into them before the simulator takes its own build of the same kernels.

use super::status::{Result, Status};

const MAGIC: u32 = 0xba55_ed50;

/// Kinds of a fatbin's parts.
const PTX: u16 = 1;
const ELF: u16 = 2;

/// In the flags of a part: its content is compressed, with LZ4 or with Zstandard.
const COMPRESSED: u64 = 0x2000 | 0x8000;

/// Bytes of a part's header up to the last field that is read.
const PART_HEADER_BYTES: usize = 48;

/// What a device takes from a fatbin.
pub(super) struct Image {
    content: Vec<u8>,
    is_compressed: bool,
    /// The least architecture that any part of the fatbin is for, which decides what its source may be written in.
    pub(super) least: u32,
}

impl Image {
    /// Reads the fatbin at `image` for a device of `capability`.
    ///
    /// # Safety
    ///
    /// What starts with a fatbin's magic number is as long as its header says.
    pub(super) unsafe fn read(image: *const u8, capability: (u32, u32)) -> Result<Self> {
        if image.is_null() {
            return Err(Status::ERROR_INVALID_VALUE);
        }
        // SAFETY: an image of any kind is longer than its magic number.
        let magic = unsafe { image.cast::<u32>().read_unaligned() };
        if magic != MAGIC {
            eprintln!("CUDA simulator: an image starts with {magic:#x}; only fatbins can be loaded");
            return Err(Status::ERROR_INVALID_IMAGE);
        }
        // SAFETY: the header of a fatbin is 16 bytes long.
        let header = unsafe { std::slice::from_raw_parts(image, 16) };
        let (header_bytes, content_bytes) = (usize::from(u16_at(header, 6)?), u64_at(header, 8)? as usize);
        let content = image.wrapping_add(header_bytes);
        // SAFETY: the header says so.
        Self::choose(unsafe { std::slice::from_raw_parts(content, content_bytes) }, capability)
    }

    /// The part that a device runs: machine code of its own major version, or else PTX that is not newer than it.
    fn choose(mut parts: &[u8], (major, minor): (u32, u32)) -> Result<Self> {
        let device = major * 10 + minor;
        let mut best: Option<((u16, u32), Self)> = None;
        let mut least = u32::MAX;
        while parts.len() >= PART_HEADER_BYTES {
            let (kind, architecture) = (u16_at(parts, 0)?, u32_at(parts, 28)?);
            least = least.min(architecture);
            let start = u32_at(parts, 4)? as usize;
            let end = start.checked_add(u64_at(parts, 8)? as usize).ok_or(Status::ERROR_INVALID_IMAGE)?;
            let content = parts.get(start..end).ok_or(Status::ERROR_INVALID_IMAGE)?;
            let runs = match kind {
                ELF => architecture / 10 == major && architecture <= device,
                PTX => architecture <= device,
                _ => false,
            };
            if runs && best.as_ref().is_none_or(|(rank, _)| *rank < (kind, architecture)) {
                let is_compressed = u64_at(parts, 40)? & COMPRESSED != 0;
                best = Some(((kind, architecture), Self { content: content.to_vec(), is_compressed, least }));
            }
            parts = &parts[end..];
        }
        best.map(|(_, image)| Self { least, ..image }).ok_or(Status::ERROR_NO_BINARY_FOR_GPU)
    }

    /// Whether a kernel of this name may be inside; a compressed part cannot be looked into, and may hold any.
    pub(super) fn may_hold(&self, name: &str) -> bool {
        // The name of the section of a kernel's machine code, or the entry's line in PTX.
        let is_name_byte = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        let found = |at: usize| {
            let end = at + name.len();
            !is_name_byte(at.checked_sub(1).and_then(|before| self.content.get(before)))
                && !is_name_byte(self.content.get(end))
        };
        let starts = self.content.windows(name.len().max(1)).enumerate();
        self.is_compressed || starts.filter(|(_, window)| *window == name.as_bytes()).any(|(at, _)| found(at))
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N]> {
    let field = bytes.get(offset..offset + N).and_then(|field| field.try_into().ok());
    field.ok_or(Status::ERROR_INVALID_IMAGE)
}

fn u16_at(bytes: &[u8], offset: usize) -> Result<u16> {
    bytes_at(bytes, offset).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32> {
    bytes_at(bytes, offset).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Result<u64> {
    bytes_at(bytes, offset).map(u64::from_le_bytes)
}
