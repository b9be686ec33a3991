//! Events.

use std::ffi::c_uint;

use super::{Out, exports, put};
use crate::driver::schedule::Frontier;
use crate::driver::state::{Driver, Event, Marked};
use crate::driver::status::Result;
use crate::driver::{Status, Until};

/// `CU_EVENT_BLOCKING_SYNC`, which makes no difference here.
const BLOCKING_SYNC: c_uint = 1;

/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: c_uint = 2;

/// What one operation of the simulated device counts as. No time that is computed from it means anything.
const MILLISECONDS_PER_OPERATION: f32 = 1e-3;

impl Driver {
    /// The work that an event marks, with its device.
    fn marked(&mut self, event: usize) -> Result<(usize, Frontier)> {
        let current = self.current()?;
        let marked = self.events.get(event)?;
        let marked = match &marked.marked {
            Marked::Nothing => (current, Frontier::new()),
            Marked::Work(frontier) => (marked.device, frontier.clone()),
            Marked::Recording(recording) => {
                let capture = recording.capture;
                if let Ok(capture) = self.captures.get_mut(capture) {
                    capture.is_valid = false;
                }
                return Err(Status::ERROR_CAPTURED_EVENT);
            }
        };
        self.outside_of_captures()?;
        Ok(marked)
    }

    /// When an event was reached.
    fn time(&self, event: usize) -> Result<u64> {
        let event = self.events.get(event)?;
        match &event.marked {
            Marked::Work(_) if event.keeps_time => event.time.ok_or(Status::ERROR_NOT_READY),
            Marked::Recording(_) => Err(Status::ERROR_CAPTURED_EVENT),
            _ => Err(Status::ERROR_INVALID_HANDLE),
        }
    }

    fn elapsed(&self, milliseconds: Out<'_, f32>, start: usize, end: usize) -> Result<()> {
        self.current()?;
        let (start, end) = (self.time(start)?, self.time(end)?);
        put(milliseconds, (end as f32 - start as f32) * MILLISECONDS_PER_OPERATION)
    }
}

exports! {
    /// Not shared with other processes.
    fn cuEventCreate(event: Out<'_, usize>, flags: c_uint) |driver| {
        let device = driver.current()?;
        let out = event.filter(|_| flags & !(BLOCKING_SYNC | DISABLE_TIMING) == 0).ok_or(Status::ERROR_INVALID_VALUE)?;
        let keeps_time = flags & DISABLE_TIMING == 0;
        out.write(driver.events.add(Event { device, keeps_time, marked: Marked::Nothing, time: None }));
        Ok(())
    }

    /// Who waits for it goes on waiting for what it marked.
    fn cuEventDestroy_v2(event: usize) |driver| {
        let current = driver.current();
        driver.events.remove(event)?;
        current.map(|_| ())
    }

    /// The end of the stream as it is now.
    fn cuEventRecord(event: usize, stream: usize) |driver| {
        let target = driver.target(stream)?;
        driver.record(event, target)
    }

    /// Each query may find one more piece of work done.
    fn cuEventQuery(event: usize) |driver| {
        let (device, work) = driver.marked(event)?;
        driver.poll(&work);
        driver.healthy(device)?;
        if driver.schedule.is_done(&work) { Ok(()) } else { Err(Status::ERROR_NOT_READY) }
    }

    /// Waits for what it marks.
    fn cuEventSynchronize(event: usize) |driver| {
        let (device, work) = driver.marked(event)?;
        Ok(Until { device, work })
    }

    /// A number of operations, not a time.
    fn cuEventElapsedTime(milliseconds: Out<'_, f32>, start: usize, end: usize) |driver| {
        driver.elapsed(milliseconds, start, end)
    }

    /// A number of operations, not a time.
    fn cuEventElapsedTime_v2(milliseconds: Out<'_, f32>, start: usize, end: usize) |driver| {
        driver.elapsed(milliseconds, start, end)
    }
}
