//! A product of two matrices by `load_tensor` and `wgmma`, in all layouts, against one in f64; what is left out is found.

use half::{bf16, f16};
use tilesight_simulator::machine::testing::{Buffer, Kernel, Params, SEEDS};
use tilesight_simulator::machine::{Adversary, Fault, Landing, Order, Swizzle, TensorMap, TiledTensor};

const ROWS: usize = 64;
const DEPTH: usize = 320;

/// What `hopper_products.cu` leaves out, or adds.
const NOTHING: u32 = 0;
const FULL_WAIT: u32 = 1;
const EMPTY_WAIT: u32 = 2;
const PRODUCT_WAIT: u32 = 3;
const RELEASE_WAIT: u32 = 4;
const PRODUCT_FENCE: u32 = 5;
const SOME_BYTES: u32 = 6;
const INIT_FENCE: u32 = 7;
const MORE_BYTES: u32 = 8;
const OTHER_PARITY: u32 = 9;
const WRITTEN_SUMS: u32 = 10;
const WRITTEN_STAGE: u32 = 11;
const OVERLAPPED: u32 = 12;

/// The bits of elements, and the elements.
fn elements(len: usize, salt: usize, is_fp16: bool) -> (Vec<u16>, Vec<f64>) {
    let bits = |index: usize| {
        let value = ((index * 37 + salt * 101 + index / 7) % 61) as f32 / 16.0 - 1.9;
        if is_fp16 { f16::from_f32(value).to_bits() } else { bf16::from_f32(value).to_bits() }
    };
    let bits: Vec<u16> = (0..len).map(bits).collect();
    let value = |&bits: &u16| if is_fp16 { f16::from_bits(bits).to_f64() } else { bf16::from_bits(bits).to_f64() };
    let values = bits.iter().map(value).collect();
    (bits, values)
}

#[derive(Clone, Copy)]
struct Variant {
    name: &'static str,
    columns: usize,
    swizzle: Swizzle,
    is_n_major: bool,
    is_fp16: bool,
}

const fn variant(name: &'static str, columns: usize, swizzle: Swizzle, is_n_major: bool, is_fp16: bool) -> Variant {
    Variant { name, columns, swizzle, is_n_major, is_fp16 }
}

const VARIANTS: [Variant; 14] = [
    variant("product_bf16_none", 96, Swizzle::None, false, false),
    variant("product_bf16_32", 96, Swizzle::Bytes32, false, false),
    variant("product_bf16_64", 96, Swizzle::Bytes64, false, false),
    variant("product_bf16_128", 96, Swizzle::Bytes128, false, false),
    variant("product_fp16_128", 96, Swizzle::Bytes128, false, true),
    variant("product_n_bf16_none", 96, Swizzle::None, true, false),
    variant("product_n_bf16_32", 96, Swizzle::Bytes32, true, false),
    variant("product_n_bf16_64", 96, Swizzle::Bytes64, true, false),
    variant("product_n_bf16_128", 96, Swizzle::Bytes128, true, false),
    variant("product_a_bf16_128", 96, Swizzle::Bytes128, false, false),
    variant("product_a_n_fp16_128", 96, Swizzle::Bytes128, true, true),
    variant("product_16_bf16_128", 16, Swizzle::Bytes128, false, false),
    variant("product_104_bf16_64", 104, Swizzle::Bytes64, false, false),
    variant("product_256_fp16_128", 256, Swizzle::Bytes128, true, true),
];

impl Variant {
    fn row_elements(self) -> usize {
        match self.swizzle {
            Swizzle::None => 8,
            Swizzle::Bytes32 => 16,
            Swizzle::Bytes64 => 32,
            Swizzle::Bytes128 => 64,
        }
    }

    fn map(self, tensor: &Buffer, extents: [usize; 2], box_rows: usize) -> TensorMap {
        let tensor = TiledTensor {
            address: tensor.address(),
            element_bytes: 2,
            extents: &extents.map(|extent| extent as u64),
            strides: &[2 * extents[0] as u64],
            boxes: &[self.row_elements() as u32, box_rows as u32],
            swizzle: self.swizzle,
        };
        TensorMap::tiled(&tensor).unwrap()
    }

    /// The product, and how far it is from the one in f64, at most.
    fn run(self, fault: u32, adversary: Adversary, seed: u64) -> Result<f64, Fault> {
        self.run_at(0, fault, adversary, seed)
    }

