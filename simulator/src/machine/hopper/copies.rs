//! Bulk copies of tensors: under way from their issue to the wait that they must have landed by.

use std::collections::VecDeque;

use super::super::adversary::{Landing, Random};
use super::super::fault::Fault;
use super::super::shared::{BASE, POISON};
use super::super::tensor_map::{Swizzle, TensorMap};
use super::super::thread::Thread;
use super::Hopper;
use super::boxes::TensorBox;

/// Alignment of a box in shared memory, of a map, and the unit that a swizzle moves.
const BOX_ALIGNMENT: u32 = 128;
const MAP_ALIGNMENT: u32 = 64;
const UNIT_BYTES: usize = 16;

/// A load that has not landed.
pub(super) struct Load {
    tensor_box: TensorBox,
    destination: u32,
    pub(super) barrier: u32,
}

/// A store that has not been written.
struct Store {
    tensor_box: TensorBox,
    source: u32,
    group: u64,
    /// What it has read.
    bytes: Option<Vec<u8>>,
}

/// A thread's stores, oldest first.
#[derive(Default)]
pub(super) struct Stores {
    pending: VecDeque<Store>,
    /// Groups that are closed.
    groups: u64,
}

impl Load {
    pub(super) fn num_bytes(&self) -> u32 {
        self.tensor_box.num_bytes()
    }
}

impl Landing {
    /// Whether a copy lands as it is issued.
    pub(super) fn is_at_issue(self, random: &mut Random) -> bool {
        match self {
            Self::AtIssue => true,
            Self::Mixed => random.coin(),
            Self::Late | Self::Seeded => false,
        }
    }
}

impl Thread {
    /// The map that a kernel names.
    pub(super) fn tensor_map(&self, operation: &'static str, map: *const TensorMap) -> Result<TensorMap, Fault> {
        if !(map as usize).is_multiple_of(MAP_ALIGNMENT as usize) {
            return Err(self.misaligned(operation, "param", map as u64, MAP_ALIGNMENT));
        }
        // SAFETY: kernels name a map in their params, which are on the thread's stack.
        let map = unsafe { map.read() };
        if map.is_intact() { Ok(map) } else { Err(self.misuse(operation, "these 128 bytes are no tensor map")) }
    }

    /// The box that a kernel names, and its place in shared memory, checked.
    fn tensor_box(
        &self,
        operation: &'static str,
        map: *const TensorMap,
        origin: &[i32],
        shared: u32,
    ) -> Result<TensorBox, Fault> {
        let map = self.tensor_map(operation, map)?;
        if map.rank() != origin.len() {
            return Err(self.misuse(operation, &format!("{} coordinates in a tensor of {}", origin.len(), map.rank())));
        }
        if map.swizzle() != Swizzle::None && map.row_bytes() != map.swizzle().span() {
            let (row, span) = (map.row_bytes(), map.swizzle().span());
            return Err(self.misuse(operation, &format!("rows of {row} bytes in a box whose swizzle has {span}")));
        }
        if !shared.is_multiple_of(BOX_ALIGNMENT) {
            return Err(self.misaligned(operation, "shared", shared.into(), BOX_ALIGNMENT));
        }
        let tensor_box = TensorBox { map, origin: origin.iter().copied().map(i64::from).collect() };
        let num_bytes = tensor_box.num_bytes();
        self.shared().at(shared, num_bytes).map_err(|offset| self.out_of_bounds(operation, offset, num_bytes))?;
        Ok(tensor_box)
    }

    /// "cp.async.bulk.tensor" to shared memory: the destination holds nothing until the load has landed.
    pub(super) fn load_tensor(
        &self,
        destination: u32,
        map: *const TensorMap,
        barrier: u32,
        origin: &[i32],
    ) -> Result<(), Fault> {
        const NAME: &str = "load_tensor";
        let hopper = self.hopper();
        let tensor_box = self.tensor_box(NAME, map, origin, destination)?;
        let num_bytes = tensor_box.num_bytes();
        match hopper.barriers.borrow().get(barrier) {
            None => return Err(self.misuse(NAME, "the barrier was not initialised")),
            Some(barrier) if !barrier.is_fenced() => {
                return Err(self.misuse(NAME, "no mbarrier_fence_init by the thread that initialised the barrier"));
            }
            Some(_) => {}
        }
        if let Some(other) = hopper.barriers.borrow().within(destination, num_bytes) {
            return Err(self.misuse(NAME, &format!("the box overwrites the barrier at {}", other - BASE)));
        }
        hopper.check_fenced(self, NAME, destination, num_bytes)?;
        hopper.put(destination, num_bytes, None);
        hopper.loads.borrow_mut().push(Load { tensor_box, destination, barrier });
        if hopper.landing.is_at_issue(&mut hopper.random.borrow_mut()) {
            let last = hopper.loads.borrow().len() - 1;
            hopper.land(last)?;
        }
        Ok(())
    }

    /// "cp.async.bulk.tensor" to global memory.
    pub(super) fn store_tensor(&self, map: *const TensorMap, source: u32, origin: &[i32]) -> Result<(), Fault> {
        const NAME: &str = "store_tensor";
        let hopper = self.hopper();
        if hopper.is_early.get() != 0 {
            return Err(self.misuse(NAME, "no wait_for_previous_grid before it, in a launch that asks for one"));
        }
        let tensor_box = self.tensor_box(NAME, map, origin, source)?;
        let mut stores = hopper.stores[self.index].borrow_mut();
        let mut store = Store { tensor_box, source, group: stores.groups, bytes: None };
        hopper.check_fenced(self, NAME, source, store.tensor_box.num_bytes())?;
        if hopper.landing.is_at_issue(&mut hopper.random.borrow_mut()) {
            store.read(hopper, self)?;
            store.write();
        } else {
            stores.pending.push_back(store);
        }
        Ok(())
    }

