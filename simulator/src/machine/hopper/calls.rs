//! What one thread asks for: the functions that the kernels' C++ calls.

use std::ffi::c_void;
use std::slice;

use super::super::fault::Fault;
use super::super::operation::{Operation, Request};
use super::super::tensor_map::TensorMap;
use super::super::thread::{Thread, ThreadRecord, running};
use super::barriers::{BARRIER_BYTES, MAX_COUNT};

/// What a lane at `mbarrier_wait` waits for.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Awaited {
    pub(in super::super) barrier: u32,
    pub(in super::super) parity: u32,
}

impl Thread {
    fn mbarrier_init(&self, address: u32, count: u32) -> Result<(), Fault> {
        const NAME: &str = "mbarrier_init";
        if !address.is_multiple_of(BARRIER_BYTES) {
            return Err(self.misaligned(NAME, "shared", address.into(), BARRIER_BYTES));
        }
        if count == 0 || count > MAX_COUNT {
            return Err(self.operand(NAME, "count", count.into()));
        }
        let place = self.shared().at(address, BARRIER_BYTES);
        place.map_err(|offset| self.out_of_bounds(NAME, offset, BARRIER_BYTES))?;
        let is_new = self.hopper().barriers.borrow_mut().init(address, count, self.index);
        if is_new { Ok(()) } else { Err(self.misuse(NAME, "there is a barrier already")) }
    }

    fn fence_proxy_async(&self) {
        let hopper = self.hopper();
        hopper.barriers.borrow_mut().fence(self.index);
        let writer = hopper.writers.fence(self.index);
        self.record.set(ThreadRecord { writer, ..self.record.get() });
    }

    fn mbarrier_arrive(&self, address: u32, num_bytes: u32) -> Result<(), Fault> {
        const NAME: &str = "mbarrier_arrive";
        let hopper = self.hopper();
        let is_complete = match hopper.barriers.borrow_mut().get_mut(address) {
            None => return Err(self.misuse(NAME, "the barrier was not initialised")),
            Some(barrier) => {
                let Some(is_complete) = barrier.arrive(num_bytes) else {
                    return Err(
                        self.misuse(NAME, "more arrivals than the barrier counts, in a phase that waits for bytes")
                    );
                };
                if !barrier.is_in_range() {
                    return Err(self.operand(NAME, "num_bytes", num_bytes.into()));
                }
                is_complete
            }
        };
        if is_complete { hopper.complete(address) } else { Ok(()) }
    }

    /// Returns once the phase is complete. What it waits for lands now, or when nobody else can go on.
    fn mbarrier_wait(&self, barrier: u32, parity: u32) -> Result<(), Fault> {
        const NAME: &str = "mbarrier_wait";
        let hopper = self.hopper();
        if parity > 1 {
            return Err(self.operand(NAME, "parity", parity.into()));
        }
        if hopper.barriers.borrow().get(barrier).is_none() {
            return Err(self.misuse(NAME, "the barrier was not initialised"));
        }
        let at_once = hopper.random.borrow_mut().coin();
        if at_once {
            hopper.land_for(barrier, parity)?;
        }
        if !hopper.is_complete(barrier, parity) {
            let mut awaited = Awaited { barrier, parity };
            let operands: *mut c_void = (&raw mut awaited).cast();
            self.suspend(Request { operation: Operation::MbarrierWait, mask: 0, operands });
        }
        Ok(())
    }
}

/// Exported functions of the running thread, which ends the launch where one fails.
macro_rules! thread_calls {
    ($(fn $name:ident($($argument:ident: $type:ty),*) |$thread:ident| $body:expr;)*) => {$(
        /// A function of `include/sm90/hopper.cuh`.
        ///
        /// # Safety
        ///
        /// Kernels call it for themselves.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(thread: *const ThreadRecord, $($argument: $type),*) {
            // SAFETY: the caller's promise.
            let $thread = unsafe { running(thread) };
            let result: Result<(), Fault> = $body;
            if let Err(fault) = result {
                $thread.fail(fault);
            }
        }
    )*};
}

thread_calls! {
    fn simulator_mbarrier_init(barrier: u32, count: u32) |thread| thread.mbarrier_init(barrier, count);

    fn simulator_mbarrier_fence_init() |thread| {
        thread.hopper().barriers.borrow_mut().fence(thread.index);
        Ok(())
    };

    fn simulator_mbarrier_arrive(barrier: u32, num_bytes: u32) |thread| thread.mbarrier_arrive(barrier, num_bytes);

    fn simulator_mbarrier_wait(barrier: u32, parity: u32) |thread| thread.mbarrier_wait(barrier, parity);

    fn simulator_fence_proxy_async() |thread| {
        thread.fence_proxy_async();
        Ok(())
    };

    fn simulator_prefetch_tensor_map(map: *const TensorMap) |thread| {
        thread.tensor_map("prefetch_tensor_map", map).map(|_| ())
    };

    fn simulator_load_tensor(
        destination: u32, map: *const TensorMap, barrier: u32, origin: *const i32, rank: u32
    ) |thread| {
        // SAFETY: the kernels' C++ gives that many coordinates.
        let origin = unsafe { slice::from_raw_parts(origin, rank as usize) };
        thread.load_tensor(destination, map, barrier, origin)
    };

    fn simulator_store_tensor(map: *const TensorMap, source: u32, origin: *const i32, rank: u32) |thread| {
        // SAFETY: the kernels' C++ gives that many coordinates.
        let origin = unsafe { slice::from_raw_parts(origin, rank as usize) };
        thread.store_tensor(map, source, origin)
    };

    fn simulator_store_tensor_commit() |thread| {
        thread.store_tensor_commit();
        Ok(())
    };

    fn simulator_store_tensor_wait(pending: u32, until_written: u32) |thread| {
        thread.store_tensor_wait(pending, until_written != 0)
    };

    fn simulator_wait_for_previous_grid() |thread| {
        thread.hopper().is_early.set(0);
        Ok(())
    };

    fn simulator_early_store(address: usize) |thread| {
        let problem = format!("to {address:#x}, no wait_for_previous_grid before it, in a launch that asks for one");
        Err(thread.misuse("a store", &problem))
    };
}
