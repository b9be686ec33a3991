//! The entry points of all kernels, as the build script found them.

use std::ffi::c_void;
use std::sync::LazyLock;

/// An entry point of a kernel: `extern "C" __global__`.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Its file's path in `kernels/` without the extension: `projection`, `sm90/projection`.
    pub module: &'static str,
    /// The least compute capability that has its instructions.
    pub compute_capability: (u32, u32),
    /// Size of its one parameter, a struct.
    pub params_bytes: usize,
    /// Threads of a block at most: the first argument of `__launch_bounds__`.
    pub max_threads: u32,
    /// Runs it as the current thread with a copy of the struct.
    pub(super) function: unsafe extern "C" fn(*const c_void),
}

/// `SimulatorEntry` of `include/entry.h`.
#[repr(C)]
struct EntryRecord {
    function: unsafe extern "C" fn(*const c_void),
    params_bytes: u64,
    max_threads: u32,
}

/// An entry as the build script lists it.
struct Source {
    name: &'static str,
    module: &'static str,
    compute_capability: (u32, u32),
    record: fn() -> &'static EntryRecord,
}

include!(concat!(env!("OUT_DIR"), "/entries.rs"));

/// All entries, by name; of one name, the portable one first.
pub fn entries() -> &'static [Entry] {
    static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| SOURCES.iter().map(describe).collect());
    &ENTRIES
}

fn describe(&Source { name, module, compute_capability, record }: &Source) -> Entry {
    let &EntryRecord { function, params_bytes, max_threads } = record();
    Entry { name, module, compute_capability, params_bytes: params_bytes as usize, max_threads, function }
}

/// The entry of that name, the portable one where others have the same.
pub fn entry(name: &str) -> Option<&'static Entry> {
    let first = entries().partition_point(|entry| entry.name < name);
    entries().get(first).filter(|entry| entry.name == name)
}

/// The entry of that name for code that no device below this compute capability has to run: the one with the newest
/// instructions.
pub fn entry_for(name: &str, least: (u32, u32)) -> Option<&'static Entry> {
    entries().iter().rev().find(|entry| entry.name == name && entry.compute_capability <= least)
}

/// The entry of that name in that module.
pub fn entry_of(module: &str, name: &str) -> Option<&'static Entry> {
    entries().iter().find(|entry| entry.name == name && entry.module == module)
}
