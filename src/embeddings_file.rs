//! The safetensors file of embeddings that `encode` writes and `/v1/encode` answers.

use safetensors::Dtype as Element;
use serde_json::{Map, Value, json};

use crate::config::EncoderConfig;
use crate::digest::DIGEST_LEN;
use crate::dtype::Dtype;
use crate::plan::Semantics;

/// A tensor of a safetensors file.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: Element,
    pub(crate) shape: Vec<usize>,
}

impl Entry {
    pub(crate) fn new(name: impl Into<String>, dtype: Element, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), dtype, shape: shape.into() }
    }
}

/// The tensors of embeddings `[rows, width]` of `num_images` images, in the order of the file.
pub(crate) fn entries(num_images: usize, embeddings: [usize; 2], dtype: Dtype, num_hashes: usize) -> [Entry; 4] {
    let dtype = match dtype {
        Dtype::F32 => Element::F32,
        Dtype::Bf16 => Element::BF16,
        Dtype::F16 => Element::F16,
    };
    [
        Entry::new("num_tiles", Element::I64, [num_images]),
        Entry::new("aspect_ratio", Element::I64, [num_images, 2]),
        Entry::new("embeddings", dtype, embeddings),
        Entry::new("content_hash", Element::U8, [num_hashes, DIGEST_LEN]),
    ]
}

/// What the file says of how its embeddings were made. `preprocess` is None for pixel tensors.
pub(crate) fn metadata(
    config: &EncoderConfig,
    semantics: Semantics,
    computed_in: Dtype,
    preprocess: Option<&str>,
) -> Vec<(&'static str, String)> {
    let mut metadata = vec![
        ("tilesight_version", env!("CARGO_PKG_VERSION").to_string()),
        ("semantics", semantics.name().to_string()),
        ("computed_in", computed_in.to_string()),
        ("tokens_per_tile", config.num_tokens().to_string()),
        ("tile_size", config.tile_size.to_string()),
        ("max_num_tiles", config.max_num_tiles.to_string()),
    ];
    metadata.extend(preprocess.map(|name| ("preprocess", name.to_string())));
    metadata
}

/// The header of a safetensors file, with its length before it. The tensors' values follow in the order of `entries`.
pub(crate) fn header(entries: &[Entry], metadata: &[(&str, String)]) -> Vec<u8> {
    let metadata: Map<String, Value> =
        metadata.iter().map(|(name, value)| (name.to_string(), value.as_str().into())).collect();
    let mut header = Map::from_iter([("__metadata__".to_string(), metadata.into())]);
    let mut start = 0;
    for Entry { name, dtype, shape } in entries {
        let end = start + shape.iter().product::<usize>() * dtype.bitsize() / 8;
        header.insert(name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
        start = end;
    }
    let mut json = Value::from(header).to_string().into_bytes();
    // Values start on 8 bytes, so that readers can map them.
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    bytes
}

/// I64 values, little endian.
pub(crate) fn integers(values: impl IntoIterator<Item = i64>) -> Vec<u8> {
    values.into_iter().flat_map(i64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn the_format_s_own_reader_finds_every_tensor() {
        let entries = entries(2, [3, 5], Dtype::Bf16, 1);
        let mut file = header(&entries, &[("semantics", "a \"name\"".to_string())]);
        assert_eq!(file.len() % 8, 0);
        file.extend(integers([1, 2]));
        file.extend(integers([1, 1, 2, 1]));
        file.extend([7; 2 * 15 + DIGEST_LEN]);
        let (_, read) = SafeTensors::read_metadata(&file).unwrap();
        assert_eq!(read.metadata().as_ref().unwrap()["semantics"], "a \"name\"");
        let tensors = SafeTensors::deserialize(&file).unwrap();
        for Entry { name, dtype, shape } in &entries {
            let tensor = tensors.tensor(name).unwrap();
            assert_eq!((tensor.dtype(), tensor.shape()), (*dtype, &shape[..]), "{name}");
        }
        assert_eq!(tensors.tensor("aspect_ratio").unwrap().data(), integers([1, 1, 2, 1]));
    }
}
