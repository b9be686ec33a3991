//! Products of a warpgroup ("wgmma"), a warp at a time: each does its 16 rows when it has to, and not before the others
//! because they have done theirs.

use std::collections::VecDeque;
use std::ffi::c_void;

use super::super::fault::Fault;
use super::super::matrix::widen;
use super::super::operation::Request;
use super::super::thread::Thread;
use super::super::warp::operands;
use super::Hopper;
use super::meetings::{Deed, GROUP_WARPS};
use super::operands::{DEPTH, SharedOperand};

/// Rows of a product that are one warp's.
const ROWS: usize = 16;

/// N at most.
const MAX_COLUMNS: usize = 256;

/// What accumulators hold while a product is under way: a NaN, and nothing that a program would store.
const UNDER_WAY: u32 = 0xffff_ffff;

/// `SimulatorWgmma` of `include/sm90/hopper.cuh`.
#[repr(C)]
pub(super) struct WgmmaOperands {
    sums: *mut u32,
    a_fragments: *const [u32; 4],
    a: u64,
    b: u64,
    length: u32,
    is_fp16: u32,
    b_major: u32,
    accumulate: u32,
}

/// A's 16 rows and all of B, as `[k][row]`.
struct Values {
    a: [[f32; ROWS]; DEPTH],
    b: [[f32; MAX_COLUMNS]; DEPTH],
}

enum OperandA {
    Shared(SharedOperand),
    /// The lanes' fragments.
    Registers(Box<[*const [u32; 4]; 32]>),
}

/// A product that is under way.
struct Product {
    /// Which accumulators it adds to.
    sums: *mut u32,
    a: OperandA,
    b: SharedOperand,
    accumulates: bool,
    /// What was read at once.
    values: Option<Box<Values>>,
    group: u64,
}

/// Accumulators that products under way add to: 16 rows, kept here meanwhile.
struct Accumulators {
    /// The lanes'.
    lanes: [*mut u32; 32],
    columns: usize,
    sums: Vec<f32>,
    /// Products that are still to be added.
    open: usize,
}

/// The products of a warp.
#[derive(Default)]
pub(super) struct Products {
    pending: VecDeque<Product>,
    accumulators: Vec<Accumulators>,
    groups: u64,
    /// Whether a fence came since the last group was closed.
    is_fenced: bool,
}

impl Accumulators {
    /// Visits lane, register, and their place in the 16 rows.
    fn places(columns: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        (0..32).flat_map(move |lane| {
            (0..columns / 2).map(move |register| {
                let (row, column) = (lane / 4 + register / 2 % 2 * 8, register / 4 * 8 + 2 * (lane % 4) + register % 2);
                (lane, register, row * columns + column)
            })
        })
    }

    /// Takes the sums, and leaves none.
    fn take(lanes: [*mut u32; 32], columns: usize) -> Self {
        let mut sums = vec![0.0; ROWS * columns];
        for (lane, register, place) in Self::places(columns) {
            let register = lanes[lane].wrapping_add(register);
            // SAFETY: an element of the lane's array, which waits or is suspended.
            sums[place] = f32::from_bits(unsafe { register.replace(UNDER_WAY) });
        }
        Self { lanes, columns, sums, open: 0 }
    }

    /// The lane that has touched its sums meanwhile.
    fn touched(&self) -> Option<usize> {
        Self::places(self.columns).find_map(|(lane, register, _)| {
            // SAFETY: as above: a product's sums stay where they are until its wait.
            let bits = unsafe { self.lanes[lane].wrapping_add(register).read() };
            (bits != UNDER_WAY).then_some(lane)
        })
    }

    fn give_back(&self) {
        for (lane, register, place) in Self::places(self.columns) {
            // SAFETY: as above.
            unsafe { self.lanes[lane].wrapping_add(register).write(self.sums[place].to_bits()) };
        }
    }

    /// Adds products one by one, in ascending order of k, as `mma` does.
    fn add(&mut self, values: &Values, accumulates: bool) {
        if !accumulates {
            self.sums.fill(0.0);
        }
        for (row, sums) in self.sums.chunks_exact_mut(self.columns).enumerate() {
            for (a, b) in values.a.iter().zip(&values.b) {
                let a = a[row];
                sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
            }
        }
    }
}

impl Product {
    fn read(&self, hopper: &Hopper, threads: &[Thread]) -> Result<Box<Values>, Fault> {
        let mut values = Box::new(Values { a: [[0.0; ROWS]; DEPTH], b: [[0.0; MAX_COLUMNS]; DEPTH] });
        self.b.read(hopper, &threads[0], &mut values.b)?;
        match &self.a {
            OperandA::Shared(operand) => operand.read(hopper, &threads[0], &mut values.a)?,
            OperandA::Registers(lanes) => {
                for (lane, fragments) in lanes.iter().enumerate() {
                    // SAFETY: the lane's array, which stays where it is until the wait.
                    let fragments = unsafe { fragments.read() };
                    for (register, word) in fragments.into_iter().enumerate() {
                        let (row, k) = (lane / 4 + register % 2 * 8, 2 * (lane % 4) + register / 2 * 8);
                        let [low, high] = widen(word, self.b.is_fp16);
                        values.a[k][row] = low;
                        values.a[k + 1][row] = high;
                    }
                }
            }
        }
        Ok(values)
    }
}

