"""What the golden scripts share: random weights, random pixels, the encoder written out plainly, and the two libraries
it is checked against (torchtune, and the transformers release whose Mllama computes what Meta's code does).

Nothing here runs by itself; README.md lists the scripts and the pinned versions.
"""
import copy
import json
import math
import pathlib
import platform
import re

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
STORE = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


# ------------------------------------------------------------------------------------------------------ inputs

def realistic_weights(shapes, seed, store=torch.float32):
    """Random weights that keep activations near unit scale, with every gate and bias non-zero."""
    g = torch.Generator().manual_seed(seed)
    normal = lambda shape, std: torch.randn(shape, generator=g, dtype=torch.float64) * std
    uniform = lambda lo, hi: lo + (hi - lo) * torch.rand((), generator=g, dtype=torch.float64)
    sign = lambda: 1.0 if torch.rand((), generator=g) < 0.7 else -1.0
    out = {}
    for key in sorted(shapes):
        shape = tuple(shapes[key])
        leaf = key.rsplit(".", 1)[-1]
        if shape == (1,):  # tanh gates
            value = torch.full(shape, float(uniform(0.3, 1.2)) * sign(), dtype=torch.float64)
        elif any(n in key for n in ("sa_norm", "mlp_norm", "ln_pre", "ln_post")):
            if leaf == "weight":
                value = 1 + normal(shape, 0.2)
                loud = torch.rand(shape, generator=g) < 0.03  # a few outlier channels, as trained ViTs have
                value = torch.where(loud, value * 3, value)
            else:
                value = normal(shape, 0.15)
        elif leaf == "bias":
            value = normal(shape, 0.1)
        elif key.endswith("conv.weight"):
            value = normal(shape, 0.8 / math.sqrt(shape[1] * shape[2] * shape[3]))
        elif "q_proj" in key or "k_proj" in key:  # logits with a spread of about 1.7
            value = normal(shape, 1.3 / math.sqrt(shape[1]))
        elif len(shape) == 2 and not key.endswith("positional_embedding"):
            value = normal(shape, 1.0 / math.sqrt(shape[1]))
        else:  # class token, position tables
            value = normal(shape, 0.4)
        out[key] = value.to(store)
    return out


def make_images(case, encoder, seed):
    """Picture-like normalized pixels: smooth gradients, a few waves and some noise. Tiles past h*w are exactly zero,
    unless the case says "noisy_padding". Returns float32 images (b, i, t, C, s, s) and the aspect ratios or None."""
    rng = np.random.default_rng(seed)
    b, i, t = case["bsz"], case["n_imgs"], case["n_tiles"]
    c, s = encoder.get("in_channels", 3), encoder["tile_size"]
    yy, xx = np.mgrid[0:s, 0:s] / s
    img = np.zeros((b, i, t, c, s, s), dtype=np.float64)
    for idx in np.ndindex(b, i, t, c):
        fx, fy, ph = rng.uniform(0.5, 6, 2).tolist() + [rng.uniform(0, 6.28)]
        u = 0.5 + 0.25 * np.sin(2 * np.pi * (fx * xx + fy * yy) + ph)
        u += rng.uniform(-0.3, 0.3) * (xx - 0.5) + rng.uniform(-0.3, 0.3) * (yy - 0.5)
        u = np.clip(u + 0.08 * rng.standard_normal((s, s)), 0, 1)
        k = idx[-1] % 3
        img[idx] = (u - CLIP_MEAN[k]) / CLIP_STD[k]
    images = torch.from_numpy(img).float()
    if case["aspect_ratio"] is None:
        return images, None
    aspect_ratio = torch.tensor(case["aspect_ratio"], dtype=torch.int64).reshape(b, i, 2)
    if not case.get("noisy_padding"):
        for k, (h, w) in enumerate(aspect_ratio.reshape(-1, 2).tolist()):
            images.view(b * i, t, c, s, s)[k, h * w:] = 0
    return images, aspect_ratio


# ------------------------------------------------------------------------------------------------ files, figures

