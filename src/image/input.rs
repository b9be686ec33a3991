//! A picture's bytes, for decoders that read them through the traits of `std::io`.

use std::io::{self, BufRead, Cursor, Read, Seek, SeekFrom};

use crate::interrupt::Interrupt;

/// The bytes of a file. A decoder asks for more of them again and again, and that is where it can be stopped: by an error
/// that no decoder retries and none takes for the end of the file.
pub(super) struct Input<'a> {
    bytes: Cursor<&'a [u8]>,
    interrupt: Interrupt<'a>,
    /// Reads between two looks.
    interval: u32,
    reads: u32,
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8], interrupt: Interrupt<'a>, interval: u32) -> Self {
        Self { bytes: Cursor::new(bytes), interrupt, interval, reads: 0 }
    }

    fn count(&mut self) -> io::Result<()> {
        self.reads += 1;
        if self.reads < self.interval {
            return Ok(());
        }
        self.reads = 0;
        self.interrupt.check().map_err(io::Error::other)
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.count()?;
        self.bytes.read(buffer)
    }
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.count()?;
        self.bytes.fill_buf()
    }

    fn consume(&mut self, len: usize) {
        self.bytes.consume(len);
    }
}

impl Seek for Input<'_> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.bytes.seek(position)
    }
}
