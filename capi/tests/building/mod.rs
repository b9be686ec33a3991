//! Programs in C, compiled against the library that cargo built for these tests, as it is installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

/// Where the library has been installed for a test's programs.
static INSTALLED: LazyLock<PathBuf> = LazyLock::new(|| {
    let test = std::env::current_exe().unwrap();
    // Another test may install it at the same time.
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/install-library");
    let mut install = Command::new(script);
    let output = install.arg("--built").arg(test.parent().unwrap()).arg("--prefix").arg(&place).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    place
});

#[derive(Debug, Clone, Copy)]
pub enum Link {
    Shared,
    #[allow(dead_code, reason = "not every test file links the static library")]
    Static,
}

/// Compiles a program; warnings are errors, and what cannot be told of its memory by the results is told by the compiler's
/// sanitizers. `more` are arguments of the compiler's.
pub fn compile(source: &str, link: Link, folder: &Path, more: &[String]) -> PathBuf {
    let capi = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = folder.join(format!("program-{link:?}"));
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-g", "-fsanitize=address,undefined"]);
    cc.arg("-fno-sanitize-recover=all").arg(capi.join(source)).arg("-o").arg(&program).args(flags("--cflags"));
    match link {
        Link::Shared => cc.args(flags("--libs")).arg(format!("-Wl,-rpath,{}", INSTALLED.join("lib").display())),
        Link::Static => cc.arg(INSTALLED.join("lib/libtilesight.a")).args(["-lm", "-ldl", "-lpthread"]),
    };
    let output = cc.args(more).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    program
}

/// What pkg-config says of it.
fn flags(of: &str) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    let output =
        command.args([of, "tilesight"]).env("PKG_CONFIG_PATH", INSTALLED.join("lib/pkgconfig")).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_string).collect()
}

pub fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}