def load_set(name):
    """The encoder's parameters and its weights, as stored."""
    return json.loads((HERE / name / "config.json").read_text())["encoder"], load_file(HERE / name / "model.safetensors")


def save(path, tensors, **metadata):
    save_file({k: v.contiguous() for k, v in tensors.items()}, str(path), metadata=metadata or None)
    pathlib.Path(path).chmod(0o644)  # safetensors writes for its owner only


def errors(found, expected):
    """[max |a-b| / max |b|, relative Frobenius distance]."""
    a, b = found.double(), expected.double()
    assert a.shape == b.shape and torch.isfinite(a).all() and torch.isfinite(b).all()
    return [float((a - b).abs().max() / b.abs().max()), float((a - b).norm() / b.norm())]


def versions(*modules):
    return {"python": platform.python_version(), "torch": torch.__version__, **{m.__name__: m.__version__ for m in modules}}


# ----------------------------------------------------------------------------------- names and tables, two formats

GLOBAL = "clip.token_pos_embedding.global_token_positional_embedding"
PRE_TILE, POST_TILE = "clip.pre_tile_pos_embed", "clip.post_tile_pos_embed"
TABLES = (GLOBAL, PRE_TILE + ".embedding", POST_TILE + ".embedding")

# torchtune -> Hugging Face; {} is a layer number
NAMES = {
    "clip.conv.weight": "vision_model.patch_embedding.weight",
    "clip.cls_token_embedding.weight": "vision_model.class_embedding",
    "clip.token_pos_embedding.local_token_positional_embedding": "vision_model.gated_positional_embedding.embedding",
    GLOBAL: "vision_model.gated_positional_embedding.tile_embedding.weight",
    "clip.token_pos_embedding.gate": "vision_model.gated_positional_embedding.gate",
    PRE_TILE + ".embedding": "vision_model.pre_tile_positional_embedding.embedding.weight",
    PRE_TILE + ".gate": "vision_model.pre_tile_positional_embedding.gate",
    POST_TILE + ".embedding": "vision_model.post_tile_positional_embedding.embedding.weight",
    POST_TILE + ".gate": "vision_model.post_tile_positional_embedding.gate",
    "projection.output.weight": "multi_modal_projector.weight",
    "projection.output.bias": "multi_modal_projector.bias",
}
for _leaf in ("weight", "bias"):
    NAMES[f"clip.ln_pre.{_leaf}"] = f"vision_model.layernorm_pre.{_leaf}"
    NAMES[f"clip.ln_post.{_leaf}"] = f"vision_model.layernorm_post.{_leaf}"
for _tune, _hf in (("clip", "transformer"), ("projection", "global_transformer")):
    for _a, _b in (("attn.q_proj.weight", "self_attn.q_proj.weight"), ("attn.k_proj.weight", "self_attn.k_proj.weight"),
                   ("attn.v_proj.weight", "self_attn.v_proj.weight"),
                   ("attn.output_proj.weight", "self_attn.o_proj.weight"),
                   ("mlp.w1.weight", "mlp.fc1.weight"), ("mlp.w1.bias", "mlp.fc1.bias"),
                   ("mlp.w2.weight", "mlp.fc2.weight"), ("mlp.w2.bias", "mlp.fc2.bias"),
                   ("sa_norm.weight", "input_layernorm.weight"), ("sa_norm.bias", "input_layernorm.bias"),
                   ("mlp_norm.weight", "post_attention_layernorm.weight"),
                   ("mlp_norm.bias", "post_attention_layernorm.bias"),
                   ("sa_scale.scale", "gate_attn"), ("mlp_scale.scale", "gate_ffn")):
        if _tune == "projection" or "scale" not in _a:
            NAMES[f"{_tune}.layers.{{}}.{_a}"] = f"vision_model.{_hf}.layers.{{}}.{_b}"


