//! `ldmatrix` and `mma` on the operands of all 32 lanes, element by element as the manual's fragment tables place them.

use super::fault::Fault;
use super::operation::Operation;
use super::thread::Thread;

/// `SimulatorMatrixLoad` of `include/ptx.cuh`.
#[repr(C)]
pub(super) struct MatrixLoad {
    row: u32,
    matrices: [u32; 4],
}

/// `SimulatorProduct` of `include/ptx.cuh`.
#[repr(C)]
pub(super) struct Product {
    sums: [f32; 4],
    a: [u32; 4],
    b: [u32; 2],
}

/// Bytes of a row of an 8x8 matrix.
const ROW_BYTES: u32 = 16;

/// "ldmatrix.sync.aligned.m8n8.x4": lane 8i + r gives the address of row r of matrix i.
pub(super) fn load(operation: Operation, threads: &[Thread], lanes: &mut [&mut MatrixLoad; 32]) -> Result<(), Fault> {
    let mut matrices = [[[0u16; 8]; 8]; 4];
    for (lane, (thread, load)) in threads.iter().zip(lanes.iter()).enumerate() {
        if !load.row.is_multiple_of(ROW_BYTES) {
            return Err(thread.misaligned(operation.name(), "shared", load.row.into(), ROW_BYTES));
        }
        let row = thread.shared().at(load.row, ROW_BYTES);
        let row = row.map_err(|offset| thread.out_of_bounds(operation.name(), offset, ROW_BYTES))?;
        // SAFETY: the row's 16 bytes are in the block's shared memory and aligned to 16.
        matrices[lane / 8][lane % 8] = unsafe { row.cast::<[u16; 8]>().read() };
    }
    for (lane, load) in lanes.iter_mut().enumerate() {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        for (fragment, matrix) in load.matrices.iter_mut().zip(&matrices) {
            let (low, high) = match operation {
                Operation::LoadMatricesTransposed => (matrix[column][row], matrix[column + 1][row]),
                _ => (matrix[row][column], matrix[row][column + 1]),
            };
            *fragment = u32::from(low) | u32::from(high) << 16;
        }
    }
    Ok(())
}

/// `SimulatorMatrixStore` of `include/sm90/hopper.cuh`.
#[repr(C)]
pub(super) struct MatrixStore {
    row: u32,
    matrices: [u32; 4],
}

/// "stmatrix.sync.aligned.m8n8.x4": lane 8i + r gives the address of row r of matrix i.
pub(super) fn store(operation: Operation, threads: &[Thread], lanes: &[&mut MatrixStore; 32]) -> Result<(), Fault> {
    let mut matrices = [[[0u16; 8]; 8]; 4];
    for (lane, store) in lanes.iter().enumerate() {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        for (fragment, matrix) in store.matrices.iter().zip(&mut matrices) {
            for (column, element) in [(column, *fragment as u16), (column + 1, (*fragment >> 16) as u16)] {
                match operation {
                    Operation::StoreMatricesTransposed => matrix[column][row] = element,
                    _ => matrix[row][column] = element,
                }
            }
        }
    }
    for (lane, (thread, store)) in threads.iter().zip(lanes.iter()).enumerate() {
        if !store.row.is_multiple_of(ROW_BYTES) {
            return Err(thread.misaligned(operation.name(), "shared", store.row.into(), ROW_BYTES));
        }
        let row = thread.shared().at(store.row, ROW_BYTES);
        let row = row.map_err(|offset| thread.out_of_bounds(operation.name(), offset, ROW_BYTES))?;
        // SAFETY: the row's 16 bytes are in the block's shared memory and aligned to 16.
        unsafe { row.cast::<[u16; 8]>().write(matrices[lane / 8][lane % 8]) };
        thread.hopper().note_store(thread, row, ROW_BYTES as usize);
    }
    Ok(())
}

/// "mma.sync.aligned.m16n8k16.row.col.f32": a product of two elements is exact in f32; a sum starts with the
/// accumulator and takes the products in ascending order of k, each rounded to nearest. The manual leaves that order
/// open.
pub(super) fn multiply(operation: Operation, lanes: &mut [&mut Product; 32]) {
    match operation {
        Operation::MultiplyFp16 => multiply_of(widen_fp16, lanes),
        _ => multiply_of(widen_bf16, lanes),
    }
}

fn multiply_of(widen: impl Fn(u32) -> [f32; 2], lanes: &mut [&mut Product; 32]) {
    let mut a = [[0f32; 16]; 16];
    let mut b = [[0f32; 8]; 16];
    let mut sums = [[0f32; 8]; 16];
    for (lane, product) in lanes.iter().enumerate() {
        let (group, pair) = (lane / 4, 2 * (lane % 4));
        for (register, (row, column)) in [(0, 0), (8, 0), (0, 8), (8, 8)].into_iter().enumerate() {
            let elements = widen(product.a[register]);
            a[group + row][pair + column] = elements[0];
            a[group + row][pair + column + 1] = elements[1];
        }
        for (register, row) in [0, 8].into_iter().enumerate() {
            let elements = widen(product.b[register]);
            b[pair + row][group] = elements[0];
            b[pair + row + 1][group] = elements[1];
        }
        for (row, values) in [group, group + 8].into_iter().zip(product.sums.chunks_exact(2)) {
            sums[row][pair..pair + 2].copy_from_slice(values);
        }
    }
    for (sums, a) in sums.iter_mut().zip(&a) {
        for (a, b) in a.iter().zip(&b) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
    for (lane, product) in lanes.iter_mut().enumerate() {
        let (group, pair) = (lane / 4, 2 * (lane % 4));
        for (row, values) in [group, group + 8].into_iter().zip(product.sums.chunks_exact_mut(2)) {
            values.copy_from_slice(&sums[row][pair..pair + 2]);
        }
    }
}

/// Two elements of either type.
#[inline(always)]
pub(super) fn widen(pair: u32, is_fp16: bool) -> [f32; 2] {
    if is_fp16 { widen_fp16(pair) } else { widen_bf16(pair) }
}

#[inline(always)]
fn widen_bf16(pair: u32) -> [f32; 2] {
    [f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000)]
}

/// Exponent and significand move to their places in an f32; the product puts the bias right, subnormals included.
#[inline(always)]
fn widen_fp16(pair: u32) -> [f32; 2] {
    [pair & 0xffff, pair >> 16].map(|bits| {
        let (sign, rest) = ((bits & 0x8000) << 16, bits & 0x7fff);
        let finite = (f32::from_bits(rest << 13) * 2f32.powi(112)).to_bits();
        let special = 0x7f80_0000 | (rest & 0x03ff) << 13;
        f32::from_bits(sign | if rest >= 0x7c00 { special } else { finite })
    })
}
