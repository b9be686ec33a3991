//! Each instruction against examples worked out by hand from the PTX manual.

use tilesight_simulator::machine::testing::{Buffer, Kernel, Params, SEEDS};
use tilesight_simulator::machine::{Adversary, Landing};

/// bf16 bits of a number that it holds exactly.
fn bf16(value: f32) -> u16 {
    (value.to_bits() >> 16) as u16
}

#[test]
fn threads_have_their_names() {
    let (grid, block) = ([3, 2, 2], [5, 3, 4]);
    let names = Buffer::poisoned::<[u32; 4]>(12 * 60);
    let count = Buffer::of(&[0u32]);
    let params = Params::new().buffer(&names).buffer(&count);
    Kernel::named("name_threads").grid(grid).block(block).seed(7).run(&params).unwrap();
    assert_eq!(count.read::<u32>(), [720]);
    let pack = |[x, y, z]: [u32; 3]| x | y << 10 | z << 20;
    for (place, name) in names.read::<[u32; 4]>().into_iter().enumerate() {
        let place = place as u32;
        let (outer, inner) = (place / 60, place % 60);
        let thread = [inner % 5, inner / 5 % 3, inner / 15];
        let block_index = [outer % 3, outer / 3 % 2, outer / 6];
        assert_eq!(name, [pack(thread), pack(block_index), pack(block), pack(grid)]);
    }
}

/// Four matrices in shared memory, element (i, r, c) = 100 i + 10 r + c, each row at the place that `row` gives it.
fn load_matrices(transposed: bool, row: impl Fn(usize, usize) -> usize) -> Vec<[u32; 4]> {
    let mut image = vec![0u16; 256];
    let mut rows = vec![0u32; 32];
    for (i, r) in (0..4).flat_map(|i| (0..8).map(move |r| (i, r))) {
        let place = row(i, r);
        rows[8 * i + r] = 16 * place as u32;
        (0..8).for_each(|c| image[8 * place + c] = (100 * i + 10 * r + c) as u16);
    }
    let (image, rows) = (Buffer::of(&image), Buffer::of(&rows));
    let fragments = Buffer::poisoned::<[u32; 4]>(32);
    let params = Params::new().buffer(&image).buffer(&rows).buffer(&fragments).u32(transposed.into());
    Kernel::named("load_matrices_once").shared_bytes(512).run(&params).unwrap();
    fragments.read()
}

fn pair(low: u32, high: u32) -> u32 {
    low | high << 16
}

#[test]
fn load_matrices_spreads_rows() {
    let fragments = load_matrices(false, |i, r| 8 * i + r);
    // Thread 0 holds the first two elements of row 0, thread 3 its last two, thread 4 the first two of row 1.
    assert_eq!(fragments[0], [pair(0, 1), pair(100, 101), pair(200, 201), pair(300, 301)]);
    assert_eq!(fragments[3], [pair(6, 7), pair(106, 107), pair(206, 207), pair(306, 307)]);
    assert_eq!(fragments[4], [pair(10, 11), pair(110, 111), pair(210, 211), pair(310, 311)]);
    assert_eq!(fragments[31], [pair(76, 77), pair(176, 177), pair(276, 277), pair(376, 377)]);
}

#[test]
fn load_matrices_takes_rows_from_where_their_lane_says() {
    assert_eq!(load_matrices(false, |i, r| (13 * (8 * i + r) + 5) % 32), load_matrices(false, |i, r| 8 * i + r));
}

#[test]
fn load_matrices_transposed_spreads_columns() {
    let fragments = load_matrices(true, |i, r| 8 * i + r);
    assert_eq!(fragments[0], [pair(0, 10), pair(100, 110), pair(200, 210), pair(300, 310)]);
    assert_eq!(fragments[3], [pair(60, 70), pair(160, 170), pair(260, 270), pair(360, 370)]);
    assert_eq!(fragments[4], [pair(1, 11), pair(101, 111), pair(201, 211), pair(301, 311)]);
    assert_eq!(fragments[31], [pair(67, 77), pair(167, 177), pair(267, 277), pair(367, 377)]);
}

