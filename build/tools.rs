//! Finds nvcc and libclang, and names them to the crates that call them.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Failure;

const OLDEST_NVCC: (u32, u32) = (12, 4);

/// A compiler that runs and is new enough.
pub struct Nvcc {
    pub compiler: cc::Tool,
    /// What it says about itself.
    pub version: String,
    /// The flags that it takes from the environment by itself.
    pub flags: [Option<OsString>; 2],
}

/// An environment variable; an empty one counts as not set.
pub fn variable(name: &str) -> Option<OsString> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var_os(name).filter(|value| !value.is_empty())
}

/// What scripts/toolchain set up, if it did.
fn toolchain(file: &str) -> PathBuf {
    let root = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    Path::new(&root).join("target/toolchain").join(file)
}

pub fn nvcc() -> Result<Nvcc, Failure> {
    let path = find_nvcc()?;
    let version = version(&path)?;
    if path.is_file() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    name_tool("NVCC", &path);
    // What prints machine code lies beside it; a test reads that.
    println!("cargo::rustc-env=TILESIGHT_CUOBJDUMP={}", path.with_file_name("cuobjdump").display());
    // Of cc's flags only the host compiler's name is for a fatbin; the rest is for objects that get linked.
    let mut build = cc::Build::new();
    build.cpp(true).cuda(true).no_default_flags(true).inherit_rustflags(false).warnings(false).extra_warnings(false);
    let compiler = build.try_get_compiler().map_err(|error| Failure {
        cause: format!("cannot find a host compiler for nvcc: {error}"),
        remedy: "install a C++ compiler, or name one with CXX".into(),
    })?;
    Ok(Nvcc { compiler, version, flags: ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"].map(variable) })
}

fn find_nvcc() -> Result<PathBuf, Failure> {
    // Who names a file means that one.
    if let Some(path) = variable("NVCC") {
        return Ok(path.into());
    }
    let mut places = Vec::new();
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        places.extend(variable(name).map(|root| Path::new(&root).join("bin/nvcc")));
    }
    places.push(toolchain("nvidia/cu13/bin/nvcc"));
    // PATH last, and read only then: another one, as editors have, would run all of this again.
    let on_path =
        || env::split_paths(&variable("PATH")?).map(|folder| folder.join("nvcc")).find(|place| place.is_file());
    places.iter().find(|place| place.is_file()).cloned().or_else(on_path).ok_or_else(|| {
        let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        Failure {
            cause: format!("the feature `cuda` needs nvcc, which is neither {} nor on PATH", places.join(" nor ")),
            remedy: "run scripts/toolchain of the repository, or set NVCC or CUDA_HOME".into(),
        }
    })
}

fn version(nvcc: &Path) -> Result<String, Failure> {
    let refuse = |what: &str| Failure {
        cause: format!("{} {what}", nvcc.display()),
        remedy: "unset what leads to it of NVCC, CUDA_HOME and CUDA_PATH and run scripts/toolchain of the repository, \
                 or set NVCC to another one"
            .into(),
    };
    let output = Command::new(nvcc).arg("--version").output();
    let output = output.map_err(|error| refuse(&format!("does not run: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "Cuda compilation tools, release 13.0, V13.0.88"
    let release = text.split_once("release ").and_then(|(_, rest)| rest.split(',').next()?.split_once('.'));
    let release = release.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    match release {
        None => Err(refuse("does not tell its version as nvcc does")),
        Some((major, minor)) if (major, minor) < OLDEST_NVCC => {
            let (oldest, since) = OLDEST_NVCC;
            Err(refuse(&format!("is of CUDA {major}.{minor}, and {oldest}.{since} is the oldest that will do")))
        }
        Some(_) => Ok(text),
    }
}

/// Points bindgen to the libclang of scripts/toolchain, unless another one is named. Where there is neither, bindgen
/// finds an installed one, or says what it looked for.
pub fn libclang() {
    let library = toolchain("clang/native/libclang.so");
    if variable("LIBCLANG_PATH").is_none() && library.is_file() {
        println!("cargo::rerun-if-changed={}", library.display());
        name_tool("LIBCLANG_PATH", &library);
    }
}

#[expect(unsafe_code, reason = "cc and bindgen take these paths from the environment alone")]
fn name_tool(variable: &str, path: impl AsRef<OsStr>) {
    // SAFETY: no other thread runs: the build script starts its first ones in `kernels::compile`, after all tools are found.
    unsafe { env::set_var(variable, path) };
}
