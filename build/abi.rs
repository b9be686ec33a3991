//! `kernels/abi.h` in Rust.

use std::panic;
use std::path::Path;

use super::{Failure, failed_to};

const HEADER: &str = "kernels/abi.h";

pub fn generate(rust: &Path) -> Result<(), Failure> {
    let builder = bindgen::Builder::default()
        .header(HEADER)
        .clang_args(["-x", "c++", "-std=c++17", "-Wno-pragma-once-outside-header"])
        .allowlist_file(format!(".*{}", HEADER.replace('.', r"\.")))
        .derive_default(true)
        // Members, so that they are zeros: what lies there may else look like an address.
        .explicit_padding(true)
        .layout_tests(true);
    // bindgen panics where there is no libclang. Its message is passed on, so the default hook need not print it.
    panic::set_hook(Box::new(|_| {}));
    let generated = panic::catch_unwind(panic::AssertUnwindSafe(|| builder.generate()));
    let _ = panic::take_hook();
    let bindings = generated.map_err(|panic| {
        let message = panic.downcast_ref::<String>().map_or("bindgen stopped", String::as_str);
        Failure {
            cause: format!("the feature `cuda` needs libclang: {message}"),
            remedy: "run scripts/toolchain of the repository, or set LIBCLANG_PATH".into(),
        }
    })?;
    let bindings = bindings.map_err(|error| Failure {
        cause: format!("bindgen cannot read {HEADER}: {error}"),
        remedy: "correct it; it may include <stdint.h> alone".into(),
    })?;
    bindings.write_to_file(rust).map_err(|error| failed_to("write abi.rs", error))
}
