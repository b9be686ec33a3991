//! What tells one encoder's weights from another's, whichever files and names they came in.

use rayon::prelude::*;

use super::tensor::Tensor;
use super::weights::{LayerWeights, Linear, Norm, TokenPositions, VisionWeights};
use crate::digest::{Digest, Fields};

impl VisionWeights {
    /// SHA-256 over every tensor, in the model's order, as it is stored. Reads all of them.
    pub fn digest(&self) -> Digest {
        let Self {
            patch_embedding,
            class_embedding,
            token_positions,
            tables,
            layernorm_pre,
            layernorm_post,
            transformer,
            global_transformer,
            projection,
            read: _,
        } = self;
        let mut parts = Parts(Vec::new());
        parts.tensor(patch_embedding);
        parts.vector(class_embedding);
        match token_positions {
            TokenPositions::Plain(positions) | TokenPositions::Gated { local: positions } => parts.vector(positions),
        }
        if let Some(tables) = tables {
            [&tables.pre_tile, &tables.global, &tables.post_tile].into_iter().for_each(|table| parts.tensor(table));
            parts.vector(&tables.gates);
        }
        parts.norm(layernorm_pre);
        parts.norm(layernorm_post);
        transformer.iter().chain(global_transformer).for_each(|layer| parts.layer(layer));
        parts.linear(projection);
        let digests: Vec<Digest> = parts.0.par_iter().map(Part::digest).collect();
        let mut fields = Fields::of("weights");
        fields.add([transformer.len() as u64, global_transformer.len() as u64].map(u64::to_le_bytes).as_flattened());
        digests.iter().for_each(|digest| fields.add(digest.as_bytes()));
        fields.finish()
    }
}

/// All parts of the weights, in order.
struct Parts<'a>(Vec<Part<'a>>);

enum Part<'a> {
    Stored(&'a Tensor),
    Widened(&'a [f32]),
}

impl Part<'_> {
    fn digest(&self) -> Digest {
        let mut fields = Fields::of("tensor");
        match self {
            Part::Stored(tensor) => {
                fields.add(tensor.dtype().safetensors_name());
                fields.add(format!("{:?}", tensor.shape()));
                fields.add(Digest::of_bytes(tensor.bytes()).as_bytes());
            }
            Part::Widened(values) => {
                fields.add("F32");
                fields.add(format!("{:?}", [values.len()]));
                fields.add(Digest::of_bytes(bytemuck::cast_slice(values)).as_bytes());
            }
        }
        fields.finish()
    }
}

impl<'a> Parts<'a> {
    fn tensor(&mut self, tensor: &'a Tensor) {
        self.0.push(Part::Stored(tensor));
    }

    fn vector(&mut self, values: &'a [f32]) {
        self.0.push(Part::Widened(values));
    }

    fn norm(&mut self, norm: &'a Norm) {
        self.vector(&norm.weight);
        self.vector(&norm.bias);
    }

    fn linear(&mut self, linear: &'a Linear) {
        self.tensor(&linear.weight);
        self.vector(&linear.bias);
    }

    fn layer(&mut self, layer: &'a LayerWeights) {
        let LayerWeights { input_layernorm, qkv_proj, o_proj, post_attention_layernorm, fc1, fc2, gates } = layer;
        self.norm(input_layernorm);
        qkv_proj.iter().chain([o_proj]).for_each(|matrix| self.tensor(matrix));
        self.norm(post_attention_layernorm);
        self.linear(fc1);
        self.linear(fc2);
        if let Some(gates) = gates {
            self.vector(gates);
        }
    }
}
