#!/usr/bin/env python3
"""Time transformers' Llama 3.2 Vision encoder: MllamaVisionModel and the projector, eager or under torch.compile.

    target/peers/bin/python benches/peers/transformers_peer.py --model DIR --pixels case.safetensors --json out.json

DIR holds config.json and model*.safetensors under Hugging Face's names, as `tilesight random --layout huggingface
--preset 11b --dtype bf16 --seed 7 --output DIR` writes them, or as published: only the vision tower's tensors are read.
The case has `images` (b, i, T, C, s, s), always of max_num_tiles tiles, zeros past the real ones, and `aspect_ratio`
(b, i, 2); `make_case.py --tiles 4` writes one. That an image of one tile costs as much as one of four is what users of
transformers pay, so it is timed.

The model is the library's own, forward pass and all. Releases differ in one thing, which a tiny model shows at the
start: whether `intermediate_layers_indices` i takes the input of layer i, which is Meta's model (up to 4.54), or its
output (4.56 to 5.23, at the least). There the indices given to the configuration are one lower than the checkpoint's,
which costs nothing and gives Meta's outputs. Where that cannot be said (index 0; 4.55, which takes the last layer for
all) the report has `incomparable` with the reason, and the time stands.

--attention sdpa is the library's default: torch's fused attention under a dense mask, which rules out the flash back end.
--attention eager materialises the scores.

The report is torchtune_peer.py's, whose --help describes it. FLOPs count what is computed: all tiles, rows up to a
multiple of 8.
"""
import json

import torch

import peer
from encoder import flops

ROWS_TO_MULTIPLE_OF = 8


def libraries():
    import transformers
    import transformers.models.mllama.modeling_mllama
    return (transformers,)


class Encoder(torch.nn.Module):
    """The vision tower and the projector on top, as MllamaModel joins them."""

    def __init__(self, vision_config, decoder_embed_dim):
        super().__init__()
        from transformers.models.mllama.modeling_mllama import MllamaVisionModel
        self.vision_model = MllamaVisionModel(vision_config)
        self.multi_modal_projector = torch.nn.Linear(vision_config.vision_output_dim, decoder_embed_dim, bias=True)

    def forward(self, images, aspect_ratio_ids, aspect_ratio_mask):
        tower = self.vision_model(images, aspect_ratio_ids=aspect_ratio_ids, aspect_ratio_mask=aspect_ratio_mask)
        embeddings = self.multi_modal_projector(tower.last_hidden_state)
        return embeddings.reshape(embeddings.shape[0], -1, embeddings.shape[-1])


def vision_config(stored, attention, **changed):
    from transformers.models.mllama.configuration_mllama import MllamaVisionConfig
    config = MllamaVisionConfig(**{**stored, **changed})
    config._attn_implementation = attention
    return config


def layers_late():
    """How many layers after the one it should this release collects a hidden state, found out with three tiny layers;
    None where it collects something else."""
    from transformers.models.mllama.modeling_mllama import MllamaVisionModel
    tiny = dict(hidden_size=8, intermediate_size=8, attention_heads=1, num_hidden_layers=3, num_global_layers=0,
                image_size=4, patch_size=2, vision_output_dim=16, intermediate_layers_indices=[1])
    tower, outputs = MllamaVisionModel(vision_config(tiny, "sdpa")).eval(), []
    for layer in tower.transformer.layers:
        layer.register_forward_hook(lambda _, __, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    with torch.inference_mode():
        collected = tower(torch.randn(1, 1, 4, 3, 4, 4), aspect_ratio_ids=torch.tensor([[6]]),
                          aspect_ratio_mask=torch.ones(1, 1, 4, dtype=torch.long)).last_hidden_state[..., 8:]
    outputs = [out.reshape(1, 1, 4, 8, 8)[:, :, :, :5] for out in outputs]
    # The input of layer 1 is the output of layer 0.
    return {(True, False, False): 0, (False, True, False): 1}.get(tuple(torch.equal(out, collected) for out in outputs))


def collecting(indices):
    """The indices to give to this release for those of the checkpoint; or these, and why outputs will differ."""
    import transformers
    late = layers_late()
    if late is None:
        return indices, f"transformers {transformers.__version__} does not collect the hidden states it is asked for"
    if min(indices) < late:
        return indices, f"transformers {transformers.__version__} cannot collect the input of layer 0"
    return [i - late for i in indices], None


def load(a, config, case, dtype):
    stored = json.loads((a.config or a.model / "config.json").read_text()).get("vision_config")
    if stored is None:
        raise SystemExit("transformers needs Hugging Face's config.json, with a vision_config")
    if not config["clip_hidden_states"]:
        raise SystemExit("transformers needs an encoder that keeps hidden states")
    indices, incomparable = collecting(config["clip_hidden_states"])
    vision = vision_config(stored, a.attention, intermediate_layers_indices=indices)
    model = peer.without_weights(lambda: Encoder(vision, config["decoder_embed_dim"]))
    parts = ("vision_model.", "multi_modal_projector.")
    tensors = peer.weights(a.model, dtype, a.device, lambda name: name.removeprefix("model.").startswith(parts))
    model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items()}, assign=True)

    images, grids = case["images"], case["aspect_ratio"]
    if images.shape[2] != config["max_num_tiles"]:
        raise SystemExit(f"{a.pixels}: images of {images.shape[2]} tiles, not of {config['max_num_tiles']}")
    ids = [[1 + vision.supported_aspect_ratios.index(grid) for grid in sample] for sample in grids.tolist()]
    mask = torch.arange(images.shape[2]) < grids.prod(-1, keepdim=True)
    facts = {"attention": a.attention, "intermediate_layers_indices": indices}
    if incomparable:
        facts["incomparable"] = incomparable
    return peer.Peer(f"transformers, {a.attention} attention,", model.requires_grad_(False).eval(),
                     (images, torch.tensor(ids), mask.long()), flops(config, images.shape, ROWS_TO_MULTIPLE_OF), facts)


if __name__ == "__main__":
    p = peer.parser(__doc__)
    p.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa", help="transformers' attn_implementation (sdpa)")
    peer.main(p, libraries, load)
