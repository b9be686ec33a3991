//! The exported functions, by the chapters of the manual. Their names, parameters and statuses are the manual's; what is
//! said here is only what is not the same or not there.

mod context;
mod device;
mod event;
mod foreign;
mod graph;
mod launch;
mod memory;
mod module;
mod stream;
mod tensor_map;

use std::mem::MaybeUninit;

use super::status::{Result, Status};

pub use context::*;
pub use device::*;
pub use event::*;
pub use foreign::*;
pub use graph::*;
pub use launch::*;
pub use memory::*;
pub use module::*;
pub use stream::*;
pub use tensor_map::*;

/// Where a call puts a result: a pointer that may be null.
pub type Out<'a, T> = Option<&'a mut MaybeUninit<T>>;

/// Puts a result where the caller wants it, which must be somewhere.
fn put<T>(out: Out<'_, T>, value: T) -> Result<()> {
    out.ok_or(Status::ERROR_INVALID_VALUE)?.write(value);
    Ok(())
}

/// Exported functions: each body runs within [`call`](super::call), with the driver locked.
macro_rules! exports {
    ($(
        $(#[$attribute:meta])*
        fn $name:ident($($argument:ident: $type:ty),* $(,)?) |$driver:ident| $body:block
    )*) => {$(
        $(#[$attribute])*
        ///
        /// # Safety
        ///
        /// Pointers are null, or valid for what the manual says is read from or written to them.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $crate::driver::Status {
            $crate::driver::call(stringify!($name), |$driver: &mut $crate::driver::state::Driver| $body)
        }
    )*};
}
use exports;
