//! Compiles the engine's kernels, and the simulator's own test kernels, with the host's C++ compiler, and lists their
//! entry points. A kernel needs no registration: its `extern "C" __global__` line is enough.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Where kernels are, from the simulator's directory; what their modules' names start with; the compute capability that
/// their instructions ask for, ten times the major number plus the minor one.
const KERNELS: [(&str, &str, u32); 4] = [
    ("../kernels", "", 80),
    ("../kernels/sm90", "sm90/", 90),
    ("kernels", "simulator/", 80),
    ("kernels/sm90", "simulator/sm90/", 90),
];

/// An entry point as its line of source gives it.
struct Entry {
    /// In C++: two modules may have entries of one name.
    symbol: String,
    name: String,
    params: String,
    launch_bounds: String,
    module: String,
    capability: u32,
}

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=include");
    println!("cargo::rerun-if-changed=src/machine/native.cc");
    // The driver's own, by which libcublasLt.so finds the library that its program has loaded.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");

    let mut entries = Vec::new();
    let (mut units, mut specific_units) = (Vec::new(), Vec::new());
    for (directory, prefix, capability) in KERNELS {
        let directory = root.join(directory);
        if !directory.is_dir() {
            continue;
        }
        println!("cargo::rerun-if-changed={}", directory.display());
        for file in kernel_files(&directory) {
            let stem = file.file_stem().and_then(|stem| stem.to_str()).expect("kernels have plain names");
            let found = find_entries(&file, &format!("{prefix}{stem}"), capability);
            let unit = out.join(format!("{}{stem}.cc", prefix.replace('/', "_")));
            write_if_changed(&unit, &translation_unit(&file, &found));
            if capability < 90 { &mut units } else { &mut specific_units }.push(unit);
            entries.extend(found);
        }
    }
    // By name, portable kernels before others.
    entries.sort_by(|a, b| (&a.name, a.capability, &a.module).cmp(&(&b.name, b.capability, &b.module)));
    let alike = |a: &Entry, b: &Entry| (&a.name, a.capability) == (&b.name, b.capability);
    if let Some((a, b)) = entries.iter().zip(entries.iter().skip(1)).find(|(a, b)| alike(a, b)) {
        panic!("entry {} is in {} and in {}: rename one of them", a.name, a.module, b.module);
    }
    write_if_changed(&out.join("entries.rs"), &entry_table(&entries));
    compile(&root, units, specific_units);
}

fn kernel_files(directory: &Path) -> Vec<PathBuf> {
    let listing = fs::read_dir(directory).expect("the directory of kernels can be listed");
    let files = listing.map(|item| item.expect("the directory of kernels can be listed").path());
    let is_kernel = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "cu");
    let mut files: Vec<_> = files.filter(is_kernel).collect();
    files.sort();
    files
}

fn find_entries(file: &Path, module: &str, capability: u32) -> Vec<Entry> {
    let source = fs::read_to_string(file).expect("a kernel can be read");
    let lines = source.lines().filter(|line| line.starts_with("extern \"C\" __global__"));
    let parse = |line| {
        parse_entry(line, module, capability).unwrap_or_else(|| {
            panic!(
                "{}: entry {line:?} is not of the form this script reads: write it on one line as extern \"C\" \
                 __global__ void __launch_bounds__(THREADS) name(const __grid_constant__ Params params) {{",
                file.display()
            )
        })
    };
    lines.map(parse).collect()
}

fn parse_entry(line: &str, module: &str, capability: u32) -> Option<Entry> {
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
        symbol: format!("{}_{name}", module.replace('/', "_")),
        name: name.to_owned(),
        params: params.to_owned(),
        launch_bounds: launch_bounds.to_owned(),
        module: module.to_owned(),
        capability,
    })
}