def aspect_ratios(max_num_tiles):
    """The (h, w) grids in Hugging Face's order; grid number k has id k + 1, id 0 is a missing image."""
    n = max_num_tiles
    return [(h, w) for h in range(1, n + 1) for w in range(1, n + 1) if h * w <= n]


def aspect_ratio_ids(aspect_ratio, max_num_tiles):
    """The id of each (h, w); (0, 0) is the missing image, 0."""
    grids = [(0, 0)] + aspect_ratios(max_num_tiles)
    return torch.tensor([grids.index(tuple(r)) for r in aspect_ratio.reshape(-1, 2).tolist()]
                        ).reshape(aspect_ratio.shape[:-1])


def aspect_ratio_mask(aspect_ratio, tiles):
    """1 for real tiles. A missing image, (0, 0), has one real tile, as Hugging Face's processor writes it."""
    return (torch.arange(tiles) < aspect_ratio.prod(-1).clamp(min=1)[..., None]).long()


def rename(weights, names):
    out = {}
    for key, value in weights.items():
        number = re.search(r"layers\.(\d+)\.", key)
        pattern = re.sub(r"layers\.\d+\.", "layers.{}.", key)
        if pattern in names:
            out[names[pattern].format(number.group(1) if number else "")] = value
    return out


def tune_to_hf(weights, max_num_tiles):
    """Names, and T x T tables (T, T, rows, D) as tables by id (ids, T * rows * D) with zeros past h*w."""
    out = rename(weights, NAMES)
    assert len(out) == len(weights)
    for key in TABLES:
        grid = weights[key]
        t, _, rows, d = grid.shape
        grids = aspect_ratios(max_num_tiles)
        ids = torch.zeros(len(grids) + 1, t, rows, d, dtype=grid.dtype)
        for k, (h, w) in enumerate(grids):
            ids[k + 1, :h * w] = grid[:h, :w].reshape(h * w, rows, d)
        out[NAMES[key]] = ids.flatten(1)
    return out


def hf_to_tune(weights, encoder):
    """Names the other way; tables stay by id, as (ids, T, rows, D). Text model tensors are left out."""
    out = rename(weights, {v: k for k, v in NAMES.items()})
    t, d = encoder["max_num_tiles"], encoder["clip_embed_dim"]
    for key in TABLES:
        out[key] = out[key].reshape(len(aspect_ratios(t)) + 1, t, -1, d)
    return out


# ------------------------------------------------------------------------------------ the encoder, written plainly

def table_rows(table, aspect_ratio, tiles, by_id):
    """What each tile of each image gets of a position table: (B, tiles, rows, D)."""
    if by_id:
        return table[aspect_ratio_ids(aspect_ratio, table.shape[1])]
    out = table.new_zeros(len(aspect_ratio), tiles, *table.shape[2:])
    for k, (h, w) in enumerate(aspect_ratio.tolist()):
        out[k, :h * w] = table[:h, :w].reshape(h * w, *table.shape[2:])
    return out


