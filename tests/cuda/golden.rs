//! The encoder on a GPU, or on the simulated one, against float64: never further off than torch is in the same element
//! type, on every golden case, in both semantics, with every form of the kernels.

use std::collections::BTreeMap;

use safetensors::tensor::TensorView;
use tilesight::encoder::EncoderBuilder;
use tilesight::plan::Semantics;
use tilesight::{Device, Dtype, Encoder, EncoderConfig, Kernels};

use crate::difference::difference;
use crate::golden_cases::Case;
use crate::golden_data::golden;
use crate::golden_tensors::read;
use crate::kernel_sets;

/// A golden case, and how far torch's own result is from the reference in each element type, in the Frobenius norm.
struct Recorded {
    name: String,
    set: String,
    semantics: Semantics,
    case: Case,
    reference: Vec<f64>,
    torch: BTreeMap<&'static str, f64>,
}

/// Every case that torch's errors are recorded for.
fn recorded() -> Vec<Recorded> {
    let errors = std::fs::read_to_string(golden("torch_errors.json")).unwrap();
    let errors: serde_json::Value = serde_json::from_str(&errors).unwrap();
    let cases = errors["cases"].as_object().unwrap().iter();
    cases
        .map(|(name, errors)| {
            let (set, file) = name.rsplit_once('/').unwrap();
            let path = golden(set).join(format!("{file}.safetensors"));
            let meta = file.starts_with("meta") || set.starts_with("hf_");
            let (case, reference) = match set {
                "hf_tiny" => {
                    let pixels = read(&golden("hf_tiny/expected_v5.safetensors"))["pixel_values"].clone();
                    let shape = pixels.shape.clone().try_into().unwrap();
                    let reference = read(&path).remove("cross_attention_states").unwrap();
                    (Case::new(pixels.f32(), shape, Some(vec![[1, 3], [1, 1]])), reference)
                }
                _ => {
                    let case = Case::read(&path);
                    let reference = case.tensors["out_f64"].clone();
                    (case, reference)
                }
            };
            let torch = |dtype: &str| errors[dtype]["frobenius"].as_f64().unwrap();
            Recorded {
                name: name.clone(),
                set: set.to_string(),
                semantics: if meta { Semantics::Meta } else { Semantics::Torchtune },
                case,
                reference: reference.values,
                torch: BTreeMap::from([("bf16", torch("bfloat16")), ("fp16", torch("float16"))]),
            }
        })
        .collect()
}

fn encoder(set: &str, semantics: Semantics, dtype: Dtype, kernels: Kernels) -> Encoder {
    let build = |builder: EncoderBuilder| {
        builder.semantics(semantics).device(Device::Cuda(vec![0])).dtype(dtype).kernels(kernels).build().unwrap()
    };
    let Some(weights) = set.strip_prefix("resize/") else { return build(Encoder::builder().model(golden(set))) };
    // The weights of another size of tiles: loading resizes the tables, in the type they are stored in. The reference and
    // torch's errors are of tables that no bf16 file has rounded.
    let config = EncoderConfig::from_file(&golden(set).join("config.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let weights = read(&golden(weights).join("model.safetensors"));
    let wide: BTreeMap<&String, Vec<u8>> =
        weights.iter().map(|(name, tensor)| (name, bytemuck::cast_slice(&tensor.f32()).to_vec())).collect();
    let views = weights.iter().map(|(name, tensor)| {
        (name, TensorView::new(safetensors::Dtype::F32, tensor.shape.clone(), &wide[name]).unwrap())
    });
    safetensors::serialize_to_file(views, None, &path).unwrap();
    build(Encoder::builder().model(path).config(config))
}

/// Squared distance from the reference, of ours and of torch's result, and the reference's own square: what relative
/// errors are made of, so that they can be taken together.
#[derive(Default)]
struct Squares {
    ours: f64,
    torch: f64,
    reference: f64,
}

/// One case of 56 values is one draw of its roundings: torch's own error on the three cases of `one_head` in fp16 runs
/// from 6.0e-4 to 7.7e-4. So the cases of an encoder in one semantics count together.
fn check(dtype: Dtype) {
    let all = recorded();
    assert!(all.len() >= 27, "only {} cases were found", all.len());
    let mut failures = Vec::new();
    for &kernels in kernel_sets() {
        let mut groups: BTreeMap<String, Squares> = BTreeMap::new();
        for recorded in &all {
            let mut encoder = encoder(&recorded.set, recorded.semantics, dtype, kernels);
            let found = encoder.encode_pixels(&recorded.case.pixels()).unwrap();
            let error = difference(&found.embeddings, &recorded.reference).frobenius;
            let torch = recorded.torch[dtype.to_string().as_str()];
            println!("{:<24} {kernels:?} {dtype}: {error:.3e}, torch {torch:.3e}", recorded.name);
            let square: f64 = recorded.reference.iter().map(|x| x * x).sum();
            let group = groups.entry(format!("{} in {}", recorded.set, recorded.semantics)).or_default();
            group.ours += error.powi(2) * square;
            group.torch += torch.powi(2) * square;
            group.reference += square;
        }
        for (name, Squares { ours, torch, reference }) in groups {
            let [ours, torch] = [ours, torch].map(|square| (square / reference).sqrt());
            println!("{name:<24} {kernels:?} {dtype}: {ours:.3e}, torch {torch:.3e} together");
            if ours.is_nan() || ours > torch {
                failures.push(format!("{name}, {kernels:?}, {dtype}: {ours:.3e}, torch {torch:.3e}"));
            }
        }
    }
    assert!(failures.is_empty(), "further from float64 than torch:\n{}", failures.join("\n"));
}

#[test]
fn bf16_is_no_further_off_than_torch() {
    check(Dtype::Bf16);
}

#[test]
fn fp16_is_no_further_off_than_torch() {
    check(Dtype::F16);
}