#[test]
fn copies_fill_up_with_zeros() {
    // The last lane's source has 3 bytes, and no more is read.
    let num_bytes: Vec<u32> = (0..31).map(|lane| lane % 17).chain([3]).collect();
    let source: Vec<u8> = (0..31 * 16 + 3).map(|byte| 1 + (byte % 250) as u8).collect();
    let expected = (0..32).flat_map(|lane| (0..16).map(move |byte| (lane, byte)));
    let expected =
        expected.map(|(lane, byte)| if byte < num_bytes[lane] as usize { source[16 * lane + byte] } else { 0 });
    let expected: Vec<u8> = expected.collect();
    for seed in SEEDS {
        let (source, num_bytes, copies) = (Buffer::of(&source), Buffer::of(&num_bytes), Buffer::poisoned::<u8>(512));
        let params = Params::new().buffer(&source).buffer(&num_bytes).buffer(&copies);
        Kernel::named("copy_once").shared_bytes(512).seed(seed).run(&params).unwrap();
        assert_eq!(copies.read::<u8>(), expected);
    }
}

/// Which of four copies of 16 bytes have landed after each of three waits.
fn landed(landing: Landing) -> Vec<bool> {
    let source = Buffer::of(&[7u8; 64]);
    let copies = Buffer::poisoned::<u8>(192);
    let adversary = Adversary { landing, ..Adversary::default() };
    let kernel = Kernel::named("copy_groups").shared_bytes(64).adversary(adversary);
    kernel.run(&Params::new().buffer(&source).buffer(&copies)).unwrap();
    copies.read::<[u8; 16]>().iter().map(|copy| *copy == [7; 16]).collect()
}

#[test]
fn waits_are_for_groups() {
    let expected = [[true, false, false, false], [true, true, true, false], [true, true, true, false]];
    assert_eq!(landed(Landing::Late), expected.as_flattened());
    assert_eq!(landed(Landing::AtIssue), [true; 12]);
}

type Matrix<const ROWS: usize, const COLUMNS: usize> = [[f32; COLUMNS]; ROWS];

/// a * b + c through the kernel, elements placed by the manual's table for mma.m16n8k16: element i of A's fragment of a
/// lane is in row groupID (+ 8 unless i is 0, 1, 4 or 5) and column 2 * threadID_in_group + (i & 1) (+ 8 from i = 4
/// on); element i of B's in row 2 * threadID_in_group + (i & 1) (+ 8 from i = 2 on) and column groupID; element i of
/// C's in row groupID (+ 8 from i = 2 on) and column 2 * threadID_in_group + (i & 1).
fn multiply(
    kernel: &str,
    bits: fn(f32) -> u16,
    a: &Matrix<16, 16>,
    b: &Matrix<16, 8>,
    c: &Matrix<16, 8>,
) -> Matrix<16, 8> {
    let (mut a_fragments, mut b_fragments, mut c_fragments) = (vec![0u16; 256], vec![0u16; 128], vec![0f32; 128]);
    let c_place = |lane: usize, i: usize| (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + (i & 1));
    for lane in 0..32 {
        let (group, thread) = (lane / 4, lane % 4);
        for i in 0..8 {
            let row = if matches!(i, 0 | 1 | 4 | 5) { group } else { group + 8 };
            let column = 2 * thread + (i & 1) + if i < 4 { 0 } else { 8 };
            a_fragments[8 * lane + i] = bits(a[row][column]);
        }
        for i in 0..4 {
            b_fragments[4 * lane + i] = bits(b[2 * thread + (i & 1) + if i < 2 { 0 } else { 8 }][group]);
            let (row, column) = c_place(lane, i);
            c_fragments[4 * lane + i] = c[row][column];
        }
    }
    let (a, b, sums) = (Buffer::of(&a_fragments), Buffer::of(&b_fragments), Buffer::of(&c_fragments));
    Kernel::named(kernel).run(&Params::new().buffer(&a).buffer(&b).buffer(&sums).u32(1)).unwrap();
    let sums = sums.read::<[f32; 4]>();
    let mut product = [[0.0; 8]; 16];
    for (lane, i) in (0..32).flat_map(|lane| (0..4).map(move |i| (lane, i))) {
        let (row, column) = c_place(lane, i);
        product[row][column] = sums[lane][i];
    }
    product
}