    /// "cp.async.bulk.commit_group".
    pub(super) fn store_tensor_commit(&self) {
        self.hopper().stores[self.index].borrow_mut().groups += 1;
    }

    /// "cp.async.bulk.wait_group", with and without ".read": here the stores do what they must have done by now.
    pub(super) fn store_tensor_wait(&self, pending: u32, until_written: bool) -> Result<(), Fault> {
        let hopper = self.hopper();
        let stores = &mut *hopper.stores[self.index].borrow_mut();
        let end_group = stores.groups.saturating_sub(u64::from(pending));
        let count = stores.pending.partition_point(|store| store.group < end_group);
        for store in stores.pending.iter_mut().take(count) {
            store.read(hopper, self)?;
        }
        if until_written {
            stores.pending.drain(..count).for_each(Store::write);
        }
        Ok(())
    }
}

impl Store {
    fn read(&mut self, hopper: &Hopper, thread: &Thread) -> Result<(), Fault> {
        if self.bytes.is_none() {
            let num_bytes = self.tensor_box.num_bytes();
            hopper.check_fenced(thread, "store_tensor", self.source, num_bytes)?;
            let swizzle = self.tensor_box.map.swizzle();
            self.bytes = Some(hopper.unswizzle(self.source, num_bytes, swizzle));
        }
        Ok(())
    }

    fn write(self) {
        let bytes = self.bytes.expect("a store is read before it is written");
        // SAFETY: that the tensor is where its map says is the launch's promise.
        unsafe { self.tensor_box.write(&bytes) };
    }
}

impl Stores {
    /// At the end of the block: false if some had not read their source, which is gone.
    pub(super) fn finish(&mut self) -> bool {
        let all_read = self.pending.iter().all(|store| store.bytes.is_some());
        if all_read {
            self.pending.drain(..).for_each(Store::write);
        }
        all_read
    }
}

impl Hopper {
    /// Lands the load at this place of the list: its bytes are there, and count for its barrier.
    pub(super) fn land(&self, place: usize) -> Result<(), Fault> {
        let Load { tensor_box, destination, barrier } = self.loads.borrow_mut().swap_remove(place);
        // SAFETY: that the tensor is where its map says is the launch's promise.
        let bytes = unsafe { tensor_box.read() };
        self.put(destination, bytes.len() as u32, Some((&bytes, tensor_box.map.swizzle())));
        let is_complete = {
            let mut barriers = self.barriers.borrow_mut();
            let barrier = barriers.get_mut(barrier).expect("a load was checked to have a barrier");
            barrier.land(bytes.len() as u32)
        };
        if is_complete { self.complete(barrier) } else { Ok(()) }
    }

    /// Lands the loads of a barrier, in any order, until its phase is complete; whether there were any.
    pub(super) fn land_for(&self, barrier: u32, parity: u32) -> Result<bool, Fault> {
        let mut landed = false;
        while !self.is_complete(barrier, parity) {
            let places: Vec<usize> = {
                let loads = self.loads.borrow();
                (0..loads.len()).filter(|&place| loads[place].barrier == barrier).collect()
            };
            if places.is_empty() {
                break;
            }
            let place = places[self.random.borrow_mut().below(places.len())];
            self.land(place)?;
            landed = true;
        }
        Ok(landed)
    }

    /// Puts bytes where a swizzle has them, or poison in their place.
    fn put(&self, address: u32, num_bytes: u32, bytes: Option<(&[u8], Swizzle)>) {
        let start = self.shared.at(address, num_bytes).expect("boxes are checked at their issue");
        self.writers.clear((address - BASE) as usize, num_bytes as usize);
        let Some((bytes, swizzle)) = bytes else {
            // SAFETY: these bytes are the block's.
            unsafe { start.write_bytes(POISON, num_bytes as usize) };
            return;
        };
        for (unit, bytes) in bytes.chunks_exact(UNIT_BYTES).enumerate() {
            let place = swizzle.apply(address + (unit * UNIT_BYTES) as u32) - address;
            // SAFETY: a swizzle moves a unit within its row, and rows are within the box.
            unsafe { start.wrapping_add(place as usize).copy_from(bytes.as_ptr(), UNIT_BYTES) };
        }
    }

    /// The bytes of a box in its own order.
    fn unswizzle(&self, address: u32, num_bytes: u32, swizzle: Swizzle) -> Vec<u8> {
        let start = self.shared.at(address, num_bytes).expect("boxes are checked at their issue");
        let mut bytes = vec![0; num_bytes as usize];
        for (unit, bytes) in bytes.chunks_exact_mut(UNIT_BYTES).enumerate() {
            let place = swizzle.apply(address + (unit * UNIT_BYTES) as u32) - address;
            // SAFETY: a swizzle moves a unit within its row, and rows are within the box.
            unsafe { start.wrapping_add(place as usize).copy_to(bytes.as_mut_ptr(), UNIT_BYTES) };
        }
        bytes
    }
}
