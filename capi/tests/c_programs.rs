//! Programs in C, compiled against the header and run: what a caller gets is what the engine gives, and no misuse that can
//! be told ends the process. Each is linked with the shared library and with the static one, and run under
//! AddressSanitizer.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use engine::image::{Image, Limits};
use engine::{Device, Encoder};

/// Where the library has been installed for these tests.
static INSTALLED: LazyLock<PathBuf> = LazyLock::new(|| {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libtilesight");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/install-library");
    let output = Command::new(script).args(["--profile", "dev", "--prefix"]).arg(&place).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    place
});

/// What pkg-config says of it.
fn flags(of: &str) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    let output =
        command.args([of, "tilesight"]).env("PKG_CONFIG_PATH", INSTALLED.join("lib/pkgconfig")).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_string).collect()
}

#[derive(Debug, Clone, Copy)]
enum Link {
    Shared,
    Static,
}

/// Compiles a program; warnings are errors.
fn compile(source: &str, link: Link, folder: &Path) -> PathBuf {
    let capi = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = folder.join(format!("program-{link:?}"));
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-g", "-fsanitize=address,undefined"]);
    cc.arg("-fno-sanitize-recover=all").arg(capi.join(source)).arg("-o").arg(&program).args(flags("--cflags"));
    match link {
        Link::Shared => cc.args(flags("--libs")).arg(format!("-Wl,-rpath,{}", INSTALLED.join("lib").display())),
        Link::Static => cc.arg(INSTALLED.join("lib/libtilesight.a")).args(["-lm", "-ldl", "-lpthread"]),
    };
    let output = cc.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    program
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

#[test]
fn the_example_writes_the_engines_embeddings() {
    let (model, picture) = (golden("hf_tiny"), golden("hf_tiny/image0.png"));
    let mut encoder = Encoder::builder().model(&model).device(Device::Cpu).build().unwrap();
    let image = Image::decode(&std::fs::read(&picture).unwrap(), &Limits::default()).unwrap();
    let expected = encoder.encode(&[image]).unwrap().embeddings;
    for link in [Link::Shared, Link::Static] {
        let folder = tempfile::tempdir().unwrap();
        let program = compile("examples/encode.c", link, folder.path());
        let out = folder.path().join("embeddings");
        let output = Command::new(&program).arg(&model).arg(&picture).arg(&out).output().unwrap();
        assert!(output.status.success(), "{link:?}: {}", text(&output));
        assert!(text(&output).contains("1 tiles down and 3 across, 15 embeddings of 32 values"), "{}", text(&output));
        let bytes = std::fs::read(&out).unwrap();
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert!(values == expected, "{link:?}");
        let output = Command::new(&program).arg("/nowhere").arg(&picture).arg(&out).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).starts_with("open: checkpoint: /nowhere"), "{}", text(&output));
    }
}

#[test]
fn misuse_is_refused_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile("tests/programs/misuse.c", Link::Shared, folder.path());
    let output = Command::new(program).arg(golden("hf_tiny")).arg(golden("hf_tiny/image0.png")).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}
