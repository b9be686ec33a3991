//! Compiles the engine's kernels, and the simulator's own test kernels, with the host's C++ compiler, and lists their
//! entry points. A kernel needs no registration: its `extern "C" __global__` line is enough.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Where kernels are, from the simulator's directory.
const KERNELS: [&str; 3] = ["../kernels", "../kernels/sm90", "kernels"];

/// An entry point as its line of source gives it.
struct Entry {
    module: String,
    name: String,
    params: String,
    launch_bounds: String,
}

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=include");
    println!("cargo::rerun-if-changed=src/machine/native.cc");
    // The driver's own, by which libcublasLt.so finds the library that its program has loaded.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");

    let mut entries = BTreeMap::new();
    let mut modules = BTreeMap::new();
    for directory in KERNELS.map(|directory| root.join(directory)) {
        if !directory.is_dir() {
            continue;
        }
        println!("cargo::rerun-if-changed={}", directory.display());
        for file in kernel_files(&directory) {
            let module = file.file_stem().and_then(|stem| stem.to_str()).expect("kernels have plain names").to_owned();
            let found = find_entries(&file, &module);
            let unit = out.join(format!("{module}.cc"));
            write_if_changed(&unit, &translation_unit(&file, &found));
            if let Some(other) = modules.insert(module, file.clone()) {
                panic!("{} and {} have one name: rename one of them", other.display(), file.display());
            }
            for entry in found {
                if let Some(other) = entries.insert(entry.name.clone(), entry) {
                    panic!("entry {} is defined twice, once in {}: rename one of them", other.name, other.module);
                }
            }
        }
    }
    write_if_changed(&out.join("entries.rs"), &entry_table(&entries));
    compile(&root, modules.keys().map(|module| out.join(format!("{module}.cc"))));
}

fn kernel_files(directory: &Path) -> Vec<PathBuf> {
    let listing = fs::read_dir(directory).expect("the directory of kernels can be listed");
    let files = listing.map(|item| item.expect("the directory of kernels can be listed").path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|extension| extension == "cu")).collect();
    files.sort();
    files
}

fn find_entries(file: &Path, module: &str) -> Vec<Entry> {
    let source = fs::read_to_string(file).expect("a kernel can be read");
    let lines = source.lines().filter(|line| line.starts_with("extern \"C\" __global__"));
    let parse = |line| {
        parse_entry(line, module).unwrap_or_else(|| {
            panic!(
                "{}: entry {line:?} is not of the form this script reads: write it on one line as \
                 extern \"C\" __global__ void __launch_bounds__(THREADS) name(const __grid_constant__ Params params) {{",
                file.display()
            )
        })
    };
    lines.map(parse).collect()
}

fn parse_entry(line: &str, module: &str) -> Option<Entry> {
    let rest = line.strip_prefix("extern \"C\" __global__ void __launch_bounds__(")?;
    // The bounds may be an expression with parentheses of its own.
    let mut depth = 1;
    let end = rest.find(|character| {
        depth += i32::from(character == '(') - i32::from(character == ')');
        depth == 0
    })?;
    let (launch_bounds, rest) = (&rest[..end], rest[end + 1..].trim_start());
    let (name, rest) = rest.split_once('(')?;
    let parameter = rest.split_once(')')?.0.strip_prefix("const __grid_constant__ ")?;
    let params = parameter.rsplit_once(' ')?.0;
    let is_name = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (is_name(name) && !params.contains(',')).then(|| Entry {
        module: module.to_owned(),
        name: name.to_owned(),
        params: params.to_owned(),
        launch_bounds: launch_bounds.to_owned(),
    })
}

/// The kernel's file and, for each entry, its record: what `src/machine/entries.rs` reads as `EntryRecord`.
fn translation_unit(file: &Path, entries: &[Entry]) -> String {
    let mut unit = format!("#include \"{}\"\n#include <entry.h>\n", file.display());
    for Entry { name, params, launch_bounds, .. } in entries {
        writeln!(unit, "SIMULATOR_ENTRY({name}, {params}, {launch_bounds})").expect("strings take all");
    }
    unit
}

fn entry_table(entries: &BTreeMap<String, Entry>) -> String {
    let mut table = String::from("unsafe extern \"C\" {\n");
    for name in entries.keys() {
        writeln!(table, "    safe static simulator_entry_{name}: EntryRecord;").expect("strings take all");
    }
    table += "}\n\nfn records() -> Vec<(&'static str, &'static str, &'static EntryRecord)> {\n    vec![\n";
    for Entry { module, name, .. } in entries.values() {
        writeln!(table, "        ({module:?}, {name:?}, &simulator_entry_{name}),").expect("strings take all");
    }
    table + "    ]\n}\n"
}

/// Leaves a file alone that is right already, so that what is built from it stays fresh.
fn write_if_changed(file: &Path, content: &str) {
    if fs::read_to_string(file).is_ok_and(|present| present == content) {
        return;
    }
    fs::write(file, content).expect("OUT_DIR can be written");
}

fn compile(root: &Path, units: impl Iterator<Item = PathBuf>) {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).debug(true).cpp_link_stdlib(None);
    build.include(root.join("include")).include(root.join("../kernels"));
    build.flag("-include").flag("device.h").files(units).file(root.join("src/machine/native.cc"));
    // `#pragma unroll` is nvcc's. Kernels reinterpret words as vectors, which nvcc allows. Nothing unwinds. No product is
    // contracted, so that results are the same on every host. A register that is read before it is written is a large
    // number rather than what happened to be there.
    build.warnings(true).extra_warnings(true).flag("-Wno-unknown-pragmas");
    build.flag("-fno-strict-aliasing").flag("-fno-exceptions").flag("-fvisibility=hidden").flag("-ffp-contract=off");
    build.flag_if_supported("-ftrivial-auto-var-init=pattern");
    if env::var_os("CARGO_FEATURE_SANITIZE").is_some() {
        build.flag("-fsanitize=address,undefined").flag("-fno-sanitize-recover=undefined");
        build.flag("-fno-omit-frame-pointer");
        link_sanitizers(&build);
    }
    build.compile("tilesight_simulator_kernels");
}

fn link_sanitizers(build: &cc::Build) {
    for library in ["asan", "ubsan"] {
        let mut compiler = build.get_compiler().to_command();
        let output = compiler.arg(format!("-print-file-name=lib{library}.so")).output();
        let output = output.expect("the C++ compiler can be run");
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let Some(directory) = path.parent().filter(|directory| directory.is_absolute()) else {
            panic!("the C++ compiler has no lib{library}.so: install its sanitizers, or build without `sanitize`");
        };
        println!("cargo::rustc-link-search=native={}", directory.display());
        println!("cargo::rustc-link-lib=dylib={library}");
        println!("cargo::rustc-env=SIMULATOR_{}={}", library.to_uppercase(), path.display());
    }
}