/// fp16 bits of a number that both types hold exactly and that is normal or zero.
fn fp16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value == 0.0 { 0 } else { ((bits >> 16 & 0x8000) | ((bits & 0x7fff_ffff) - 0x3800_0000) >> 13) as u16 }
}

#[test]
fn products_of_matrices_are_products_of_matrices() {
    let mut number = 1u32;
    let mut next = || {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (number >> 24) as f32 - 128.0
    };
    let a: Matrix<16, 16> = std::array::from_fn(|_| std::array::from_fn(|_| next()));
    let b: Matrix<16, 8> = std::array::from_fn(|_| std::array::from_fn(|_| next()));
    let c: Matrix<16, 8> = std::array::from_fn(|_| std::array::from_fn(|_| next()));
    // Whole numbers below 2^24 all along, so any order of summation gives this.
    let expected: Matrix<16, 8> =
        std::array::from_fn(|m| std::array::from_fn(|n| c[m][n] + (0..16).map(|k| a[m][k] * b[k][n]).sum::<f32>()));
    assert_eq!(multiply("multiply_once_bf16", bf16, &a, &b, &c), expected);
    assert_eq!(multiply("multiply_once_fp16", fp16, &a, &b, &c), expected);
}

#[test]
fn a_product_is_exact_and_a_sum_is_single() {
    // (1 + 2^-7)^2 and (1 + 2^-10)^2 need 15 and 21 bits.
    for (kernel, bits, step) in
        [("multiply_once_bf16", bf16 as fn(f32) -> u16, 1.0 / 128.0), ("multiply_once_fp16", fp16, 1.0 / 1024.0)]
    {
        let (mut a, mut b, mut c) = ([[0.0; 16]; 16], [[0.0; 8]; 16], [[0.0; 8]; 16]);
        (a[3][5], b[5][6]) = (1.0 + step, 1.0 + step);
        assert_eq!(multiply(kernel, bits, &a, &b, &c)[3][6], 1.0 + 2.0 * step + step * step);
        c[3][6] = 16_777_216.0;
        assert_eq!(multiply(kernel, bits, &a, &b, &c)[3][6], 16_777_218.0);
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    let (mut a, mut b, c) = ([[1.0; 16]; 16], [[1.0; 8]; 16], [[0.0; 8]; 16]);
    a[2][9] = f32::INFINITY;
    b[9][4] = 0.0;
    let product = multiply("multiply_once_bf16", bf16, &a, &b, &c);
    assert!(product[2][4].is_nan());
    assert_eq!((product[2][3], product[3][4], product[3][3]), (f32::INFINITY, 15.0, 16.0));
}

fn shuffle(mode: u32, operand: u32, width: u32, mask: u32) -> Vec<u32> {
    let values = Buffer::of(&(0..32).map(|lane| 1000 + lane).collect::<Vec<u32>>());
    let params = Params::new().buffer(&values).u32(mask).u32(mode).u32(operand).u32(width);
    Kernel::named("shuffle_once").seed(operand.into()).run(&params).unwrap();
    values.read::<u32>().into_iter().map(|value| value - 1000).collect()
}

#[test]
fn shuffles_take_from_their_source() {
    let lanes = |source: fn(u32) -> u32| (0..32).map(source).collect::<Vec<_>>();
    let all = u32::MAX;
    assert_eq!(shuffle(0, 9, 32, all), lanes(|_| 9));
    assert_eq!(shuffle(0, 41, 32, all), lanes(|_| 9), "an index is taken modulo the width");
    assert_eq!(shuffle(0, 3, 8, all), lanes(|lane| lane / 8 * 8 + 3));
    assert_eq!(shuffle(1, 3, 32, all), lanes(|lane| if lane < 3 { lane } else { lane - 3 }));
    assert_eq!(shuffle(1, 3, 16, all), lanes(|lane| if lane % 16 < 3 { lane } else { lane - 3 }));
    assert_eq!(shuffle(2, 5, 32, all), lanes(|lane| if lane > 26 { lane } else { lane + 5 }));
    assert_eq!(shuffle(2, 5, 8, all), lanes(|lane| if lane % 8 > 2 { lane } else { lane + 5 }));
    assert_eq!(shuffle(3, 17, 32, all), lanes(|lane| lane ^ 17));
    assert_eq!(shuffle(3, 1, 4, 0x0000_ff00), lanes(|lane| if lane / 8 == 1 { lane ^ 1 } else { lane }));
}

#[test]
fn a_vote_is_of_the_lanes_of_its_mask() {
    let vote = |holding: &[usize], mask: u32| -> Vec<u32> {
        let holds: Vec<u32> = (0..32).map(|lane| if holding.contains(&lane) { 7 } else { lane as u32 % 7 }).collect();
        let (holds, any) = (Buffer::of(&holds), Buffer::of(&[9u32; 32]));
        let params = Params::new().buffer(&holds).buffer(&any).u32(mask);
        Kernel::named("vote_once").seed(mask.into()).run(&params).unwrap();
        any.read()
    };
    let lanes = |any: fn(u32) -> u32| (0..32).map(any).collect::<Vec<_>>();
    assert_eq!(vote(&[], u32::MAX), [0; 32]);
    assert_eq!(vote(&[31], u32::MAX), [1; 32]);
    assert_eq!(vote(&[0, 5, 17], u32::MAX), [1; 32]);
    // Lane 20 is not asked.
    assert_eq!(vote(&[20], 0x0000_ff00), lanes(|lane| if lane / 8 == 1 { 0 } else { 9 }));
    assert_eq!(vote(&[12, 20], 0x0000_ff00), lanes(|lane| if lane / 8 == 1 { 1 } else { 9 }));
}

/// Values, and the bits that they have as bf16 and as fp16.
const CONVERSIONS: [(f32, u16, u16); 22] = [
    (0.0, 0x0000, 0x0000),
    (-0.0, 0x8000, 0x8000),
    (1.0, 0x3f80, 0x3c00),
    (-2.5, 0xc020, 0xc100),
    // Ties: bf16 has 7 bits after the first, fp16 10.
    (1.0 + 1.0 / 256.0, 0x3f80, 0x3c04),
    (1.0 + 3.0 / 256.0, 0x3f82, 0x3c0c),
    (1.0 + 1.0 / 2048.0, 0x3f80, 0x3c00),
    (1.0 + 3.0 / 2048.0, 0x3f80, 0x3c02),
    // Just above a tie.
    (1.003_906_4, 0x3f81, 0x3c04),
    (1.000_488_4, 0x3f80, 0x3c01),
    // A carry into the exponent.
    (1.999_999_9, 0x4000, 0x4000),
    // The largest of fp16, half way to the next, just below that.
    (65504.0, 0x4780, 0x7bff),
    (65520.0, 0x4780, 0x7c00),
    (65519.996, 0x4780, 0x7bff),
    // Beyond the largest of bf16.
    (3.4e38, 0x7f80, 0x7c00),
    (f32::NEG_INFINITY, 0xff80, 0xfc00),
    // The smallest normal of fp16, subnormals, ties between them, half of the smallest.
    (6.103_515_6e-5, 0x3880, 0x0400),
    (5.960_464_5e-8, 0x3380, 0x0001),
    (8.940_697e-8, 0x33c0, 0x0002),
    (2.980_232_2e-8, 0x3300, 0x0000),
    (-2.980_232_6e-8, 0xb300, 0x8001),
    // A subnormal of bf16.
    (9.183_55e-41, 0x0001, 0x0000),
];

fn convert(wide: &[f32]) -> [Vec<u32>; 3] {
    let input = Buffer::of(wide);
    let (bf16, fp16) = (Buffer::poisoned::<u16>(wide.len()), Buffer::poisoned::<u16>(wide.len()));
    let (back, pairs) = (Buffer::poisoned::<[f32; 2]>(wide.len()), Buffer::poisoned::<[u32; 2]>(wide.len()));
    let power = Buffer::poisoned::<f32>(wide.len());
    let params = Params::new().buffer(&input).buffer(&bf16).buffer(&fp16).buffer(&back).buffer(&pairs).buffer(&power);
    Kernel::named("convert").run(&params.u32(wide.len() as u32)).unwrap();
    let (bf16, fp16, pairs) = (bf16.read::<u16>(), fp16.read::<u16>(), pairs.read::<[u32; 2]>());
    for (i, pair) in pairs.iter().enumerate().filter(|&(i, _)| !wide[i].is_nan()) {
        let [narrow_bf16, narrow_fp16] = [bf16[i], fp16[i]].map(u32::from);
        assert_eq!(*pair, [narrow_bf16 | (narrow_bf16 ^ 0x8000) << 16, narrow_fp16 | (narrow_fp16 ^ 0x8000) << 16]);
    }
    let widened = |bits: &[u16]| bits.iter().map(|&bits| u32::from(bits)).collect::<Vec<_>>();
    [widened(&bf16), widened(&fp16), power.read::<u32>()]
}

#[test]
fn conversions_round_to_nearest_even() {
    let [bf16, fp16, _] = convert(&CONVERSIONS.map(|(wide, ..)| wide));
    for (i, (wide, as_bf16, as_fp16)) in CONVERSIONS.into_iter().enumerate() {
        assert_eq!((bf16[i], fp16[i]), (as_bf16.into(), as_fp16.into()), "{wide:e}");
    }
}

#[test]
fn conversions_make_one_nan() {
    let nans = [0x7f80_0001, 0x7fc0_0000, 0x7fff_ffff, 0xff80_0001, 0xffff_ffff].map(f32::from_bits);
    let [bf16, fp16, _] = convert(&nans);
    assert_eq!((bf16, fp16), (vec![0x7fff; 5], vec![0x7fff; 5]));
}

#[test]
fn every_element_widens_to_its_value() {
    let (bf16, fp16) = (Buffer::poisoned::<f32>(65536), Buffer::poisoned::<f32>(65536));
    Kernel::named("widen_all").run(&Params::new().buffer(&bf16).buffer(&fp16)).unwrap();
    for (bits, (bf16, fp16)) in bf16.read::<f32>().into_iter().zip(fp16.read::<f32>()).enumerate() {
        assert_eq!(bf16.to_bits(), (bits as u32) << 16);
        let (exponent, significand) = ((bits >> 10 & 31) as i32, (bits & 1023) as f64);
        let magnitude = match exponent {
            31 if significand == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            0 => significand * 2f64.powi(-24),
            _ => (1.0 + significand / 1024.0) * 2f64.powi(exponent - 15),
        };
        let expected = if bits >> 15 == 1 { -magnitude } else { magnitude };
        assert!(
            f64::from(fp16) == expected || (fp16.is_nan() && expected.is_nan()),
            "{bits:#06x}: {fp16} is not {expected}"
        );
        assert_eq!(fp16.is_sign_negative(), bits >> 15 == 1, "{bits:#06x}");
    }
}

#[test]
fn powers_of_two_flush_subnormals() {
    let exponents = [0.0, 3.0, -1.0, 0.5, -126.0, -126.5, -140.0, 127.0, 128.0, f32::NEG_INFINITY, f32::INFINITY];
    let [.., powers] = convert(&exponents);
    let expected = [
        1.0,
        8.0,
        0.5,
        std::f32::consts::SQRT_2,
        f32::MIN_POSITIVE,
        0.0,
        0.0,
        2f32.powi(127),
        f32::INFINITY,
        0.0,
        f32::INFINITY,
    ];
    assert_eq!(powers, expected.map(f32::to_bits));
    assert!(f32::from_bits(convert(&[f32::NAN])[2][0]).is_nan());
}

#[test]
fn a_grid_covers_its_values_under_any_seed() {
    for seed in SEEDS {
        let input = Buffer::of(&(0..1000).map(|value| value as f32).collect::<Vec<_>>());
        let output = Buffer::poisoned::<f32>(1001);
        let params = Params::new().buffer(&input).buffer(&output).u32(1000);
        Kernel::named("double_values").grid([8, 1, 1]).seed(seed).run(&params).unwrap();
        let output = output.read::<f32>();
        assert!((0..1000).all(|i| output[i] == 2.0 * i as f32));
        assert!(output[1000].is_nan(), "what a kernel does not write stays as it was");
    }
}