impl Products {
    pub(super) fn fence(&mut self) {
        self.is_fenced = true;
    }

    pub(super) fn commit(&mut self) {
        self.groups += 1;
        self.is_fenced = false;
    }

    /// Finishes all groups but the `pending` youngest; sums that no other product adds to are their lanes' again.
    pub(super) fn wait(&mut self, hopper: &Hopper, threads: &[Thread], pending: u32) -> Result<(), Fault> {
        let end_group = self.groups.saturating_sub(u64::from(pending));
        while self.pending.front().is_some_and(|product| product.group < end_group) {
            let product = self.pending.pop_front().expect("there is one");
            let accumulators = self.accumulators.iter_mut().find(|accumulators| accumulators.lanes[0] == product.sums);
            let accumulators = accumulators.expect("a product has accumulators");
            if let Some(lane) = accumulators.touched() {
                return Err(threads[lane].misuse("wgmma_wait", "sums were written while a product was adding to them"));
            }
            let values = match product.values {
                Some(values) => values,
                None => product.read(hopper, threads)?,
            };
            accumulators.add(&values, product.accumulates);
            accumulators.open -= 1;
        }
        self.accumulators.retain(|accumulators| {
            if accumulators.open == 0 {
                accumulators.give_back();
            }
            accumulators.open != 0
        });
        Ok(())
    }

    pub(super) fn is_done(&self) -> bool {
        self.pending.is_empty()
    }
}

/// All lanes of a warp are at a product: it is under way.
pub(super) fn issue(hopper: &Hopper, threads: &[Thread], requests: &[Request; 32]) -> Result<(), Fault> {
    const NAME: &str = "wgmma";
    let thread = &threads[0];
    // SAFETY: all lanes wait at a product, so this is what their operands are.
    let lanes = unsafe { operands::<WgmmaOperands>(requests) };
    let warp = thread.index / 32;
    let deeds = |lane: &WgmmaOperands| Deed::Wgmma {
        a: lane.a_fragments.is_null().then_some(lane.a),
        b: lane.b,
        columns: 2 * lane.length,
        is_fp16: lane.is_fp16 != 0,
        is_mn_major: lane.b_major != 0,
        accumulates: lane.accumulate != 0,
    };
    let deed = deeds(lanes[0]);
    if let Some(lane) = lanes.iter().position(|lane| deeds(lane) != deed) {
        return Err(threads[lane].misuse(NAME, "lanes of one warp ask for different products"));
    }
    hopper.agree(thread, NAME, deed)?;
    let Deed::Wgmma { a, b, columns, is_fp16, is_mn_major, accumulates } = deed else { unreachable!("made above") };
    let columns = columns as usize;
    let products = &mut *hopper.products[warp].borrow_mut();
    if !products.is_fenced {
        return Err(thread.misuse(NAME, "no wgmma_fence since the last group was closed"));
    }
    let first = ROWS * (warp % GROUP_WARPS);
    let b = SharedOperand { descriptor: b, is_mn_major, is_fp16, first: 0, count: columns };
    b.check(hopper, thread)?;
    let a = match a {
        Some(descriptor) => {
            let operand = SharedOperand { descriptor, is_mn_major: false, is_fp16, first, count: ROWS };
            operand.check(hopper, thread)?;
            OperandA::Shared(operand)
        }
        None => OperandA::Registers(Box::new(std::array::from_fn(|lane| lanes[lane].a_fragments))),
    };
    let sums: [*mut u32; 32] = std::array::from_fn(|lane| lanes[lane].sums);
    let mut product = Product { sums: sums[0], a, b, accumulates, values: None, group: products.groups };
    if hopper.landing.is_at_issue(&mut hopper.random.borrow_mut()) {
        product.values = Some(product.read(hopper, threads)?);
    }
    let known = products.accumulators.iter_mut().find(|accumulators| accumulators.lanes[0] == sums[0]);
    let accumulators = match known {
        Some(accumulators) => {
            if accumulators.columns != columns {
                return Err(thread.misuse(NAME, "sums that another shape of product is adding to"));
            }
            if let Some(lane) = accumulators.touched() {
                return Err(threads[lane].misuse(NAME, "sums were written while a product was adding to them"));
            }
            accumulators
        }
        None => {
            products.accumulators.push(Accumulators::take(sums, columns));
            products.accumulators.last_mut().expect("pushed just now")
        }
    };
    accumulators.open += 1;
    products.pending.push_back(product);
    Ok(())
}

/// The number that "wait_group" or "setmaxnreg" has, the same in all lanes: an immediate.
pub(super) fn immediate(requests: &[Request; 32]) -> u32 {
    let operand: *mut c_void = requests[0].operands;
    // SAFETY: lane 0 waits at such an instruction, so this is what its operand is.
    unsafe { operand.cast::<u32>().read() }
}
