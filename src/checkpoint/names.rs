//! What each tensor is called in the three published formats.
//!
//! Inside the crate a tensor goes by its torchtune name, without prefixes. Sources of the other two:
//! torchtune's own conversion tables (`torchtune/models/llama3_2_vision/_convert_weights.py`), Meta's
//! `llama_models/llama3/multimodal/encoder_utils.py` and Hugging Face's
//! `transformers/models/mllama/modeling_mllama.py`.

/// Whose names a checkpoint uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFormat {
    /// `clip.…` and `projection.…`, perhaps behind `encoder.`.
    Torchtune,
    /// `vision_model.vision_encoder.…` and `vision_model.vision_projection.…`.
    Meta,
    /// `vision_model.…` and `multi_modal_projector.…`, perhaps behind `model.`, or the vision model's names alone.
    HuggingFace,
}

impl std::fmt::Display for NameFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Torchtune => "torchtune",
            Self::Meta => "Meta",
            Self::HuggingFace => "Hugging Face",
        })
    }
}

/// torchtune's name, Meta's, and Hugging Face's; `{}` is a layer's number.
type Row = (&'static str, &'static str, &'static str);

const MODEL: [Row; 16] = [
    ("clip.conv.weight", "conv1._linear.weight", "patch_embedding.weight"),
    ("clip.cls_token_embedding.weight", "class_embedding", "class_embedding"),
    (LOCAL_POSITIONS, "positional_embedding", "gated_positional_embedding.embedding"),
    (GLOBAL_POSITIONS, "gated_positional_embedding", "gated_positional_embedding.tile_embedding.weight"),
    ("clip.token_pos_embedding.gate", "gated_positional_embedding_gate", "gated_positional_embedding.gate"),
    (PRE_TILE, "pre_tile_pos_embed.embedding", "pre_tile_positional_embedding.embedding.weight"),
    ("clip.pre_tile_pos_embed.gate", "pre_tile_pos_embed.gate", "pre_tile_positional_embedding.gate"),
    (POST_TILE, "post_tile_pos_embed.embedding", "post_tile_positional_embedding.embedding.weight"),
    ("clip.post_tile_pos_embed.gate", "post_tile_pos_embed.gate", "post_tile_positional_embedding.gate"),
    ("clip.ln_pre.weight", "ln_pre.weight", "layernorm_pre.weight"),
    ("clip.ln_pre.bias", "ln_pre.bias", "layernorm_pre.bias"),
    ("clip.ln_post.weight", "ln_post.weight", "layernorm_post.weight"),
    ("clip.ln_post.bias", "ln_post.bias", "layernorm_post.bias"),
    ("projection.output.weight", "weight", "weight"),
    ("projection.output.bias", "bias", "bias"),
    // Only torchtune builds a model without tile embeddings; no other format has this tensor.
    (PLAIN_POSITIONS, "", ""),
];

/// The tensors of a layer, in both stacks; the two gates stand last and only in the gated stack.
pub(super) const LAYER: [Row; 14] = [
    ("sa_norm.weight", "ln_1.weight", "input_layernorm.weight"),
    ("sa_norm.bias", "ln_1.bias", "input_layernorm.bias"),
    ("attn.q_proj.weight", "attn.wq.weight", "self_attn.q_proj.weight"),
    ("attn.k_proj.weight", "attn.wk.weight", "self_attn.k_proj.weight"),
    ("attn.v_proj.weight", "attn.wv.weight", "self_attn.v_proj.weight"),
    ("attn.output_proj.weight", "attn.wo.weight", "self_attn.o_proj.weight"),
    ("mlp_norm.weight", "ln_2.weight", "post_attention_layernorm.weight"),
    ("mlp_norm.bias", "ln_2.bias", "post_attention_layernorm.bias"),
    ("mlp.w1.weight", "mlp.c_fc.weight", "mlp.fc1.weight"),
    ("mlp.w1.bias", "mlp.c_fc.bias", "mlp.fc1.bias"),
    ("mlp.w2.weight", "mlp.c_proj.weight", "mlp.fc2.weight"),
    ("mlp.w2.bias", "mlp.c_proj.bias", "mlp.fc2.bias"),
    ("sa_scale.scale", "gate_attn", "gate_attn"),
    ("mlp_scale.scale", "gate_ffn", "gate_ffn"),
];

/// How many of a layer's tensors are gates.
pub(super) const NUM_GATES: usize = 2;

pub(super) const LOCAL_POSITIONS: &str = "clip.token_pos_embedding.local_token_positional_embedding";
pub(super) const GLOBAL_POSITIONS: &str = "clip.token_pos_embedding.global_token_positional_embedding";
pub(super) const PLAIN_POSITIONS: &str = "clip.token_pos_embedding.positional_embedding";
pub(super) const PRE_TILE: &str = "clip.pre_tile_pos_embed.embedding";
pub(super) const POST_TILE: &str = "clip.post_tile_pos_embed.embedding";

/// Where a stack's layers stand: torchtune's prefix, Meta's, Hugging Face's.
const STACKS: [Row; 2] = [
    ("clip.layers", "transformer.resblocks", "transformer.layers"),
    ("projection.layers", "global_transformer.resblocks", "global_transformer.layers"),
];

/// What stands before a name, by format: whether it is the output projection's, and the prefix. The first of a format
/// is the one that is written; longer prefixes stand before their own endings.
const PREFIXES: [(NameFormat, bool, &str); 9] = [
    (NameFormat::Torchtune, false, ""),
    (NameFormat::Torchtune, false, "encoder."),
    (NameFormat::Meta, true, "vision_model.vision_projection."),
    (NameFormat::Meta, false, "vision_model.vision_encoder."),
    (NameFormat::HuggingFace, true, "multi_modal_projector."),
    (NameFormat::HuggingFace, true, "model.multi_modal_projector."),
    (NameFormat::HuggingFace, false, "vision_model."),
    (NameFormat::HuggingFace, false, "model.vision_model."),
    (NameFormat::HuggingFace, false, ""),
];

/// A stored name's format and torchtune's name for the tensor, or none where it belongs to something else (the text
/// model, say).
pub(super) fn recognise(stored: &str) -> Option<(NameFormat, String)> {
    PREFIXES.iter().find_map(|&(format, projection, prefix)| {
        let name = stored.strip_prefix(prefix)?;
        let tune = to_torchtune(name, format, projection)?;
        Some((format, tune))
    })
}

/// A tensor's name as `format` writes it; the inverse of [`recognise`].
pub(super) fn stored_name(tune: &str, format: NameFormat) -> String {
    let prefix = PREFIXES
        .iter()
        .find(|(f, p, _)| *f == format && (*p == is_projection(tune) || format == NameFormat::Torchtune))
        .map_or("", |(_, _, prefix)| *prefix);
    format!("{prefix}{}", without_prefix(tune, format))
}

/// A tensor's name in a checkpoint of `format` where torchtune's `known` is called `stored`: behind the same prefix.
pub(super) fn name_beside(tune: &str, format: NameFormat, known: &str, stored: &str) -> Option<String> {
    let prefix = stored.strip_suffix(&without_prefix(known, format))?;
    let same_prefix = format == NameFormat::Torchtune || is_projection(tune) == is_projection(known);
    same_prefix.then(|| format!("{prefix}{}", without_prefix(tune, format)))
}

fn without_prefix(tune: &str, format: NameFormat) -> String {
    let model = MODEL.iter().find(|row| row.0 == tune).map(|row| in_format(row, format).to_string());
    let layer = || {
        STACKS.iter().find_map(|stack| {
            let (number, leaf) = split_layer(tune, stack.0)?;
            let row = LAYER.iter().find(|row| row.0 == leaf)?;
            Some(format!("{}.{number}.{}", in_format(stack, format), in_format(row, format)))
        })
    };
    model.or_else(layer).unwrap_or_else(|| tune.to_string())
}

fn is_projection(tune: &str) -> bool {
    tune.starts_with("projection.output.")
}

/// The dimension along which Meta's model-parallel ranks each hold a part of a tensor; none where every rank holds all
/// of it.
pub(super) fn rank_dimension(tune: &str) -> Option<usize> {
    let by_output = ["clip.conv.weight", "projection.output.weight", "projection.output.bias"];
    let leaf_by_output =
        ["attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight", "mlp.w1.weight", "mlp.w1.bias"];
    let leaf_by_input = ["attn.output_proj.weight", "mlp.w2.weight"];
    let is_layer = layer_of(tune).is_some();
    if by_output.contains(&tune) || is_layer && leaf_by_output.iter().any(|leaf| tune.ends_with(leaf)) {
        Some(0)
    } else if is_layer && leaf_by_input.iter().any(|leaf| tune.ends_with(leaf)) {
        Some(1)
    } else {
        None
    }
}

/// The number of the layer a tensor belongs to, with whether it is a gated one.
pub(super) fn layer_of(tune: &str) -> Option<(bool, usize)> {
    STACKS.iter().enumerate().find_map(|(k, stack)| Some((k == 1, split_layer(tune, stack.0)?.0)))
}

/// torchtune's name of a layer's tensor.
pub(super) fn layer_tensor(gated: bool, layer: usize, leaf: &str) -> String {
    format!("{}.{layer}.{leaf}", STACKS[usize::from(gated)].0)
}

fn in_format(row: &Row, format: NameFormat) -> &'static str {
    match format {
        NameFormat::Torchtune => row.0,
        NameFormat::Meta => row.1,
        NameFormat::HuggingFace => row.2,
    }
}

