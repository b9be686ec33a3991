//! Records the commit a binary was built from, so that every measurement can name it. With the feature `cuda`, compiles
//! the kernels and writes the Rust side of their contract.

use std::path::Path;
use std::process::Command;

#[cfg(feature = "cuda-unversioned")]
#[path = "build/cuda.rs"]
mod cuda;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    record_commit();
    #[cfg(feature = "cuda-unversioned")]
    if let Err(cuda::Failure { cause, remedy }) = cuda::build() {
        println!("cargo::error={cause}; {remedy}");
        std::process::exit(1);
    }
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
