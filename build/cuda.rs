//! The CUDA half of the build: `kernels/` goes in, and into `OUT_DIR` come a fatbin and a ptxas report of each kernel,
//! `fatbins.rs` that embeds them, and `abi.rs`. Nothing is fetched, and no device is asked what it is.

mod abi;
mod kernels;
mod tools;

#[allow(dead_code, reason = "what a device can run is asked at run time")]
#[path = "../src/cuda/architecture.rs"]
mod architecture;

use std::env;
use std::path::PathBuf;

use super::{Failure, failed_to};
use architecture::Architecture;

/// The architectures to compile for, separated by commas.
const ARCHITECTURES: &str = "TILESIGHT_CUDA_ARCHS";
const DEFAULT_ARCHITECTURES: &str = "sm_80,sm_90a";

pub fn build() -> Result<(), Failure> {
    let architectures = architectures()?;
    // Cargo looks at everything in the folder.
    println!("cargo::rerun-if-changed=kernels");
    tools::libclang();
    let nvcc = tools::nvcc()?;
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    abi::generate(&out.join("abi.rs"))?;
    kernels::compile(&nvcc, &architectures, &out)?;
    println!("cargo::rustc-env={ARCHITECTURES}={}", Architecture::join(&architectures));
    Ok(())
}

fn architectures() -> Result<Vec<Architecture>, Failure> {
    let list = tools::variable(ARCHITECTURES).unwrap_or(DEFAULT_ARCHITECTURES.into());
    Architecture::list(&list.to_string_lossy()).map_err(|word| Failure {
        cause: format!("{ARCHITECTURES} has {word:?}, which is no architecture from sm_80 on"),
        remedy: format!("write it like {DEFAULT_ARCHITECTURES}"),
    })
}
