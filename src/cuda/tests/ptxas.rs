//! What ptxas reports of each kernel: the ones that the time goes into keep all their values in registers.

use crate::cuda::fatbin::{FATBINS, architectures};

/// Entry functions of the matrix products and of attention, and of their forms for one architecture, start so.
const HOT: [&str; 5] = ["flash_attention", "layer_norm_linear", "linear_residual", "projection", "patch_embedding"];

/// An entry function, compiled for one architecture.
#[derive(Debug, Default, PartialEq)]
struct Entry {
    name: String,
    architecture: String,
    /// Bytes of local memory that it and what it calls have, for want of registers or for arrays with indices that are not
    /// known.
    stack: usize,
    /// Bytes that it and what it calls store to local memory, and load from it, for want of registers.
    spills: [usize; 2],
}

fn entries(report: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let (name, rest) = rest.split_once("' for '").expect(line);
            let architecture = rest.trim_end().trim_end_matches('\'').to_string();
            entries.push(Entry { name: name.to_string(), architecture, ..Entry::default() });
        } else if line.contains("bytes spill stores") {
            // Stack frame, stores and loads. Those of a called function follow those of the entry that calls it.
            let numbers: Vec<usize> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let [stack, stores, loads] = numbers[..] else { panic!("not as ptxas writes it: {line}") };
            let entry: &mut Entry = entries.last_mut().expect(line);
            entry.spills = [entry.spills[0] + stores, entry.spills[1] + loads];
            entry.stack += stack;
        }
    }
    entries
}

#[test]
fn hot_kernels_keep_their_values_in_registers() {
    for fatbin in FATBINS {
        let entries = entries(fatbin.ptxas);
        assert!(!entries.is_empty(), "ptxas reports nothing of {}: {:?}", fatbin.name, fatbin.ptxas);
        for architecture in architectures() {
            let compiled = entries.iter().any(|entry| entry.architecture == architecture.to_string());
            assert!(compiled || fatbin.name.contains('/'), "{} is not compiled for {architecture}", fatbin.name);
        }
        // What ptxas says where products of a warpgroup have to wait for one another, and where it does not believe that
        // registers change hands.
        for loss in ["instructions are serialized", "setmaxnreg"] {
            assert!(!fatbin.ptxas.contains(loss), "{}: {}", fatbin.name, fatbin.ptxas);
        }
        for entry in entries.iter().filter(|entry| HOT.iter().any(|hot| entry.name.starts_with(hot))) {
            assert_eq!((entry.stack, entry.spills), (0, [0, 0]), "{}: {entry:?}", fatbin.name);
        }
    }
}

#[test]
fn spills_are_found() {
    let report = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'projection_bf16' for 'sm_80'
ptxas info    : Function properties for projection_bf16
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 408 bytes cmem[0]
ptxas info    : Compile time = 1.314 ms
ptxas info    : Compiling entry function 'flash_attention_bf16' for 'sm_90a'
ptxas info    : Function properties for flash_attention_bf16
    328 bytes stack frame, 324 bytes spill stores, 640 bytes spill loads
ptxas info    : Function properties for helper
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 328 bytes cumulative stack size
";
    let entry = |name: &str, architecture: &str, stack, spills| Entry {
        name: name.to_string(),
        architecture: architecture.to_string(),
        stack,
        spills,
    };
    let expected =
        [entry("projection_bf16", "sm_80", 0, [0, 0]), entry("flash_attention_bf16", "sm_90a", 336, [328, 644])];
    assert_eq!(entries(report), expected);
    assert_eq!(entries("ptxas info    : 0 bytes gmem\n"), []);
}
