//! The scans of a JPEG, found without decoding anything.

/// How the coefficients of a JPEG are stored.
pub(super) struct Scans<'a> {
    /// Whether one scan does not give a picture, so that the coefficients of all are kept until the last has been read.
    pub(super) are_kept: bool,
    /// Whether a coefficient comes in parts, and a few bytes may stand for a run of blocks.
    pub(super) are_progressive: bool,
    /// The first scan and what follows it.
    from_first: Markers<'a>,
}

const START_OF_SCAN: u8 = 0xda;

impl<'a> Scans<'a> {
    /// The scans of a file, by what comes before the first of them.
    pub(super) fn of(file: &'a [u8]) -> Self {
        let (mut are_progressive, mut num_components) = (false, 0);
        let mut from_first = Markers { rest: file };
        loop {
            let at = from_first.clone();
            let Some((marker, segment)) = from_first.next() else { break };
            match marker {
                // Tables of Huffman and arithmetic codes, and a code for extensions, which lie among the frames.
                0xc4 | 0xc8 | 0xcc => {}
                0xc0..=0xcf => {
                    are_progressive = matches!(marker, 0xc2 | 0xc6 | 0xca | 0xce);
                    num_components = segment.get(5).copied().unwrap_or(0);
                }
                START_OF_SCAN => {
                    let in_first = segment.first().copied().unwrap_or(0);
                    return Self {
                        are_kept: are_progressive || in_first < num_components,
                        are_progressive,
                        from_first: at,
                    };
                }
                _ => {}
            }
        }
        Self { are_kept: are_progressive, are_progressive, from_first }
    }

    /// How many there are. Reads the whole file.
    pub(super) fn num(self) -> usize {
        self.from_first.filter(|(marker, _)| *marker == START_OF_SCAN).count()
    }
}

/// The markers up to the end of the image, each with what its segment holds. Coded data between them is skipped, as far as
/// another marker; there 0xff stands only before zeros and restart markers.
#[derive(Clone)]
struct Markers<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Markers<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let at = self.rest.iter().position(|&byte| byte == 0xff)?;
            let (&marker, rest) = self.rest[at + 1..].split_first()?;
            match marker {
                // Fill bytes: the marker's own code is yet to come.
                0xff => self.rest = &self.rest[at + 1..],
                // End of image.
                0xd9 => return None,
                // Stuffing, reserved codes, restart markers and the start of the image have no segments.
                0x00..0xc0 | 0xd0..=0xd8 => self.rest = rest,
                _ => {
                    let (len, _) = rest.split_first_chunk::<2>()?;
                    // A length counts its own two bytes. libjpeg takes a shorter one for that of an empty segment.
                    let len = usize::from(u16::from_be_bytes(*len)).max(2);
                    let (segment, rest) = rest.split_at_checked(len)?;
                    self.rest = rest;
                    return Some((marker, segment.get(2..)?));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of some kind of three components, an application's segment that looks like a scan, and scans of `in_scan`
    /// components each.
    fn file(frame: u8, num_scans: usize, in_scan: u8) -> Vec<u8> {
        let mut file = b"\xff\xd8\xff\xe1\x00\x06\xff\xda\xff\xda".to_vec();
        file.extend_from_slice(&[0xff, 0xff, frame, 0, 8, 8, 0, 1, 0, 1, 3]);
        for _ in 0..num_scans {
            // A comment whose length is too small hides nothing behind it.
            file.extend_from_slice(&[0xff, 0xfe, 0, 0]);
            file.extend_from_slice(&[0xff, START_OF_SCAN, 0, 3, in_scan]);
            file.extend_from_slice(b"coded\xff\x00data\xff\xd0more");
        }
        file.extend_from_slice(b"\xff\xd9 another picture \xff\xda\x00\x03\x03");
        file
    }

    fn found(file: &[u8]) -> (usize, bool, bool) {
        let scans = Scans::of(file);
        let (are_kept, are_progressive) = (scans.are_kept, scans.are_progressive);
        (scans.num(), are_kept, are_progressive)
    }

    #[test]
    fn only_scans_of_this_image_count() {
        assert_eq!(found(&file(0xc0, 1, 3)), (1, false, false));
        assert_eq!(found(&file(0xc0, 3, 1)), (3, true, false));
        assert_eq!(found(&file(0xc2, 7, 3)), (7, true, true));
    }

    #[test]
    fn a_file_may_end_anywhere() {
        let file = file(0xc2, 3, 3);
        let nums: Vec<usize> = (0..=file.len()).map(|len| Scans::of(&file[..len]).num()).collect();
        assert!(nums.is_sorted() && nums.last() == Some(&3));
    }
}