/// The kernel's file and, for each entry, its record: what `src/machine/entries.rs` reads as `EntryRecord`. Two files
/// may give one name to different things: a namespace keeps their functions and types apart, and a prefix their
/// entries, for which C has no namespaces.
fn translation_unit(file: &Path, entries: &[Entry]) -> String {
    let mut unit = String::from("#include <entry.h>\n");
    for Entry { symbol, name, .. } in entries {
        unit += &format!("#define {name} simulator_kernel_{symbol}\n");
    }
    unit += &format!("namespace {{\n#include \"{}\"\n}}\n", file.display());
    for Entry { symbol, params, launch_bounds, .. } in entries {
        unit += &format!("SIMULATOR_ENTRY({symbol}, {params}, {launch_bounds})\n");
    }
    unit
}

fn entry_table(entries: &[Entry]) -> String {
    let mut table = String::from("unsafe extern \"C\" {\n");
    for Entry { symbol, .. } in entries {
        table += &format!("    safe static simulator_entry_{symbol}: EntryRecord;\n");
    }
    table += "}\n\nconst SOURCES: &[Source] = &[\n";
    for Entry { symbol, module, name, capability, .. } in entries {
        let (major, minor) = (capability / 10, capability % 10);
        let record = format!("record: || &simulator_entry_{symbol}");
        let fields = format!("name: {name:?}, module: {module:?}, compute_capability: ({major}, {minor}), {record}");
        table += &format!("    Source {{ {fields} }},\n");
    }
    table + "];\n"
}

/// Leaves a file alone that is right already, so that what is built from it stays fresh.
fn write_if_changed(file: &Path, content: &str) {
    if fs::read_to_string(file).is_ok_and(|present| present == content) {
        return;
    }
    fs::write(file, content).expect("OUT_DIR can be written");
}

fn compile(root: &Path, units: Vec<PathBuf>, specific_units: Vec<PathBuf>) {
    let mut build = cc::Build::new();
    let is_sanitized = env::var_os("CARGO_FEATURE_SANITIZE").is_some();
    // Under the sanitizers optimising takes longer than it saves.
    build.cpp(true).std("c++17").opt_level(if is_sanitized { 1 } else { 2 }).debug(true).cpp_link_stdlib(None);
    build.include(root.join("include")).include(root.join("../kernels")).flag("-include").flag("device.h");
    // `#pragma unroll` is nvcc's. Params with a tensor map in them are nobody else's to pass. Kernels reinterpret words as
    // vectors, which nvcc allows. Nothing unwinds. No product is contracted, so that results are the same on every host. A
    // register that is read before it is written is a large number rather than what happened to be there.
    build.warnings(true).extra_warnings(true).flag("-Wno-unknown-pragmas").flag_if_supported("-Wno-psabi");
    build.flag("-fno-strict-aliasing").flag("-fno-exceptions").flag("-fvisibility=hidden").flag("-ffp-contract=off");
    build.flag_if_supported("-ftrivial-auto-var-init=pattern");
    if is_sanitized {
        // Not null: gcc takes the flags of the addition that makes a thread-local address for the check of that address,
        // and linkers turn the addition into one that sets none. AddressSanitizer finds null by itself.
        build.flag("-fsanitize=address,undefined").flag("-fno-sanitize=null").flag("-fno-sanitize-recover=undefined");
        build.flag("-fno-omit-frame-pointer");
        link_sanitizers(&build);
    }
    if !specific_units.is_empty() {
        let mut specific = build.clone();
        if !is_sanitized {
            note_stores(&mut specific);
        }
        specific.files(specific_units).compile("tilesight_simulator_hopper");
    }
    build.files(units).file(root.join("src/machine/native.cc")).compile("tilesight_simulator_kernels");
}

/// Every store of these kernels calls a function of `native.cc` first: AddressSanitizer's outlined check, as in an
/// operating system's kernel, which brings its own functions.
fn note_stores(build: &mut cc::Build) {
    build.flag("-fsanitize=kernel-address");
    let options = ["instrumentation-with-call-threshold=0", "instrument-reads=0", "stack=0", "globals=0"];
    let is_clang = build.get_compiler().is_like_clang();
    for option in options {
        if is_clang {
            build.flag("-mllvm").flag(format!("-asan-{option}"));
        } else {
            build.flag("--param").flag(format!("asan-{option}"));
        }
    }
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
