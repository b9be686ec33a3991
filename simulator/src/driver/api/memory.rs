//! Device memory, pinned memory, copies and fills.

use std::ffi::{c_int, c_uint, c_void};

use super::{Out, exports, put};
use crate::driver::memory::{Place, Range, Space};
use crate::driver::state::Driver;
use crate::driver::status::Result;
use crate::driver::streams::{Target, unsupported};
use crate::driver::work::Work;
use crate::driver::{Status, Until};

/// `CU_MEMHOSTALLOC_PORTABLE`, `_DEVICEMAP`, `_WRITECOMBINED`: none makes a difference here.
const HOST_ALLOC_FLAGS: c_uint = 1 | 2 | 4;

/// `CU_POINTER_ATTRIBUTE_MEMORY_TYPE` and `_DEVICE_ORDINAL`, and of the first `CU_MEMORYTYPE_HOST` and `_DEVICE`.
const MEMORY_TYPE: c_int = 2;
const DEVICE_ORDINAL: c_int = 9;
const TYPE_HOST: c_int = 1;
const TYPE_DEVICE: c_int = 2;

/// What a copy has on the host's side.
enum Host {
    Pinned(Range),
    Pageable(Range),
}

impl Driver {
    /// Bytes that all lie in one allocation of the device.
    pub(super) fn on_device(&self, device: usize, range: Range) -> Result<Range> {
        match self.memory.place(range.address) {
            Place::Live(Space::Device(owner), allocation) if owner == device && allocation.contains(range) => Ok(range),
            place => {
                eprintln!("CUDA simulator: {range} are no allocation's of device {device}: there is {place}");
                Err(Status::ERROR_INVALID_VALUE)
            }
        }
    }

    /// Bytes of the host. Device memory is not among them, though here the host could use it.
    fn on_host(&self, address: *const c_void, bytes: usize) -> Result<Host> {
        let range = Range { address: address as u64, bytes: bytes as u64 };
        match self.memory.place(range.address) {
            Place::Live(Space::Pinned(_), allocation) if allocation.contains(range) => Ok(Host::Pinned(range)),
            Place::Elsewhere if !address.is_null() => Ok(Host::Pageable(range)),
            place => {
                eprintln!("CUDA simulator: {range} are not the host's: there is {place}");
                Err(Status::ERROR_INVALID_VALUE)
            }
        }
    }

    /// The host's memory to the device's; the work to wait for before the call may return.
    fn upload(&mut self, target: Target, to: u64, from: *const c_void, bytes: usize) -> Result<bool> {
        let to = self.on_device(target.device(), Range { address: to, bytes: bytes as u64 })?;
        match self.on_host(from, bytes)? {
            Host::Pinned(from) => self.give(target, Work::Copy { to, from: from.address }).map(|()| true),
            Host::Pageable(_) if self.recording(target)?.is_some() => Err(unsupported("recording a pageable copy")),
            Host::Pageable(_) => {
                // SAFETY: the caller says that so many bytes are there.
                let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) };
                self.give(target, Work::Upload { to, bytes: bytes.into() }).map(|()| false)
            }
        }
    }

    /// The device's memory to the host's; whether that is pageable, so that the call must not return before it is done.
    fn download(&mut self, target: Target, to: *mut c_void, from: u64, bytes: usize) -> Result<bool> {
        let from = self.on_device(target.device(), Range { address: from, bytes: bytes as u64 })?.address;
        match self.on_host(to, bytes)? {
            Host::Pinned(to) => self.give(target, Work::Copy { to, from }).map(|()| false),
            Host::Pageable(_) if self.recording(target)?.is_some() => Err(unsupported("recording a pageable copy")),
            Host::Pageable(to) => self.give(target, Work::Download { to, from }).map(|()| true),
        }
    }

    fn fill(&mut self, stream: usize, to: u64, pattern: &[u8], count: usize) -> Result<()> {
        let target = self.target(stream)?;
        if !to.is_multiple_of(pattern.len() as u64) {
            return Err(Status::ERROR_INVALID_VALUE);
        }
        if count == 0 {
            return Ok(());
        }
        let bytes = count.checked_mul(pattern.len()).ok_or(Status::ERROR_INVALID_VALUE)? as u64;
        let to = self.on_device(target.device(), Range { address: to, bytes })?;
        self.give(target, Work::Fill { to, pattern: pattern.into() })
    }

    /// A wait for nothing.
    fn at_once(target: Target) -> Until {
        Until { device: target.device(), work: Vec::new() }
    }
}

