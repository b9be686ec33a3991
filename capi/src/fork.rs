//! Children of fork(), which have none of the library's threads: a call there would wait for them for ever.
//!
//! They are told by the number of the process, noted at the first call. It costs a system call, of some 0.1 µs, and no
//! unsafe code; pthread_atfork() would cost neither, but hears nothing of children that clone() or _Fork() makes.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::status::{Refusal, Status};

/// The process whose the library is; zero, which no process has, before the first call. Not behind a lock, for one that is
/// held while another thread forks is never released in the child.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Refuses every process but the one that called first.
pub(crate) fn require_own_process() -> Result<(), Refusal> {
    let process = process::id();
    // Nothing else is published with it: a child has its parent's memory as it was.
    match OWNER.compare_exchange(0, process, Ordering::Relaxed, Ordering::Relaxed) {
        Err(owner) if owner != process => {
            let message = format!(
                "process {process} is a child of fork(), and has none of the threads of process {owner}, which used the \
                 library before: call it only after fork(), or exec() in the child"
            );
            Err(Refusal::new(Status::Forked, message))
        }
        _ => Ok(()),
    }
}
