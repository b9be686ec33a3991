//! The instructions of Hopper, one by one, against examples worked out by hand from the PTX manual.

use tilesight_simulator::machine::testing::{Buffer, Kernel, Params, SEEDS};
use tilesight_simulator::machine::{Fault, Swizzle, TensorMap, TiledTensor};

/// Elements 0, 1, 2 ... of 16 bits.
fn counting(len: usize) -> Vec<u16> {
    (0..len).map(|element| element as u16).collect()
}

struct BoxOf<'a> {
    extents: &'a [u64],
    strides: &'a [u64],
    boxes: &'a [u32],
    swizzle: Swizzle,
    origin: &'a [i32],
    offset: u32,
}

impl BoxOf<'_> {
    fn map(&self, tensor: &Buffer) -> TensorMap {
        let Self { extents, strides, boxes, swizzle, .. } = *self;
        let address = tensor.address();
        TensorMap::tiled(&TiledTensor { address, element_bytes: 2, extents, strides, boxes, swizzle }).unwrap()
    }

    fn load(&self, tensor: &Buffer, seed: u64) -> Result<Vec<u16>, Fault> {
        let num_bytes = 2 * self.boxes.iter().product::<u32>();
        let output = Buffer::poisoned::<u8>(num_bytes as usize);
        let mut origin = [0; 4];
        origin[..self.origin.len()].copy_from_slice(self.origin);
        let params = Params::new().tensor_map(&self.map(tensor)).buffer(&output);
        let params = params.u32(self.offset).u32(num_bytes).u32(self.origin.len() as u32);
        let params = origin.into_iter().fold(params, |params, place| params.u32(place as u32));
        let kernel = Kernel::named("load_tensor_box").shared_bytes(self.offset + num_bytes).seed(seed);
        kernel.run(&params)?;
        let bytes: Vec<u8> = output.read();
        Ok(bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect())
    }
}

#[test]
fn boxes_have_zeros_outside_of_the_tensor() {
    // 5 rows of 12 elements, 16 apart.
    let tensor = Buffer::of(&counting(5 * 16));
    let place = BoxOf {
        extents: &[12, 5],
        strides: &[32],
        boxes: &[8, 3],
        swizzle: Swizzle::None,
        origin: &[8, 3],
        offset: 1024,
    };
    for seed in SEEDS {
        let third = [56, 57, 58, 59, 0, 0, 0, 0];
        let fourth = [72, 73, 74, 75, 0, 0, 0, 0];
        assert_eq!(place.load(&tensor, seed).unwrap(), [third, fourth, [0; 8]].concat());
        let before = BoxOf { origin: &[-3, -1], ..place }.load(&tensor, seed).unwrap();
        assert_eq!(before, [[0; 8], [0, 0, 0, 0, 1, 2, 3, 4], [0, 0, 0, 16, 17, 18, 19, 20]].concat());
    }
}

#[test]
fn swizzles_exchange_units_by_address() {
    // Unit u of row r of 128 bytes lies at unit u ^ (r % 8), of 64 bytes at u ^ (r / 2 % 4), of 32 at u ^ (r / 4 % 2), if
    // the box starts on a multiple of eight rows; else the address counts.
    for (swizzle, units, rows_per_128, offset) in [
        (Swizzle::Bytes128, 8, 1, 1024),
        (Swizzle::Bytes64, 4, 2, 1024),
        (Swizzle::Bytes32, 2, 4, 1024),
        (Swizzle::Bytes128, 8, 1, 1024 + 384),
    ] {
        let (columns, rows) = (8 * units, 16);
        let tensor = Buffer::of(&counting(columns * rows));
        let place = BoxOf {
            extents: &[columns as u64, rows as u64],
            strides: &[2 * columns as u64],
            boxes: &[columns as u32, rows as u32],
            swizzle,
            origin: &[0, 0],
            offset,
        };
        let found = place.load(&tensor, 0).unwrap();
        let shift = offset as usize / 128;
        for (row, values) in found.chunks_exact(columns).enumerate() {
            for (unit, values) in values.chunks_exact(8).enumerate() {
                let source = unit ^ ((row / rows_per_128 + shift) % units.max(1));
                let first = (row * columns + 8 * source) as u16;
                assert_eq!(
                    values,
                    counting(8).iter().map(|i| first + i).collect::<Vec<_>>(),
                    "{swizzle:?} {row} {unit}"
                );
            }
        }
    }
}

#[test]
fn boxes_of_three_and_four_dimensions() {
    let tensor = Buffer::of(&counting(2 * 3 * 4 * 8));
    let place = BoxOf {
        extents: &[8, 4, 3, 2],
        strides: &[16, 64, 192],
        boxes: &[8, 1, 2, 2],
        swizzle: Swizzle::None,
        origin: &[0, 2, 2, 0],
        offset: 128,
    };
    let row = |w: u16, z: u16, y: u16| (0..8).map(move |x| ((w * 3 + z) * 4 + y) * 8 + x);
    let expected: Vec<u16> = row(0, 2, 2).chain([0; 8]).chain(row(1, 2, 2)).chain([0; 8]).collect();
    assert_eq!(place.load(&tensor, 1).unwrap(), expected);
    let three = BoxOf { extents: &[8, 12, 2], strides: &[16, 192], boxes: &[8, 1, 1], origin: &[0, 5, 1], ..place };
    assert_eq!(three.load(&tensor, 1).unwrap(), row(1, 1, 1).collect::<Vec<_>>());
}

