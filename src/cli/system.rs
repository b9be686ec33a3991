//! What the operating system tells of this process and of its machine.

/// The most memory this process has had resident, where the system tells.
pub(super) fn peak_rss_bytes() -> Option<u64> {
    let line = line_of("/proc/self/status", "VmHWM:")?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// Processes that wanted to run over the last minute, on average.
pub(super) fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// What stands behind `key` in its first line.
pub(super) fn line_of(file: &str, key: &str) -> Option<String> {
    std::fs::read_to_string(file).ok()?.lines().find_map(|line| line.strip_prefix(key)).map(str::to_string)
}
