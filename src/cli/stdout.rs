//! Standard output, whose reader may leave and whose disk may be full.
//!
//! Either ends the command where it is: what it holds is dropped, temporary files are gone with it, and no panic is told.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

use super::note;

/// The status of a program that wrote to a closed pipe: 128 and the number of SIGPIPE.
const CLOSED: u8 = 141;

/// Why standard output cannot be written to.
struct Unwritable(io::Error);

/// Writes a line; what `println!` is in this folder.
pub(super) fn line(text: Arguments) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        // Unwinds without the message of a panic.
        resume_unwind(Box::new(Unwritable(error)));
    }
}

/// Runs a command to its end, or to a line that cannot be written.
pub(super) fn guarded(command: impl FnOnce() -> ExitCode) -> ExitCode {
    let panic = match catch_unwind(AssertUnwindSafe(command)) {
        Ok(code) => return code,
        Err(panic) => panic,
    };
    match panic.downcast::<Unwritable>() {
        Ok(unwritable) if unwritable.0.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(CLOSED),
        Ok(unwritable) => {
            note(format_args!("error: standard output: {}", unwritable.0));
            ExitCode::from(1)
        }
        Err(panic) => resume_unwind(panic),
    }
}