fn to_torchtune(name: &str, format: NameFormat, projection: bool) -> Option<String> {
    let fits = |row: &&Row| in_format(row, format) == name && !name.is_empty();
    if format == NameFormat::Torchtune || projection {
        let row = MODEL.iter().filter(fits).find(|row| is_projection(row.0) || !projection);
        if row.is_some() || projection {
            return row.map(|row| row.0.to_string());
        }
    } else if let Some(row) = MODEL.iter().filter(fits).find(|row| !is_projection(row.0)) {
        return Some(row.0.to_string());
    }
    STACKS.iter().find_map(|stack| {
        let (number, leaf) = split_layer(name, in_format(stack, format))?;
        let row = LAYER.iter().find(|row| in_format(row, format) == leaf)?;
        Some(format!("{}.{number}.{}", stack.0, row.0))
    })
}

/// Splits `{stack}.{number}.{leaf}`.
fn split_layer<'a>(name: &'a str, stack: &str) -> Option<(usize, &'a str)> {
    let (number, leaf) = name.strip_prefix(stack)?.strip_prefix('.')?.split_once('.')?;
    // `01` or `+1` is not how any format writes a number.
    let parsed: usize = number.parse().ok()?;
    (parsed.to_string() == number).then_some((parsed, leaf))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_name() -> Vec<String> {
        let mut names: Vec<String> = MODEL.iter().map(|row| row.0.to_string()).collect();
        for (leaf, ..) in LAYER {
            names.push(format!("clip.layers.31.{leaf}"));
            names.push(format!("projection.layers.7.{leaf}"));
        }
        names
    }

    #[test]
    fn every_name_survives_every_format() {
        for format in [NameFormat::Torchtune, NameFormat::Meta, NameFormat::HuggingFace] {
            for name in every_name() {
                if name == PLAIN_POSITIONS && format != NameFormat::Torchtune {
                    continue;
                }
                let stored = stored_name(&name, format);
                assert_eq!(recognise(&stored), Some((format, name.clone())), "{stored}");
            }
        }
    }

    #[test]
    fn all_prefixes_are_taken() {
        let tune = |name: &str| recognise(name).map(|(format, tune)| (format, tune.to_string()));
        for (stored, format, name) in [
            ("encoder.clip.ln_pre.bias", NameFormat::Torchtune, "clip.ln_pre.bias"),
            ("encoder.projection.output.bias", NameFormat::Torchtune, "projection.output.bias"),
            ("model.vision_model.layernorm_pre.bias", NameFormat::HuggingFace, "clip.ln_pre.bias"),
            ("layernorm_pre.bias", NameFormat::HuggingFace, "clip.ln_pre.bias"),
            ("model.multi_modal_projector.bias", NameFormat::HuggingFace, "projection.output.bias"),
            ("vision_model.vision_projection.weight", NameFormat::Meta, "projection.output.weight"),
            (
                "vision_model.vision_encoder.global_transformer.resblocks.3.gate_ffn",
                NameFormat::Meta,
                "projection.layers.3.mlp_scale.scale",
            ),
        ] {
            assert_eq!(tune(stored), Some((format, name.to_string())), "{stored}");
        }
    }

    #[test]
    fn strangers_are_left_alone() {
        for stored in [
            "weight",
            "bias",
            "",
            "language_model.model.layers.0.mlp.up_proj.weight",
            "decoder.layers.0.attn.q_proj.weight",
            "clip.layers.01.sa_norm.bias",
            "clip.layers.+1.sa_norm.bias",
            "clip.layers.x.sa_norm.bias",
            "clip.layers.99999999999999999999.sa_norm.bias",
            "vision_model.weight",
            "model.layers.0.input_layernorm.weight",
        ] {
            assert_eq!(recognise(stored), None, "{stored}");
        }
    }
}
