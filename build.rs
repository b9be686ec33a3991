//! Records the commit a binary was built from, so that every measurement can name it. With the feature `cuda`, compiles
//! the kernels and writes the Rust side of their contract; with `serve`, writes the messages of the gRPC protocols.

use std::path::Path;
use std::process::Command;

#[cfg(feature = "cuda-unversioned")]
#[path = "build/cuda.rs"]
mod cuda;
#[cfg(feature = "serve")]
#[path = "build/proto.rs"]
mod proto;

/// Why there is no build, and what to do about it: each one sentence, without a full stop.
struct Failure {
    cause: String,
    remedy: String,
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    record_commit();
    if let Err(Failure { cause, remedy }) = build() {
        println!("cargo::error={cause}; {remedy}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), Failure> {
    #[cfg(feature = "cuda-unversioned")]
    cuda::build()?;
    #[cfg(feature = "serve")]
    proto::compile()?;
    Ok(())
}

#[cfg(any(feature = "cuda-unversioned", feature = "serve"))]
fn failed_to(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure { cause: format!("cannot {what}: {error}"), remedy: "look at the disk and its permissions".into() }
}

fn record_commit() {
    // A packaged crate has no repository: its version says enough.
    let commit = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit = commit.ok().filter(|output| output.status.success());
    let commit = commit.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    println!("cargo::rustc-env=TILESIGHT_COMMIT={}", commit.trim());
    for file in [".git/HEAD", ".git/logs/HEAD"] {
        if Path::new(file).exists() {
            println!("cargo::rerun-if-changed={file}");
        }
    }
}
