//! A box of a tensor, between global memory and bytes in the order of the box.

use super::super::tensor_map::TensorMap;

unsafe extern "C" {
    fn simulator_move(destination: *mut u8, source: *const u8, num_bytes: usize);
}

/// A box: the tensor, and the coordinates of its first element.
#[derive(Clone)]
pub(super) struct TensorBox {
    pub(super) map: TensorMap,
    pub(super) origin: Vec<i64>,
}

/// Part of a row that is inside of the tensor.
struct Piece {
    global: u64,
    /// Its place in the box's bytes.
    offset: usize,
    num_bytes: usize,
}

impl TensorBox {
    /// All of it, those outside of the tensor included.
    pub(super) fn num_bytes(&self) -> u32 {
        self.map.row_bytes() * self.map.rows()
    }

    /// Its elements; zeros outside of the tensor.
    ///
    /// # Safety
    ///
    /// The tensor can be read.
    pub(super) unsafe fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.num_bytes() as usize];
        for Piece { global, offset, num_bytes } in self.pieces() {
            let part = &mut bytes[offset..offset + num_bytes];
            // SAFETY: the piece is inside of the tensor; the part is as long.
            unsafe { simulator_move(part.as_mut_ptr(), global as *const u8, num_bytes) };
        }
        bytes
    }

    /// Writes what of it is inside of the tensor.
    ///
    /// # Safety
    ///
    /// The tensor can be written.
    pub(super) unsafe fn write(&self, bytes: &[u8]) {
        for Piece { global, offset, num_bytes } in self.pieces() {
            let part = &bytes[offset..offset + num_bytes];
            // SAFETY: the piece is inside of the tensor; the part is as long.
            unsafe { simulator_move(global as *mut u8, part.as_ptr(), num_bytes) };
        }
    }

    fn pieces(&self) -> impl Iterator<Item = Piece> {
        let (map, origin) = (&self.map, &self.origin);
        let element_bytes = i64::from(map.element_bytes);
        let start = origin[0].max(0);
        let end = (origin[0] + i64::from(map.boxes[0])).min(map.extents[0] as i64);
        (0..map.rows()).filter_map(move |row| {
            let mut rest = i64::from(row);
            let mut global = map.address as i64 + start * element_bytes;
            let outer = map.boxes[1..].iter().zip(&map.extents[1..]).zip(&map.strides);
            for (((&elements, &extent), &stride), &first) in outer.zip(&origin[1..]) {
                let place = first + rest % i64::from(elements);
                rest /= i64::from(elements);
                if place < 0 || place >= extent as i64 {
                    return None;
                }
                global += place * stride as i64;
            }
            let offset = i64::from(row) * i64::from(map.row_bytes()) + (start - origin[0]) * element_bytes;
            let num_bytes = (end - start) * element_bytes;
            let piece = || Piece { global: global as u64, offset: offset as usize, num_bytes: num_bytes as usize };
            (num_bytes > 0).then(piece)
        })
    }
}
