//! The functions of `libcuda.so` that an engine calls, by NVIDIA's manual of the driver API.
//!
//! A call only notes what is to be done and what must be done before it ([`schedule`]); the work itself ([`work`]) is done
//! when the host waits, in an order drawn by the seed from all those that streams and events allow. What the host forgot
//! to order therefore goes wrong under some seeds. One lock is held through every call.

pub mod api;
mod capture;
mod config;
pub mod control;
mod image;
mod memory;
mod objects;
mod schedule;
mod state;
mod status;
mod streams;
mod work;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

use schedule::Frontier;
use state::Driver;
use status::Result;

pub use status::Status;

static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(|| Mutex::new(Driver::from_environment()));

/// Notified when work that hung can go on, or is lost.
static RELEASED: Condvar = Condvar::new();

/// The driver's state. A call that panicked has left it as it is: each changes one thing, last.
fn driver() -> MutexGuard<'static, Driver> {
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the host waits for before a call returns: work of one device.
struct Until {
    device: usize,
    work: Frontier,
}

/// What a call ends with.
trait Outcome {
    fn until(self) -> Option<Until>;
}

impl Outcome for () {
    fn until(self) -> Option<Until> {
        None
    }
}

impl Outcome for Until {
    fn until(self) -> Option<Until> {
        Some(self)
    }
}

/// Every call: counted, failed if it is its turn to fail, carried out, waited for; panics end here.
fn call<R: Outcome>(name: &str, body: impl FnOnce(&mut Driver) -> Result<R>) -> Status {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut driver = driver();
        driver.count(name)?;
        let until = body(&mut driver)?.until();
        driver.run_promptly();
        until.map_or(Ok(()), |until| wait(driver, until))
    }));
    match outcome {
        Ok(Ok(())) => Status::SUCCESS,
        Ok(Err(status)) => status,
        Err(_) => Status::ERROR_UNKNOWN,
    }
}

/// Lets the device work until all of it is done, or the device has failed. Behind work that hangs it waits for ever.
fn wait(mut driver: MutexGuard<'static, Driver>, until: Until) -> Result<()> {
    let wait = driver.begin_wait(until.work);
    loop {
        driver.healthy(until.device)?;
        if driver.schedule.is_done(&wait.target) {
            return Ok(());
        }
        if !driver.step(&wait) {
            driver = RELEASED.wait(driver).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
