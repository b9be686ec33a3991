//! The command line. Answers go to standard output or to the file named; notices, progress and errors to standard
//! error. Exit codes: 0, 1 for bad input or data and for checks that failed, 2 for usage, 141 where the reader of standard
//! output has left.

/// A line on standard output, as std's, for which an output that cannot be written is no panic.
macro_rules! println {
    ($($text:tt)*) => { $crate::cli::stdout::line(format_args!($($text)*)) };
}

#[cfg(feature = "serve")]
mod allocator;
mod bench;
mod check;
mod encode;
mod golden;
mod grid;
mod inputs;
mod inspect;
#[cfg(feature = "serve")]
mod log;
mod model;
mod output;
mod pending_file;
mod pictures;
mod pixels;
mod plan;
mod profile;
mod progress;
mod random;
mod report_file;
#[cfg(feature = "serve")]
mod serve;
mod stdout;
mod system;
mod tiles;

use std::io::Write;
use std::process::ExitCode;

#[cfg(feature = "serve")]
pub use allocator::Allocator;
use clap::{Parser, Subcommand};

/// The release and the commit it was built from.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " ", env!("TILESIGHT_COMMIT"));

/// The Llama 3.2 Vision encoder: images in, the decoder's cross-attention embeddings out.
#[derive(Parser)]
#[command(name = "tilesight", version = VERSION, about, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Start with `tilesight encode PICTURE`: without --model it runs a small built-in model with random \
weights. `tilesight random --preset 11b --output DIR` writes a full-size checkpoint to try things on."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Encode(encode::Arguments),
    Check(check::Arguments),
    Tiles(tiles::Arguments),
    Inspect(inspect::Arguments),
    Plan(plan::Arguments),
    Random(random::Arguments),
    Bench(Box<bench::Arguments>),
    Profile(profile::Arguments),
    #[cfg(feature = "serve")]
    Serve(Box<serve::Arguments>),
}

/// Runs the command line of this process; returns its exit code.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    stdout::guarded(|| dispatch(arguments))
}

fn dispatch(arguments: Arguments) -> ExitCode {
    let result = match arguments.command {
        Command::Encode(arguments) => encode::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Check(arguments) => check::run(&arguments),
        Command::Tiles(arguments) => tiles::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Inspect(arguments) => inspect::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Plan(arguments) => plan::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Random(arguments) => random::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Profile(arguments) => profile::run(&arguments).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "serve")]
        Command::Serve(arguments) => serve::run(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            note(format_args!("error: {error}"));
            ExitCode::from(1)
        }
    }
}

/// A line on standard error. Nobody may be there to read it, which stops nothing.
fn note(line: std::fmt::Arguments) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A table for a person to read: no borders but the one under the heading.
fn table(heading: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(heading);
    table
}

/// Bytes as a person reads them.
fn readable_bytes(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}
