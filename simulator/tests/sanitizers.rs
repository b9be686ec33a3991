//! What only the sanitizers see ends the process with their report: each case in a process of its own, which is this
//! one started again.

use std::process::Command;

use tilesight_simulator::machine::testing::{Buffer, Kernel, Params};

/// Names the case for the process that is to run it.
const CASE: &str = "SIMULATOR_UNSEEN_FAULT";

/// Runs nothing unless it is asked to.
#[test]
fn case() {
    let Ok(fault) = std::env::var(CASE) else { return };
    let bytes = Buffer::of(&[0u8; 403]);
    let params = Params::new().buffer(&bytes).u32(fault.parse().expect("a number")).u32(403);
    Kernel::named("go_unseen").shared_bytes(if fault == "3" { 403 } else { 512 }).run(&params).expect("no fault");
    assert_eq!(bytes.read::<u8>()[0], 1);
}

/// What a process that runs the case says, where it fails.
fn report(fault: u32) -> Option<String> {
    let program = std::env::current_exe().expect("a test has a program");
    let output = Command::new(program).args(["--exact", "case", "--nocapture"]).env(CASE, fault.to_string()).output();
    let output = output.expect("a test can be started again");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_kernel_that_is_right_passes() {
    assert_eq!(report(0), None);
}

#[test]
fn accesses_outside_of_memory_are_reported() {
    for (fault, access) in [(1, "READ of size 1"), (2, "WRITE of size 1"), (3, "READ of size 1"), (4, "READ of size")] {
        let report = report(fault).unwrap_or_else(|| panic!("case {fault} passed"));
        assert!(report.contains("AddressSanitizer: use-after-poison"), "{report}");
        assert!(report.contains(access), "{report}");
        assert!(report.contains("faults.cu"), "{report}");
    }
}

#[test]
fn undefined_behaviour_is_reported() {
    let expected = [(5, "signed integer overflow"), (6, "misaligned address"), (7, "shift exponent 32 is too large")];
    for (fault, what) in expected {
        let report = report(fault).unwrap_or_else(|| panic!("case {fault} passed"));
        assert!(report.contains("runtime error") && report.contains(what), "{report}");
    }
}