exports! {
    /// What is not in use of the limit of the configuration.
    fn cuMemGetInfo_v2(free: Out<'_, usize>, total: Out<'_, usize>) |driver| {
        let device = driver.current()?;
        let limit = driver.config.memory_bytes;
        put(free, limit.saturating_sub(driver.memory.used_bytes(Space::Device(device))) as usize)?;
        put(total, limit as usize)
    }

    /// Full of NaNs, and no larger than asked for.
    fn cuMemAlloc_v2(address: Out<'_, u64>, bytes: usize) |driver| {
        let device = driver.current()?;
        driver.outside_of_captures()?;
        if bytes == 0 {
            return Err(Status::ERROR_INVALID_VALUE);
        }
        let free = driver.config.memory_bytes.saturating_sub(driver.memory.used_bytes(Space::Device(device)));
        if bytes as u64 > free {
            return Err(Status::ERROR_OUT_OF_MEMORY);
        }
        let out = address.ok_or(Status::ERROR_INVALID_VALUE)?;
        out.write(driver.memory.allocate(Space::Device(device), bytes).ok_or(Status::ERROR_OUT_OF_MEMORY)?);
        Ok(())
    }

    /// Does not wait; that work which was given before still uses the memory is a fault.
    fn cuMemFree_v2(address: u64) |driver| {
        let current = driver.current();
        let Some((Space::Device(device), _)) = driver.memory.starting_at(address) else {
            return Err(current.err().unwrap_or(Status::ERROR_INVALID_VALUE));
        };
        driver.outside_of_captures()?;
        driver.free(device, address);
        current?;
        driver.healthy(device)
    }

    /// Full of NaNs, and no larger than asked for.
    fn cuMemHostAlloc(address: Out<'_, *mut c_void>, bytes: usize, flags: c_uint) |driver| {
        let device = driver.current()?;
        driver.outside_of_captures()?;
        if bytes == 0 || flags & !HOST_ALLOC_FLAGS != 0 {
            return Err(Status::ERROR_INVALID_VALUE);
        }
        let out = address.ok_or(Status::ERROR_INVALID_VALUE)?;
        let found = driver.memory.allocate(Space::Pinned(device), bytes).ok_or(Status::ERROR_OUT_OF_MEMORY)?;
        out.write(found as *mut c_void);
        Ok(())
    }

    /// As for device memory.
    fn cuMemFreeHost(address: *mut c_void) |driver| {
        let current = driver.current();
        let Some((Space::Pinned(device), _)) = driver.memory.starting_at(address as u64) else {
            return Err(current.err().unwrap_or(Status::ERROR_INVALID_VALUE));
        };
        driver.outside_of_captures()?;
        driver.free(device, address as u64);
        current?;
        driver.healthy(device)
    }

    /// Pinned memory is read when the copy is done, pageable memory before the call returns.
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: usize) |driver| {
        let target = driver.target(stream)?;
        if bytes > 0 {
            driver.upload(target, to, from, bytes)?;
        }
        Ok(())
    }

    /// Pinned memory is written when the copy is done, pageable memory before the call returns.
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: usize) |driver| {
        let target = driver.target(stream)?;
        if bytes > 0 && driver.download(target, to, from, bytes)? {
            return driver.until(target);
        }
        Ok(Driver::at_once(target))
    }

    /// Between allocations of one device.
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) |driver| {
        let target = driver.target(stream)?;
        if bytes == 0 {
            return Ok(());
        }
        let from = driver.on_device(target.device(), Range { address: from, bytes: bytes as u64 })?.address;
        let to = driver.on_device(target.device(), Range { address: to, bytes: bytes as u64 })?;
        driver.give(target, Work::Copy { to, from })
    }

    /// On the default stream. From pageable memory it returns once that is read, which is before the device has it all:
    /// streams that do not wait for the default stream may come first.
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) |driver| {
        driver.current()?;
        driver.outside_of_captures()?;
        let target = driver.target(0)?;
        if bytes > 0 && driver.upload(target, to, from, bytes)? {
            return driver.until(target);
        }
        Ok(Driver::at_once(target))
    }

    /// On the default stream, done when it returns.
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) |driver| {
        driver.current()?;
        driver.outside_of_captures()?;
        let target = driver.target(0)?;
        if bytes > 0 {
            driver.download(target, to, from, bytes)?;
        }
        driver.until(target)
    }

    /// Bytes.
    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: usize) |driver| {
        driver.fill(stream, to, &[value], count)
    }

    /// Words.
    fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: usize) |driver| {
        driver.fill(stream, to, &value.to_ne_bytes(), count)
    }

    /// Whose memory an address is in: its kind, and the ordinal of its device.
    fn cuPointerGetAttribute(value: *mut c_void, attribute: c_int, address: u64) |driver| {
        driver.current()?;
        let Place::Live(space, _) = driver.memory.place(address) else { return Err(Status::ERROR_INVALID_VALUE) };
        let found = match (attribute, space) {
            (MEMORY_TYPE, Space::Device(_)) => TYPE_DEVICE,
            (MEMORY_TYPE, Space::Pinned(_)) => TYPE_HOST,
            (DEVICE_ORDINAL, Space::Device(ordinal) | Space::Pinned(ordinal)) => ordinal as c_int,
            _ => return Err(unsupported("another attribute of a pointer")),
        };
        if value.is_null() {
            return Err(Status::ERROR_INVALID_VALUE);
        }
        // SAFETY: not null, and an integer's by the manual.
        unsafe { value.cast::<c_int>().write(found) };
        Ok(())
    }
}