#[test]
fn boxes_are_where_they_may_be() {
    let tensor = Buffer::of(&counting(64));
    let place =
        BoxOf { extents: &[8, 8], strides: &[16], boxes: &[8, 8], swizzle: Swizzle::None, origin: &[0, 0], offset: 64 };
    assert!(matches!(place.load(&tensor, 0), Err(Fault::Misaligned { alignment: 128, .. })));
    let narrow = BoxOf { offset: 1024, swizzle: Swizzle::Bytes64, ..place };
    assert!(matches!(narrow.load(&tensor, 0), Err(Fault::Misuse { .. })));
    let over_the_barrier = BoxOf { offset: 0, ..place };
    assert!(matches!(over_the_barrier.load(&tensor, 0), Err(Fault::Misuse { .. })));
}

fn store(way: u32, is_fenced: bool, is_awaited: bool, seed: u64) -> Result<(Vec<u16>, Vec<u16>), Fault> {
    // A tensor of 80 x 70 in rows of 88; the box hangs over two of its edges.
    let input = counting(64 * 64);
    let (tensor, source) = (Buffer::poisoned::<u16>(70 * 88), Buffer::of(&input));
    let map = TiledTensor {
        address: tensor.address(),
        element_bytes: 2,
        extents: &[80, 70],
        strides: &[176],
        boxes: &[64, 64],
        swizzle: Swizzle::Bytes128,
    };
    let params = Params::new().tensor_map(&TensorMap::tiled(&map).unwrap()).buffer(&source);
    let params = params.u32(32).u32(-4i32 as u32).u32(is_fenced.into()).u32(is_awaited.into()).u32(way);
    Kernel::named("store_tensor_box").shared_bytes(8192).programmatic().seed(seed).run(&params)?;
    let expected = (0..70 * 88).map(|place| match (place / 88, place % 88) {
        (row, column @ 32..80) if row < 60 => input[64 * (row + 4) + column - 32],
        _ => u16::MAX,
    });
    Ok((tensor.read(), expected.collect()))
}

#[test]
fn stores_write_what_is_inside_of_the_tensor() {
    for seed in SEEDS {
        for way in 0..3 {
            let (found, expected) = store(way, true, true, seed).unwrap();
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn stores_read_what_was_fenced_and_stays() {
    let wrong = |seed| store(0, true, false, seed).is_ok_and(|(found, expected)| found != expected);
    assert!(SEEDS.filter(|&seed| wrong(seed)).count() >= 4);
    for seed in SEEDS {
        // Plain stores are not noted under a sanitizer; what the machine writes for a thread is.
        for way in u32::from(cfg!(feature = "sanitize"))..3 {
            assert!(matches!(store(way, false, true, seed), Err(Fault::Misuse { operation: "store_tensor", .. })));
        }
    }
}

fn warp(name: &str, len: usize, fault: u32, seed: u64) -> Result<Vec<u32>, Fault> {
    let output = Buffer::of(&vec![0u32; len]);
    let params = Params::new().buffer(&output).u32(fault);
    Kernel::named(name).shared_bytes(8192).seed(seed).run(&params)?;
    Ok(output.read())
}

#[test]
fn matrices_are_stored_by_rows_and_by_columns() {
    let found = warp("store_matrices_of_lanes", 512, 0, 0).unwrap();
    let straight: Vec<u32> = (0..256).collect();
    let transposed: Vec<u32> = (0..256).map(|i| i / 64 * 64 + i % 8 * 8 + i / 8 % 8).collect();
    assert_eq!(found, [straight, transposed].concat());
}

#[test]
fn one_lane_is_elected() {
    for seed in SEEDS {
        assert_eq!(warp("elect_lanes", 3, 0, seed).unwrap(), [1, 1, 32]);
    }
}

#[test]
fn numbered_barriers_count_threads() {
    let expected: Vec<u32> = (0..256).map(|i| i / 64 * 100 + (i + 1) % 64).collect();
    for seed in SEEDS {
        assert_eq!(warp("hand_over", 256, 0, seed).unwrap(), expected);
    }
    assert!(SEEDS.filter(|&seed| warp("hand_over", 256, 1, seed) != Ok(expected.clone())).count() >= 6);
}

#[test]
fn registers_change_hands() {
    for seed in SEEDS {
        assert_eq!(warp("hand_registers", 384, 0, seed).unwrap(), (0..384).collect::<Vec<_>>());
        assert!(matches!(warp("hand_registers", 384, 1, seed), Err(Fault::Divergence { .. })));
        assert!(matches!(warp("hand_registers", 384, 2, seed), Err(Fault::Misuse { .. })));
    }
}

#[test]
fn phases_of_a_barrier() {
    let expected: Vec<u32> = (0..640).map(|i| i / 128 * 1000 + (i + 32) % 128).collect();
    for seed in SEEDS {
        assert_eq!(warp("arrive_and_wait", 640, 0, seed).unwrap(), expected);
    }
    // The wrong phase is over already.
    assert!(SEEDS.filter(|&seed| warp("arrive_and_wait", 640, 1, seed) != Ok(expected.clone())).count() >= 6);
}

#[test]
fn grids_that_may_start_early_wait() {
    let run = |fault| {
        let output = Buffer::of(&[0u32; 64]);
        Kernel::named("wait_for_grid").programmatic().run(&Params::new().buffer(&output).u32(fault))
    };
    assert_eq!(run(0), Ok(()));
    if !cfg!(feature = "sanitize") {
        assert!(matches!(run(1), Err(Fault::Misuse { operation: "a store", .. })));
    }
    assert!(matches!(run(2), Err(Fault::Unfinished { .. })));
}