    /// The same with all tiles so many bytes on.
    fn run_at(self, shift: u32, fault: u32, adversary: Adversary, seed: u64) -> Result<f64, Fault> {
        let columns = self.columns;
        let depth_of_stage = if self.swizzle == Swizzle::None { 32 } else { self.row_elements() };
        let (a_bits, a) = elements(ROWS * DEPTH, 1, self.is_fp16);
        let (b_bits, b) = elements(columns * DEPTH, 2, self.is_fp16);
        let (a_buffer, b_buffer) = (Buffer::of(&a_bits), Buffer::of(&b_bits));
        let a_map = self.map(&a_buffer, [DEPTH, ROWS], ROWS);
        let b_map = match self.is_n_major {
            true => self.map(&b_buffer, [columns, DEPTH], depth_of_stage),
            false => self.map(&b_buffer, [DEPTH, columns], columns),
        };
        let output = Buffer::poisoned::<f32>(ROWS * columns);
        let params = Params::new().tensor_map(&a_map).tensor_map(&b_map).buffer(&a_buffer).buffer(&output);
        let params = params.u32(DEPTH as u32).u32(fault).u32(shift);
        let stage_bytes = (2 * depth_of_stage * (ROWS + columns.next_multiple_of(64))).next_multiple_of(1024);
        let kernel = Kernel::named(self.name).shared_bytes(shift + 2 * stage_bytes as u32 + 32);
        kernel.seed(seed).adversary(adversary).run(&params)?;
        let b_at = |k: usize, n: usize| if self.is_n_major { b[k * columns + n] } else { b[n * DEPTH + k] };
        let found = output.read::<f32>();
        let errors = (0..ROWS * columns).map(|place| {
            let (row, column) = (place / columns, place % columns);
            let exact: f64 = (0..DEPTH).map(|k| a[row * DEPTH + k] * b_at(k, column)).sum();
            (f64::from(found[place]) - exact).abs()
        });
        // A NaN is no error that could be small.
        Ok(errors.fold(0.0, |most, error| if error <= most { most } else { error }))
    }
}

/// Sums of 320 products of numbers below 2, in f32.
const TOLERANCE: f64 = 1e-3;

#[test]
fn products_in_all_layouts() {
    for variant in VARIANTS {
        for seed in SEEDS {
            let error = variant.run(NOTHING, Adversary::default(), seed).unwrap();
            assert!(error <= TOLERANCE, "{}, seed {seed}: {error}", variant.name);
        }
    }
}

#[test]
fn tiles_start_anywhere() {
    for variant in VARIANTS {
        for shift in [128, 640] {
            let error = variant.run_at(shift, NOTHING, Adversary::default(), 0).unwrap();
            assert!(error <= TOLERANCE, "{}, {shift} bytes on: {error}", variant.name);
        }
    }
}

#[test]
fn groups_overlap() {
    for seed in SEEDS {
        for variant in [VARIANTS[0], VARIANTS[3], VARIANTS[8]] {
            let error = variant.run(OVERLAPPED, Adversary::default(), seed).unwrap();
            assert!(error <= TOLERANCE, "{}, seed {seed}: {error}", variant.name);
        }
    }
}

/// How many of the seeds give a wrong result or a fault.
fn caught(variant: Variant, fault: u32) -> usize {
    let wrong =
        |&seed: &u64| !matches!(variant.run(fault, Adversary::default(), seed), Ok(error) if error <= TOLERANCE);
    SEEDS.filter(wrong).count()
}

#[test]
fn a_wait_that_is_missing() {
    let variant = VARIANTS[3];
    assert!(caught(variant, FULL_WAIT) >= 4);
    assert!(caught(variant, EMPTY_WAIT) >= 4);
    assert!(caught(variant, RELEASE_WAIT) >= 4);
    // Sums are nobody's until their wait, whenever the product was done.
    assert_eq!(caught(variant, PRODUCT_WAIT), SEEDS.count());
}

#[test]
fn bytes_that_are_not_announced_right() {
    for fault in [SOME_BYTES, MORE_BYTES, OTHER_PARITY] {
        assert_eq!(caught(VARIANTS[3], fault), SEEDS.count(), "{fault}");
    }
}

#[test]
fn fences_that_are_missing() {
    for seed in SEEDS {
        let misuse = |fault| VARIANTS[3].run(fault, Adversary::default(), seed);
        assert!(matches!(misuse(PRODUCT_FENCE), Err(Fault::Misuse { operation: "wgmma", .. })));
        assert!(matches!(misuse(INIT_FENCE), Err(Fault::Misuse { operation: "load_tensor", .. })));
        assert!(matches!(misuse(WRITTEN_SUMS), Err(Fault::Misuse { .. })));
        if !cfg!(feature = "sanitize") {
            assert!(matches!(misuse(WRITTEN_STAGE), Err(Fault::Misuse { operation: "wgmma", .. })));
        }
    }
}

#[test]
fn operands_are_read_late_and_at_once() {
    for landing in [Landing::Late, Landing::AtIssue, Landing::Mixed] {
        let adversary = Adversary { landing, order: Order::Ascending, ..Adversary::default() };
        for variant in [VARIANTS[3], VARIANTS[8], VARIANTS[9]] {
            assert!(variant.run(NOTHING, adversary, 0).unwrap() <= TOLERANCE);
        }
    }
}
