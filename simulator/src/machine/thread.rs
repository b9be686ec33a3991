//! A CUDA thread, and what it asks the machine for: the functions that the kernels' C++ calls.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr;

use corosensei::Yielder;

use super::copies::{COPY_BYTES, Copies};
use super::fault::{Fault, ThreadName};
use super::hopper::Hopper;
use super::operation::{Operation, Request};
use super::shared::SharedWindow;

/// What a kernel reads of its thread: `SimulatorThread` of `include/device.h`, field by field.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ThreadRecord {
    pub(super) thread_index: [u32; 3],
    pub(super) block_index: [u32; 3],
    pub(super) block_size: [u32; 3],
    pub(super) grid_size: [u32; 3],
    pub(super) shared: *mut u8,
    pub(super) shared_bytes: u32,
    pub(super) lane: u32,
    /// By element of shared memory, who wrote it.
    pub(super) writers: *const Cell<u32>,
    /// Not zero while global memory must not be written.
    pub(super) is_early: *const Cell<u32>,
    /// The addresses of its stack.
    pub(super) stack: [usize; 2],
    /// What this thread's stores are noted with.
    pub(super) writer: u32,
}

/// A thread of the block that runs.
#[repr(C)]
pub(super) struct Thread {
    /// First, so that a pointer to the record is one to the thread.
    pub(super) record: Cell<ThreadRecord>,
    pub(super) kernel: &'static str,
    /// Its place in the block.
    pub(super) index: usize,
    /// What the block's threads share beside memory.
    pub(super) hopper: Cell<*const Hopper>,
    pub(super) yielder: Cell<*const Yielder<(), Request>>,
    pub(super) fault: Cell<Option<Fault>>,
    pub(super) copies: RefCell<Copies>,
}

impl Thread {
    pub(super) fn name(&self) -> ThreadName {
        let record = self.record.get();
        ThreadName { block: record.block_index, thread: record.thread_index }
    }

    pub(super) fn shared(&self) -> SharedWindow {
        let record = self.record.get();
        SharedWindow { bytes: record.shared, num_bytes: record.shared_bytes }
    }

    pub(super) fn hopper(&self) -> &Hopper {
        // SAFETY: the block sets it before its threads run, and keeps it until they have ended.
        unsafe { &*self.hopper.get() }
    }

    /// Suspends this thread, which runs, until the machine resumes it.
    pub(super) fn suspend(&self, request: Request) {
        // SAFETY: the thread runs, so its coroutine has set the yielder, which lives as long as the coroutine.
        let yielder = unsafe { &*self.yielder.get() };
        yielder.suspend(request);
    }

    /// Ends the launch: the machine never resumes this thread.
    pub(super) fn fail(&self, fault: Fault) -> ! {
        self.fault.set(Some(fault));
        self.suspend(Request { operation: Operation::Fault, mask: 0, operands: ptr::null_mut() });
        unreachable!("a launch ends with its first fault")
    }

    pub(super) fn out_of_bounds(&self, operation: &'static str, offset: i64, bytes: u32) -> Fault {
        let shared_bytes = self.record.get().shared_bytes;
        Fault::OutOfBounds { kernel: self.kernel, thread: self.name(), operation, address: offset, bytes, shared_bytes }
    }

    pub(super) fn misaligned(
        &self,
        operation: &'static str,
        space: &'static str,
        address: u64,
        alignment: u32,
    ) -> Fault {
        Fault::Misaligned { kernel: self.kernel, thread: self.name(), operation, space, address, alignment }
    }

    pub(super) fn operand(&self, operation: &'static str, operand: &'static str, value: u64) -> Fault {
        Fault::Operand { kernel: self.kernel, thread: self.name(), operation, operand, value }
    }

    pub(super) fn misuse(&self, operation: &'static str, problem: &str) -> Fault {
        Fault::Misuse { kernel: self.kernel, thread: self.name(), operation, problem: problem.to_owned() }
    }

    /// A copy of this thread has landed: to the asynchronous proxy, a write like any other.
    fn note_copy(&self, destination: *mut u8) {
        self.hopper().note_store(self, destination, COPY_BYTES as usize);
    }

    /// What `cp.async` asks of its operands; then the copy is under way.
    fn copy_async(&self, destination: u32, source: *const u8, num_bytes: u32) -> Result<(), Fault> {
        const NAME: &str = "copy_async";
        if num_bytes > COPY_BYTES {
            return Err(self.operand(NAME, "num_bytes", num_bytes.into()));
        }
        if !destination.is_multiple_of(COPY_BYTES) {
            return Err(self.misaligned(NAME, "shared", destination.into(), COPY_BYTES));
        }
        if !(source as usize).is_multiple_of(COPY_BYTES as usize) {
            return Err(self.misaligned(NAME, "global", source as u64, COPY_BYTES));
        }
        let bytes = self.shared().at(destination, COPY_BYTES);
        let bytes = bytes.map_err(|offset| self.out_of_bounds(NAME, offset, COPY_BYTES))?;
        // SAFETY: the destination is in the block's shared memory; that the source is valid is the launch's promise.
        let has_landed = unsafe { self.copies.borrow_mut().issue(bytes, source, num_bytes) };
        if has_landed {
            self.note_copy(bytes);
        }
        Ok(())
    }
}

/// The thread that a kernel names.
///
/// # Safety
///
/// `thread` is `simulator_thread`: the record of the thread that runs.
pub(super) unsafe fn running<'a>(thread: *const ThreadRecord) -> &'a Thread {
    // SAFETY: the record is the first field of a Thread, which the machine keeps until its launch has ended.
    unsafe { &*thread.cast() }
}

/// `simulator_meet` of `include/device.h`.
///
/// # Safety
///
/// Kernels call it for themselves, with operands that the operation asks for.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_meet(
    thread: *const ThreadRecord,
    operation: Operation,
    mask: u32,
    operands: *mut c_void,
) {
    // SAFETY: the caller's promise.
    let thread = unsafe { running(thread) };
    thread.suspend(Request { operation, mask, operands });
}

/// `simulator_not_shared` of `include/ptx.cuh`: a pointer that is none to shared memory became a shared address.
///
/// # Safety
///
/// Kernels call it for themselves.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_not_shared(thread: *const ThreadRecord, offset: i64) {
    // SAFETY: the caller's promise.
    let thread = unsafe { running(thread) };
    thread.fail(thread.out_of_bounds("shared_address", offset, 0));
}

/// `simulator_copy_async` of `include/ptx.cuh`.
///
/// # Safety
///
/// Kernels call it for themselves; the source is valid until the copy has landed.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_copy_async(
    thread: *const ThreadRecord,
    destination: u32,
    source: *const u8,
    num_bytes: u32,
) {
    // SAFETY: the caller's promise.
    let thread = unsafe { running(thread) };
    if let Err(fault) = thread.copy_async(destination, source, num_bytes) {
        thread.fail(fault);
    }
}

/// `simulator_copy_async_commit` of `include/ptx.cuh`.
///
/// # Safety
///
/// Kernels call it for themselves.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_copy_async_commit(thread: *const ThreadRecord) {
    // SAFETY: the caller's promise.
    let thread = unsafe { running(thread) };
    thread.copies.borrow_mut().commit();
}

/// `simulator_copy_async_wait` of `include/ptx.cuh`.
///
/// # Safety
///
/// Kernels call it for themselves.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_copy_async_wait(thread: *const ThreadRecord, pending: u32) {
    // SAFETY: the caller's promise.
    let thread = unsafe { running(thread) };
    thread.copies.borrow_mut().wait(pending, |destination| thread.note_copy(destination));
}
