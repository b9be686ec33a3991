//! The log of `serve`. A thread of its own writes it: no request waits for the reader of the log, or meets its failures.

use std::fmt::Arguments;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::ValueEnum;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::serve::LostLogLines;

/// Lines that wait to be written at most, some 5 MB. Beyond them new ones are lost.
const MAX_WAITING_LINES: usize = 8192;

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogForm {
    /// For people
    Text,
    /// An object a line, for programs
    Json,
}

/// The least severity that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
}

/// The log. Dropped, it writes the lines that wait, for a second at most.
pub(super) struct Log {
    form: LogForm,
    writer: NonBlocking,
    failed: Arc<AtomicU64>,
    _worker: WorkerGuard,
}

impl Log {
    /// Sends the server's log to standard error. An engine that embeds the server sends it elsewhere.
    pub(super) fn start(form: LogForm, level: LogLevel) -> Self {
        let failed = Arc::<AtomicU64>::default();
        // A descriptor of its own: a write that is stuck holds no lock that the rest of the process needs.
        let file = io::stderr().as_fd().try_clone_to_owned().ok().map(File::from);
        let (writer, worker) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(MAX_WAITING_LINES)
            .thread_name("log")
            .finish(Lenient { file, failed: failed.clone() });
        let level = match level {
            LogLevel::Off => LevelFilter::OFF,
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
        };
        // Of the libraries beneath, only OpenTelemetry's failures to reach a collector are logged.
        let targets =
            Targets::new().with_target("tilesight", level).with_target("opentelemetry", level.min(LevelFilter::WARN));
        let log = tracing_subscriber::fmt().with_max_level(level).with_writer(writer.clone()).with_target(false);
        match form {
            LogForm::Text => log.with_ansi(false).finish().with(targets).init(),
            LogForm::Json => {
                let log = log.json().flatten_event(true).with_current_span(false).with_span_list(false);
                log.finish().with(targets).init();
            }
        }
        Self { form, writer, failed, _worker: worker }
    }

    pub(super) fn form(&self) -> LogForm {
        self.form
    }

    /// A line that is no event: as it is for people, and the field `line` of a `note` for programs.
    pub(super) fn note(&self, line: Arguments) {
        match self.form {
            // One write, so that a line is lost whole.
            LogForm::Text => drop(self.writer.clone().write_all(format!("{line}\n").as_bytes())),
            LogForm::Json => tracing::info!(%line, "note"),
        }
    }

    /// Lines that were lost so far.
    pub(super) fn lost_lines(&self) -> LostLogLines {
        let (failed, dropped): (_, ErrorCounter) = (self.failed.clone(), self.writer.error_counter());
        LostLogLines::new(move || failed.load(Ordering::Relaxed) + dropped.dropped_lines() as u64)
    }
}

/// Standard error, whose failures are counted and never told.
struct Lenient {
    file: Option<File>,
    failed: Arc<AtomicU64>,
}

impl Write for Lenient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.as_mut().map_or(Err(io::ErrorKind::NotFound.into()), |file| file.write_all(bytes));
        if written.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
