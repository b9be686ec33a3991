//! The entry points of all kernels, as the build script found them.

use std::ffi::c_void;

/// An entry point of a kernel: `extern "C" __global__`.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// The file it is in, without directory and extension: the name of its module.
    pub module: &'static str,
    /// Size of its one parameter, a struct.
    pub params_bytes: usize,
    /// Threads of a block at most: the first argument of `__launch_bounds__`.
    pub max_threads: u32,
    /// Runs it as the current thread with a copy of the struct.
    pub(super) function: unsafe extern "C" fn(*const c_void),
}

/// One entry as the C++ side describes it.
#[repr(C)]
struct EntryRecord {
    function: unsafe extern "C" fn(*const c_void),
    params_bytes: u64,
    max_threads: u32,
}

include!(concat!(env!("OUT_DIR"), "/entries.rs"));

/// All entries, by name.
pub fn entries() -> &'static [Entry] {
    static ENTRIES: std::sync::OnceLock<Vec<Entry>> = std::sync::OnceLock::new();
    ENTRIES.get_or_init(|| {
        let describe = |&(module, name, record): &(&'static str, &'static str, &'static EntryRecord)| Entry {
            name,
            module,
            params_bytes: record.params_bytes as usize,
            max_threads: record.max_threads,
            function: record.function,
        };
        records().iter().map(describe).collect()
    })
}

/// The entry of that name.
pub fn entry(name: &str) -> Option<&'static Entry> {
    entries().binary_search_by(|entry| entry.name.cmp(name)).ok().map(|index| &entries()[index])
}
