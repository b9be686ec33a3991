//! The machine that a benchmark ran on.

use serde::Serialize;

use crate::cli::system::{line_of, load, peak_rss_bytes};

/// What times depend on beside the program.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Environment {
    cpu: Option<String>,
    cores: usize,
    system: &'static str,
    architecture: &'static str,
    /// The NVIDIA driver's release.
    driver: Option<String>,
    /// Processes that wanted to run, over the minute before and over the last minute of the run, its own among them.
    load_before: Option<f64>,
    load_after: Option<f64>,
    /// The most memory that this process has had.
    pub(super) peak_rss_bytes: Option<u64>,
    command: Vec<String>,
}

/// Load above which other programs are likely to disturb.
const QUIET: f64 = 0.5;

impl Environment {
    /// As it is before a run; says so where the machine is not quiet.
    pub(super) fn before() -> Self {
        let load_before = load();
        if let Some(load) = load_before.filter(|load| *load > QUIET) {
            eprintln!("the machine is not quiet (load {load}): times will be worse and vary more");
        }
        Self {
            cpu: line_of("/proc/cpuinfo", "model name")
                .map(|line| line.trim_start_matches([' ', '\t', ':']).to_string()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            system: std::env::consts::OS,
            architecture: std::env::consts::ARCH,
            driver: line_of("/proc/driver/nvidia/version", "NVRM version:").map(|line| line.trim().to_string()),
            load_before,
            load_after: None,
            peak_rss_bytes: None,
            command: std::env::args().collect(),
        }
    }

    /// Does something whose memory is not the encoder's: the most that was had before counts, and what is had after.
    pub(super) fn aside<T>(&mut self, work: impl FnOnce() -> T) -> T {
        self.peak_rss_bytes = peak_rss_bytes();
        let result = work();
        // Linux forgets the peak at this; where it does not, the work's memory counts.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        result
    }

    /// Completed behind a run.
    pub(super) fn after(self) -> Self {
        let peak_rss_bytes = self.peak_rss_bytes.max(peak_rss_bytes());
        Self { load_after: load(), peak_rss_bytes, ..self }
    }

    /// A line for people.
    pub(super) fn line(&self) -> String {
        let load = |load: Option<f64>| load.map_or("unknown".to_string(), |load| load.to_string());
        format!(
            "{}, {} cores, load {} before and {} after",
            self.cpu.as_deref().unwrap_or(self.architecture),
            self.cores,
            load(self.load_before),
            load(self.load_after)
        )
    }
}