def layer(x, weights, p, heads, bias):
    b, s, d = x.shape
    gate = lambda name: weights[p + name].tanh() if p + name in weights else 1
    h = F.layer_norm(x, (d,), weights[p + "sa_norm.weight"], weights[p + "sa_norm.bias"], 1e-5)
    split = lambda n: (h @ weights[p + f"attn.{n}.weight"].T).view(b, s, heads, d // heads).transpose(1, 2)
    a = split("q_proj") @ split("k_proj").transpose(2, 3) / (d // heads) ** 0.5
    if bias is not None:
        a = a + bias
    a = (a.softmax(-1) @ split("v_proj")).transpose(1, 2).reshape(b, s, d)
    x = x + gate("sa_scale.scale") * (a @ weights[p + "attn.output_proj.weight"].T)
    h = F.layer_norm(x, (d,), weights[p + "mlp_norm.weight"], weights[p + "mlp_norm.bias"], 1e-5)
    h = F.gelu(h @ weights[p + "mlp.w1.weight"].T + weights[p + "mlp.w1.bias"])
    return x + gate("mlp_scale.scale") * (h @ weights[p + "mlp.w2.weight"].T + weights[p + "mlp.w2.bias"])


def encode(weights, encoder, images, aspect_ratio=None, mode="torchtune", by_id=False):
    """Forward pass on torchtune-named weights, in the dtype of weights and images.

    mode "torchtune" has no mask and no extra rows. Mode "meta" appends zero rows to each tile up to a multiple of 8
    and masks a score where both its query and its key are padding (an extra row, or a row of a tile past h*w; the
    missing image (0, 0) counts one tile as real). by_id takes tables by aspect ratio id, whose entries past h*w are
    added too, as Hugging Face does.

    Returns the embeddings (b, i*t*R, E) and the stages: hidden.<j>, post_tile, head (B, t, R + A, D) with the A extra
    rows of mode "meta", and features (B, t, R, (1+n)*D), which the last linear layer reads.
    """
    b, i, t, c, _, _ = images.shape
    n, d, p, heads = b * i, encoder["clip_embed_dim"], encoder["patch_size"], encoder["num_heads"]
    g = encoder["tile_size"] // p
    rows, tiled, stages = g * g + 1, PRE_TILE + ".gate" in weights, {}
    if aspect_ratio is None:
        aspect_ratio = torch.ones(b, i, 2, dtype=torch.int64)
    aspect_ratio = aspect_ratio.reshape(n, 2)
    table = lambda name, gate: table_rows(weights[name], aspect_ratio, t, by_id) * weights[gate].tanh()
    norm = lambda x, name: F.layer_norm(x, (d,), weights[name + ".weight"], weights[name + ".bias"], 1e-5)

    # patches as rows of (C, p, p) values; pixels past g*p are dropped
    x = images[..., :g * p, :g * p].reshape(n, t, c, g, p, g, p).permute(0, 1, 3, 5, 2, 4, 6)
    x = x.reshape(n, t, g * g, c * p * p) @ weights["clip.conv.weight"].reshape(d, -1).T
    if tiled:
        x = x + table(PRE_TILE + ".embedding", PRE_TILE + ".gate")
    x = torch.cat([weights["clip.cls_token_embedding.weight"].expand(n, t, 1, d), x], 2)
    if tiled:
        gate = "clip.token_pos_embedding.gate"
        x = x + weights["clip.token_pos_embedding.local_token_positional_embedding"] * (1 - weights[gate].tanh())
        x = x + table(GLOBAL, gate)
    else:
        x = x + weights["clip.token_pos_embedding.positional_embedding"]
    x = norm(x, "clip.ln_pre")
    full, bias = rows, None
    if mode == "meta":
        full = rows + -rows % 8
        x = F.pad(x, (0, 0, 0, full - rows))
        real = torch.zeros(n, t, full, dtype=torch.bool)
        real[:, :, :rows] = aspect_ratio_mask(aspect_ratio, t).bool()[:, :, None]
        pad = ~real.reshape(n, 1, t * full)
        bias = torch.zeros(n, 1, t * full, t * full, dtype=x.dtype)
        bias.masked_fill_(pad[..., :, None] & pad[..., None, :], torch.finfo(x.dtype).min)
    x = x.reshape(n, t * full, d)
    hidden = []
    for l in range(encoder["clip_num_layers"] + 1):
        if l in (encoder["clip_hidden_states"] or []):
            hidden.append(x)
        if l < encoder["clip_num_layers"]:
            x = layer(x, weights, f"clip.layers.{l}.", heads, bias)
    x = norm(x, "clip.ln_post").reshape(n, t, full, d)
    if tiled:
        x = x + table(POST_TILE + ".embedding", POST_TILE + ".gate")
    stages.update({f"hidden.{j}": h.reshape(n, t, full, d) for j, h in enumerate(hidden)}, post_tile=x)
    x = x.reshape(n, t * full, d)
    for k in range(encoder["num_layers_projection"]):
        x = layer(x, weights, f"projection.layers.{k}.", heads, bias)
    stages["head"] = x.reshape(n, t, full, d)
    features = torch.cat([x] + ([torch.stack(hidden, -1).flatten(2)] if hidden else []), -1)
    stages["features"] = features.reshape(n, t, full, -1)[:, :, :rows]
    out = stages["features"] @ weights["projection.output.weight"].T + weights["projection.output.bias"]
    return out.reshape(b, i * t * rows, -1), stages


# ----------------------------------------------------------------------------------------------- the two libraries

def torchtune_encoder(encoder, weights=None, dtype=torch.float32):
    """torchtune's encoder, in eval mode.

    torchtune 0.6.1 builds an encoder whose hidden states include clip_num_layers but fails in its forward pass. Later
    torchtune keeps the output of the last layer, before ln_post, for it; a hook does the same here.

    In float64 the layer norms, which torchtune pins to float32, are replaced by float64 ones.
    """
    from torchtune.models.llama3_2_vision import llama3_2_vision_encoder
    from torchtune.modules import Fp32LayerNorm
    model = llama3_2_vision_encoder(**encoder).eval()
    if weights is not None:
        model.load_state_dict({k: v.float() for k, v in weights.items()})
    model = model.to(dtype)
    if dtype == torch.float64:
        for m in model.modules():
            if isinstance(m, Fp32LayerNorm):
                m.forward = (lambda m: lambda x: F.layer_norm(x, m.normalized_shape, m.weight, m.bias, m.eps))(m)
    if encoder["clip_num_layers"] in (encoder["clip_hidden_states"] or []):
        last = {}
        model.clip.layers[-1].register_forward_hook(lambda mod, args, out: last.update(x=out))
        model.clip.register_forward_hook(
            lambda mod, args, out: (out[0], [*out[1], last["x"].clone().reshape(out[0].shape)]))
    return model


def hf_encoder(encoder, weights, dtype=torch.float32, attention="sdpa"):
    """A function of images (b, i, T, C, s, s) and aspect ratios with the output of `encode`: transformers' Mllama
    vision model and projector on Hugging Face named weights. Releases up to 4.54.1 collect the hidden states as Meta
    does; "sdpa" stays in the model's dtype where "eager" takes the softmax in float32."""
    from transformers.models.mllama.configuration_mllama import MllamaVisionConfig
    from transformers.models.mllama.modeling_mllama import MllamaVisionModel
    hidden = sorted(encoder["clip_hidden_states"] or [])
    tiles, d = encoder["max_num_tiles"], encoder["clip_embed_dim"]
    config = MllamaVisionConfig(
        hidden_size=d, num_hidden_layers=encoder["clip_num_layers"], attention_heads=encoder["num_heads"],
        num_global_layers=encoder["num_layers_projection"], intermediate_size=4 * d, num_channels=encoder["in_channels"],
        image_size=encoder["tile_size"], patch_size=encoder["patch_size"], max_num_tiles=tiles,
        vision_output_dim=d * (1 + len(hidden)), intermediate_layers_indices=hidden or [0],  # it cannot do without
        supported_aspect_ratios=[list(r) for r in aspect_ratios(tiles)])
    config._attn_implementation = attention
    model = MllamaVisionModel(config).eval()
    weights = dict(weights)
    projector = [weights.pop(f"multi_modal_projector.{n}").to(dtype) for n in ("weight", "bias")]
    model.load_state_dict({k.removeprefix("vision_model."): v.float() for k, v in weights.items()})
    model = model.to(dtype)

    def run(images, aspect_ratio):
        b, i, t, *_ = images.shape
        assert t == tiles, "transformers takes max_num_tiles tiles, no fewer"
        with torch.inference_mode():
            features = model(images.to(dtype), aspect_ratio_ids=aspect_ratio_ids(aspect_ratio, tiles),
                             aspect_ratio_mask=aspect_ratio_mask(aspect_ratio, t)).last_hidden_state
            features = features[..., :d * (1 + len(hidden))]
            return F.linear(features, *projector).reshape(b, -1, projector[0].shape[0])
    return run
