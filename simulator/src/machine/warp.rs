//! The instructions that lanes of a warp do together, once all lanes of the mask have asked for the same one.

use super::fault::Fault;
use super::matrix::{self, MatrixLoad, MatrixStore, Product};
use super::operation::{Operation, Request};
use super::thread::Thread;

/// `SimulatorShuffle` of `include/device.h`: a lane's value, then that of its source.
#[repr(C)]
struct Shuffle {
    value: u32,
    source: u32,
}

/// Does one operation for all lanes of its mask, which wait at it; false if it cannot be done before another warp has
/// done something.
pub(super) fn perform(request: Request, threads: &[Thread], requests: &[Request; 32]) -> Result<bool, Fault> {
    match request.operation {
        Operation::SyncWarp | Operation::SyncThreads | Operation::MbarrierWait | Operation::Fault => Ok(()),
        Operation::LoadMatrices | Operation::LoadMatricesTransposed => {
            // SAFETY: all lanes wait at a load of matrices, so this is what their operands are.
            let mut lanes = unsafe { operands::<MatrixLoad>(requests) };
            matrix::load(request.operation, threads, &mut lanes)
        }
        Operation::MultiplyBf16 | Operation::MultiplyFp16 => {
            // SAFETY: all lanes wait at a product of matrices, so this is what their operands are.
            let mut lanes = unsafe { operands::<Product>(requests) };
            matrix::multiply(request.operation, &mut lanes);
            Ok(())
        }
        Operation::Shuffle | Operation::ShuffleUp | Operation::ShuffleDown | Operation::ShuffleXor => {
            shuffle(request, threads, requests)
        }
        Operation::Any => {
            vote(request, requests);
            Ok(())
        }
        Operation::StoreMatrices | Operation::StoreMatricesTransposed => {
            // SAFETY: all lanes wait at a store of matrices, so this is what their operands are.
            let lanes = unsafe { operands::<MatrixStore>(requests) };
            matrix::store(request.operation, threads, &lanes)
        }
        _ => return threads[0].hopper().perform(request, threads, requests),
    }
    .map(|()| true)
}

/// The operands of all lanes.
///
/// # Safety
///
/// All 32 lanes wait at an operation whose operands are a `T`.
pub(super) unsafe fn operands<'a, T>(requests: &[Request; 32]) -> [&'a mut T; 32] {
    requests.map(|request| {
        // SAFETY: the operands are on the stack of a thread that waits, and no other lane's.
        unsafe { &mut *request.operands.cast() }
    })
}

/// "shfl.sync"; what a lane outside of the mask would give is undefined.
fn shuffle(request: Request, threads: &[Thread], requests: &[Request; 32]) -> Result<(), Fault> {
    let members = || (0..32).filter(|lane| request.mask >> lane & 1 == 1);
    let mut values = [0; 32];
    for lane in members() {
        // SAFETY: the lane waits at a shuffle, so this is what its operands are.
        let operands = unsafe { &*requests[lane].operands.cast::<Shuffle>() };
        values[lane] = operands.value;
    }
    for lane in members() {
        // SAFETY: likewise; the references above are gone.
        let operands = unsafe { &mut *requests[lane].operands.cast::<Shuffle>() };
        if operands.source >= 32 || request.mask >> operands.source & 1 == 0 {
            let operation = request.operation.name();
            return Err(threads[lane].operand(operation, "a source outside of its mask, lane", operands.source.into()));
        }
        operands.value = values[operands.source as usize];
    }
    Ok(())
}

/// "vote.sync.any" among the lanes of the mask.
fn vote(request: Request, requests: &[Request; 32]) {
    let members = || (0..32).filter(|lane| request.mask >> lane & 1 == 1);
    // SAFETY: the lane waits at a vote, so this is what its operand is.
    let any = members().any(|lane| unsafe { requests[lane].operands.cast::<u32>().read() } != 0);
    for lane in members() {
        // SAFETY: likewise.
        unsafe { requests[lane].operands.cast::<u32>().write(any.into()) };
    }
}
