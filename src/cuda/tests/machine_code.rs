//! The machine code of Hopper's kernels: products are `wgmma`, loads are bulk copies, nothing goes through local memory, and
//! the compiler has left in their places the waits that the overlap depends on.

use std::process::Command;

use crate::cuda::fatbin::{FATBINS, Fatbin, architectures};

/// An entry function and its instructions, each with its modifiers and without predicate and operands:
/// `HGMMA.64x256x16.F32.BF16`.
#[derive(Debug, PartialEq)]
struct Code {
    name: String,
    instructions: Vec<String>,
}

impl Code {
    fn count(&self, opcode: &str) -> usize {
        self.instructions.iter().filter(|instruction| is(instruction, opcode)).count()
    }

    /// Those that start products and wait for them, in order, by what tells them apart; runs of the same once, with their
    /// number.
    fn products(&self) -> Vec<(usize, &str)> {
        let mut products: Vec<(usize, &str)> = Vec::new();
        for instruction in &self.instructions {
            let kind = if is(instruction, "HGMMA") {
                instruction.split('.').nth(1).unwrap_or_default()
            } else if is(instruction, "WARPGROUP.DEPBAR") {
                "wait"
            } else {
                continue;
            };
            match products.last_mut() {
                Some((times, last)) if *last == kind => *times += 1,
                _ => products.push((1, kind)),
            }
        }
        products
    }
}

/// Whether an instruction is this one, whatever its further modifiers.
fn is(instruction: &str, opcode: &str) -> bool {
    instruction.strip_prefix(opcode).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// What cuobjdump prints of a file: a line `Function : NAME`, then for each instruction one of its address, its text and
/// half of its code, and one of the other half.
fn parse(printed: &str) -> Vec<Code> {
    let mut all: Vec<Code> = Vec::new();
    for line in printed.lines() {
        if let Some((_, name)) = line.split_once("Function : ") {
            all.push(Code { name: name.trim().to_string(), instructions: Vec::new() });
        } else if let (Some(code), Some((address, text))) = (all.last_mut(), line.split_once("*/"))
            && address.trim_start().starts_with("/*")
            && text.contains(';')
        {
            let text = text.trim_start();
            let without_predicate =
                if text.starts_with('@') { text.split_once(' ').map_or("", |(_, rest)| rest) } else { text };
            let instruction = without_predicate.split([' ', ';']).next().unwrap_or_default();
            code.instructions.push(instruction.to_string());
        }
    }
    all
}

/// The machine code of a file.
fn code(fatbin: &Fatbin) -> Vec<Code> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kernels.fatbin");
    std::fs::write(&file, &fatbin.image.0).unwrap();
    let cuobjdump = env!("TILESIGHT_CUOBJDUMP");
    let output = Command::new(cuobjdump).arg("-sass").arg(&file).output();
    let output = output.unwrap_or_else(|e| panic!("{cuobjdump} does not run ({e}): run scripts/toolchain"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{cuobjdump} reads nothing of {}: {stderr}", fatbin.name);
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// Hopper's kernels of one operation, or of all; none where this build is not for it.
fn hopper(operation: &str) -> Vec<Code> {
    let is_built = architectures().iter().any(|of| of.specific && of.runs_on((9, 0)));
    let named = format!("sm90/{operation}");
    let all: Vec<Code> = FATBINS.iter().filter(|fatbin| fatbin.name.starts_with(&named)).flat_map(code).collect();
    assert_eq!(all.is_empty(), !is_built, "machine code of {named}");
    all
}

#[test]
fn products_are_wgmma_loads_are_bulk_copies_and_nothing_is_in_local_memory() {
    for code in hopper("") {
        assert!(code.count("HGMMA") > 0 && code.count("UTMALDG") > 0, "{code:?}");
        // The embeddings' address is the descriptor's to know, so no map describes them.
        assert!(code.count("UTMASTG") > 0 || code.name.starts_with("projection"), "{code:?}");
        for other in ["LDL", "STL", "HMMA", "LDGSTS"] {
            assert_eq!(code.count(other), 0, "{other} in {}", code.name);
        }
    }
}

#[test]
fn the_products_of_a_slab_follow_one_another_without_a_wait() {
    for operation in ["layer_norm_linear", "linear_residual", "patch_embedding", "projection"] {
        for code in hopper(operation) {
            let shape = if code.name.ends_with("_128x256") { "64x256x16" } else { "64x128x16" };
            // The first slab's four and the loop's; the loop's wait for the slab before, and the last wait.
            assert_eq!(code.products(), [(8, shape), (2, "wait")], "{}", code.name);
        }
    }
}

#[test]
fn the_exponentials_of_a_block_of_keys_run_beside_the_product_of_the_values() {
    for code in hopper("flash_attention") {
        let products = code.products();
        let columns = |place: usize| products.get(place)?.1.split('x').nth(1)?.parse().ok();
        let (Some(keys), Some(head)) = (columns(0), columns(3)) else { panic!("{}: {products:?}", code.name) };
        let [scores, values] =
            [(head, keys), (keys, head)].map(|(depth, n): (usize, usize)| (depth / 16, format!("64x{n}x16")));
        let [scores, values] = [&scores, &values].map(|(steps, shape)| (*steps, &**shape));
        // The first block's scores; the loop, which waits for the next scores, and then for the sums of the values; the last
        // block's values.
        let expected = [scores, (1, "wait"), scores, values, (2, "wait"), values, (1, "wait")];
        assert_eq!(products, expected, "{}", code.name);

        let waits = code.instructions.iter().enumerate().filter(|(_, instruction)| is(instruction, "WARPGROUP.DEPBAR"));
        let waits: Vec<usize> = waits.map(|(place, _)| place).collect();
        let beside = code.instructions[waits[1]..waits[2]].iter().filter(|i| is(i, "MUFU.EX2")).count();
        // A thread has half a block of scores, and two maxima that may have grown. ptxas leaves up to three of these
        // exponentials behind the wait, in heads that are short.
        assert!(beside + 3 >= keys / 2 + 2, "{}: {beside} of {}", code.name, keys / 2 + 2);
    }
}

#[test]
fn instructions_are_read_as_they_are_printed() {
    let printed = "
Fatbin elf code:
================
arch = sm_90a

	code for sm_90a
		Function : projection_bf16
	.headerflags	@\"EF_CUDA_ACCELERATORS EF_CUDA_SM90\"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                             /* 0x00000a00ff017b82 */
                                                                                      /* 0x000fe20000000800 */
        /*0010*/              @!P0 HGMMA.64x256x16.F32.BF16 R24, gdesc[UR16], RZ ;    /* 0x0000000000007919 */
                                                                                      /* 0x000e620000002100 */
        /*0020*/                   EXIT ;                                             /* 0x0000000000007919 */
                                                                                      /* 0x000e620000002100 */
		Function : helper
        /*0000*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;                    /* 0x0000000000007919 */
                                                                                      /* 0x000e620000002100 */
";
    let code = |name: &str, instructions: &[&str]| Code {
        name: name.to_string(),
        instructions: instructions.iter().map(ToString::to_string).collect(),
    };
    let expected = [
        code("projection_bf16", &["LDC", "HGMMA.64x256x16.F32.BF16", "EXIT"]),
        code("helper", &["WARPGROUP.DEPBAR.LE"]),
    ];
    assert_eq!(parse(printed), expected);
    assert_eq!([expected[0].count("HGMMA"), expected[0].count("LD")], [1, 0]);
    assert_eq!(expected[0].products(), [(1, "64x256x16")]);
    assert_eq!(parse(""), []);
}
