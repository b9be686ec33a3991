//! How many connections the process' descriptors are enough for.

/// Descriptors that connections leave to everything else: probes, shared memory, a collector of spans, files.
const RESERVE: u64 = 64;

/// What to count with where the system does not say what is open.
const OPEN: u64 = 32;

/// Raises the limit of descriptors as far as the process may. How many connections each of so many listeners can have
/// with them.
pub(in crate::serve) fn raise_limit(listeners: usize) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").map_or(OPEN, |entries| entries.count() as u64);
    limit().map_or(usize::MAX, |limit| share(limit, open, listeners as u64))
}

/// The part of the descriptors that a listener's connections may take. Where there are few, a quarter is left.
fn share(limit: u64, open: u64, listeners: u64) -> usize {
    let free = limit.saturating_sub(open).saturating_sub(RESERVE.min(limit / 4));
    usize::try_from(free / listeners.max(1)).unwrap_or(usize::MAX).max(1)
}

/// The limit, raised; none where there is none.
#[cfg(target_os = "linux")]
fn limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if raised.is_ok() { maximum } else { current }
}

#[cfg(not(target_os = "linux"))]
fn limit() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn connections_leave_descriptors_to_others() {
        assert_eq!(share(1024, 24, 2), (1024 - 24 - 64) / 2);
        assert_eq!(share(64, 20, 2), (64 - 20 - 16) / 2);
        assert_eq!(share(16, 20, 2), 1);
        assert_eq!(share(u64::MAX, 20, 1), (u64::MAX - 84) as usize);
    }
}
