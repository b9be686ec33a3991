#!/usr/bin/env python3
"""Write Hugging Face style checkpoints, pictures for them, and what transformers computes.

hf_tiny: a full Mllama checkpoint in three shards, its tables filled from one T x T grid as in the published ones.
    python make_hf.py write --out DIR                 (torchtune, transformers 5.23.0)
    python make_hf.py outputs --tag v5 --out DIR      (transformers 5.23.0)
    python make_hf.py outputs --tag v4 --out DIR      (transformers 4.53.3)
    python make_hf.py pixels --out DIR                (torchtune)
    python make_hf.py meta --out DIR
hf_finetuned: an encoder whose tables hold what fine-tuning may leave there.
    python make_hf.py finetuned --out DIR             (torchtune, transformers 4.53.3)

Versions: torch 2.8.0, torchtune 0.6.1, safetensors 0.8.0, numpy 2.4, Pillow 12 (requirements.txt). Steps marked 5.23.0
need an environment with transformers==5.23.0 in place of 4.53.3, huggingface-hub, tokenizers and datasets left open.

write      config.json, preprocessor_config.json, the weights, image<K>.png.
outputs    expected_<tag>.safetensors, images I, tiles T, R tokens a tile:
             pixel_values (I, 1, T, C, s, s), aspect_ratio_ids (I, 1), aspect_ratio_mask (I, 1, T)   of that release
             vision_last_hidden_state (I, 1, T, R, (1+n)*D)   on pixel_values of expected_v5, in float32
             cross_attention_states (I*T, R, E)               the projector on top
           4.53.3 collects the hidden states as Meta does; 5.23.0 collects each one layer late.
pixels     expected_torchtune.safetensors, CLIPImageTransform on each picture:
             image<K>.f32, image<K>.bf16 (h*w, 3, tile, tile), image<K>.aspect_ratio (2)
meta       expected_meta_f64.safetensors: the plain forward pass of reference.py, mode "meta", in float64 on
           pixel_values of expected_v5, required to agree with expected_v4 to 2e-6:
             aspect_ratio I64 (I, 1, 2), vision_last_hidden_state F64 and cross_attention_states F64 as above
finetuned  config.json, model.safetensors (bf16, names as the state dict has them in memory from 4.52 on:
           model.vision_model., model.multi_modal_projector.) and case.safetensors, images I = 9:
             images F32 (1, I, T, C, s, s), aspect_ratio I64 (1, I, 2), aspect_ratio_ids I64 (1, I),
             aspect_ratio_mask I64 (1, I, T)
             out_f64 F64 (1, I*T*R, E)        transformers 4.53.3 in float64
             out_f32 F32                      the same in float32
             mid.hidden.<j>, mid.post_tile, mid.head   F32 (I, T, R + A, D), of the plain forward pass in float64
           Every entry of the three tables is random, row 0 (the missing image) included, except that for some ids the
           entries of the padding tiles, those past h*w, are made equal; FINETUNED says which. transformers adds them
           to all T tiles. Image k has aspect ratio id k; image 0 is missing: aspect ratio (0, 0), mask [1, 0, 0, 0].
"""
import argparse
import json
import pathlib

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from reference import (GLOBAL, HERE, NAMES, POST_TILE, PRE_TILE, aspect_ratio_ids, aspect_ratio_mask, aspect_ratios,
                       encode, errors, hf_encoder, hf_to_tune, make_images, realistic_weights, save, torchtune_encoder,
                       tune_to_hf, versions)

TINY = {
    "seed": 21,
    "encoder": dict(patch_size=14, num_heads=2, clip_embed_dim=64, clip_num_layers=3, clip_hidden_states=[0, 2],
                    num_layers_projection=1, decoder_embed_dim=32, tile_size=28, max_num_tiles=4, in_channels=3),
    "images": [(75, 30), (20, 22)],  # width, height
}
FINETUNED = {
    "seed": 51,
    "encoder": dict(patch_size=14, num_heads=2, clip_embed_dim=48, clip_num_layers=2, clip_hidden_states=[1],
                    num_layers_projection=1, decoder_embed_dim=24, tile_size=28, max_num_tiles=4, in_channels=3),
    # per id with more than one padding tile, the tables whose padding entries differ from tile to tile; in the other
    # tables they are equal to one another, and not zero. Ids in order: missing, 1x1, 1x2, 1x3, 1x4, 2x1, 2x2, 3x1, 4x1
    "differ": {0: ["pre"], 1: [], 2: ["token"], 5: ["post"]},
}
IMAGE_NORM = dict(image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711])


def picture(w, h, seed):
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[0:h, 0:w]
    img = np.zeros((h, w, 3))
    for c in range(3):
        fx, fy, ph = rng.uniform(0.05, 0.5, 3)
        img[..., c] = 127 + 90 * np.sin(fx * xx + fy * yy + 6 * ph) + 30 * (xx / w - yy / h)
    x0, y0 = rng.integers(0, max(w // 2, 1)), rng.integers(0, max(h // 2, 1))
    img[y0:y0 + h // 3, x0:x0 + w // 3] = rng.integers(0, 256, 3)
    img += rng.normal(0, 8, img.shape)
    return Image.fromarray(np.clip(img, 0, 255).astype(np.uint8))


def random_tune_weights(encoder, seed, store):
    return realistic_weights({k: v.shape for k, v in torchtune_encoder(encoder).state_dict().items()}, seed, store)


def write(out):
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaImageProcessor
    from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig
    e, seed = TINY["encoder"], TINY["seed"]
    vision = MllamaVisionConfig(
        hidden_size=e["clip_embed_dim"], num_hidden_layers=e["clip_num_layers"],
        num_global_layers=e["num_layers_projection"], attention_heads=e["num_heads"],
        intermediate_size=4 * e["clip_embed_dim"], image_size=e["tile_size"], patch_size=e["patch_size"],
        max_num_tiles=e["max_num_tiles"], num_channels=e["in_channels"],
        vision_output_dim=e["clip_embed_dim"] * (1 + len(e["clip_hidden_states"])),
        intermediate_layers_indices=e["clip_hidden_states"])
    text = MllamaTextConfig(vocab_size=16, hidden_size=e["decoder_embed_dim"], num_hidden_layers=2,
                            num_attention_heads=2, num_key_value_heads=1, intermediate_size=32,
                            max_position_embeddings=64, cross_attention_layers=[1],
                            bos_token_id=1, eos_token_id=2, pad_token_id=0)
    torch.manual_seed(seed)
    model = MllamaForConditionalGeneration(MllamaConfig(vision_config=vision, text_config=text, image_token_index=16))
    weights = tune_to_hf(random_tune_weights(e, seed, torch.float32), e["max_num_tiles"])
    left, extra = model.model.load_state_dict(weights, strict=False)
    assert not extra and all(k.startswith("language_model") for k in left), (left, extra)
    model.save_pretrained(out, max_shard_size="500KB")
    MllamaImageProcessor(size={"height": e["tile_size"], "width": e["tile_size"]}, max_image_tiles=e["max_num_tiles"],
                         **IMAGE_NORM).save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    for k, (w, h) in enumerate(TINY["images"]):
        picture(w, h, 100 * seed + k).save(out / f"image{k}.png")


def outputs(out, tag):
    import transformers
    from transformers import MllamaForConditionalGeneration, MllamaImageProcessor
    images = [[Image.open(p)] for p in sorted(out.glob("image*.png"))]
    batch = MllamaImageProcessor.from_pretrained(out)(images=images, return_tensors="pt")
    config = MllamaForConditionalGeneration.config_class.from_pretrained(out)
    if tag == "v4" and getattr(config.text_config, "rope_scaling", None) is None:
        config.text_config.rope_scaling = {"rope_type": "default"}  # 5.x keeps it in rope_parameters
    model = MllamaForConditionalGeneration.from_pretrained(out, config=config, torch_dtype=torch.float32).eval()
    inner = getattr(model, "model", model)
    pixels = batch["pixel_values"] if tag == "v5" else load_file(out / "expected_v5.safetensors")["pixel_values"]
    with torch.inference_mode():
        features = inner.vision_model(pixels, aspect_ratio_ids=batch["aspect_ratio_ids"],
                                      aspect_ratio_mask=batch["aspect_ratio_mask"])[0]
        projected = inner.multi_modal_projector(features)
    save(out / f"expected_{tag}.safetensors",
         {"pixel_values": batch["pixel_values"].float(), "aspect_ratio_ids": batch["aspect_ratio_ids"].long(),
          "aspect_ratio_mask": batch["aspect_ratio_mask"].long(), "vision_last_hidden_state": features,
          "cross_attention_states": projected.reshape(-1, *projected.shape[-2:])},
         transformers=transformers.__version__)


def pixels(out):
    from torchtune.models.clip import CLIPImageTransform
    c = json.loads((out / "preprocessor_config.json").read_text())
    tensors = {}
    for k, path in enumerate(sorted(out.glob("image*.png"))):
        for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
            got = CLIPImageTransform(image_mean=c["image_mean"], image_std=c["image_std"], dtype=dtype,
                                     tile_size=c["size"]["height"], max_num_tiles=c["max_image_tiles"],
                                     resample="bilinear")({"image": Image.open(path)})
            tensors[f"image{k}.{name}"] = torch.as_tensor(got["image"])
            tensors[f"image{k}.aspect_ratio"] = got["aspect_ratio"].long()
    save(out / "expected_torchtune.safetensors", tensors)


def meta(out):
    encoder = TINY["encoder"]
    weights = {}
    for path in sorted(out.glob("model*.safetensors")):
        weights.update(load_file(path))
    weights = hf_to_tune({k: v.double() for k, v in weights.items()}, encoder)
    v4, v5 = (load_file(out / f"expected_{tag}.safetensors") for tag in ("v4", "v5"))
    grids = [(0, 0)] + aspect_ratios(encoder["max_num_tiles"])
    aspect_ratio = torch.tensor([[grids[k] for k in row] for row in v5["aspect_ratio_ids"].tolist()])
    assert torch.equal(aspect_ratio_mask(aspect_ratio, encoder["max_num_tiles"]), v5["aspect_ratio_mask"])
    embeddings, stages = encode(weights, encoder, v5["pixel_values"].double(), aspect_ratio, "meta", by_id=True)
    tensors = {"vision_last_hidden_state": stages["features"].reshape(v4["vision_last_hidden_state"].shape),
               "cross_attention_states": embeddings.reshape(v4["cross_attention_states"].shape)}
    for name, value in tensors.items():
        figures = errors(v4[name], value)
        print(name, "transformers 4.53.3 in float32 against this:", figures)
        assert figures[0] < 2e-6
    save(out / "expected_meta_f64.safetensors", {**tensors, "aspect_ratio": aspect_ratio})


def finetuned_tables(encoder, seed, differ, store):
    """The three tables by aspect ratio id, (ids, T, rows, D)."""
    g = torch.Generator().manual_seed(seed)
    tiles, d = encoder["max_num_tiles"], encoder["clip_embed_dim"]
    patches = encoder["tile_size"] // encoder["patch_size"]
    grids = [(1, 1)] + aspect_ratios(tiles)  # the missing image has one real tile
    tables = {}
    for short, key, rows in (("pre", PRE_TILE + ".embedding", 1), ("token", GLOBAL, patches * patches + 1),
                             ("post", POST_TILE + ".embedding", 1)):
        table = torch.randn(len(grids), tiles, rows, d, generator=g, dtype=torch.float64) * 0.4
        for k, (h, w) in enumerate(grids):
            if short not in differ.get(k, []):
                table[k, h * w:] = table[k, h * w:h * w + 1]
        tables[key] = table.to(store)
    return tables


def finetuned(out):
    import transformers
    encoder, seed, differ = FINETUNED["encoder"], FINETUNED["seed"], FINETUNED["differ"]
    out.mkdir(parents=True, exist_ok=True)
    weights = tune_to_hf(random_tune_weights(encoder, seed, torch.bfloat16), encoder["max_num_tiles"])
    for key, table in finetuned_tables(encoder, seed + 1, differ, torch.bfloat16).items():
        weights[NAMES[key]] = table.flatten(1)
    save(out / "model.safetensors", {"model." + k: v for k, v in weights.items()}, format="pt")
    grids = [(0, 0)] + aspect_ratios(encoder["max_num_tiles"])
    aspect_ratio = torch.tensor([grids])
    case = dict(bsz=1, n_imgs=len(grids), n_tiles=encoder["max_num_tiles"], aspect_ratio=[grids])
    images, _ = make_images(case, encoder, 1000 * seed)
    weights64 = hf_to_tune({k: v.double() for k, v in weights.items()}, encoder)
    plain, stages = encode(weights64, encoder, images.double(), aspect_ratio, "meta", by_id=True)
    out64, out32 = (hf_encoder(encoder, weights, dtype)(images, aspect_ratio)
                    for dtype in (torch.float64, torch.float32))
    figures = {"plain_f64_vs_transformers_f64": errors(plain, out64), "transformers_f32_vs_f64": errors(out32, out64)}
    assert figures["plain_f64_vs_transformers_f64"][0] < 1e-12, figures
    save(out / "case.safetensors",
         {"images": images, "aspect_ratio": aspect_ratio, "out_f64": out64, "out_f32": out32,
          "aspect_ratio_ids": aspect_ratio_ids(aspect_ratio, encoder["max_num_tiles"]),
          "aspect_ratio_mask": aspect_ratio_mask(aspect_ratio, encoder["max_num_tiles"]),
          **{"mid." + k: v.float() for k, v in stages.items() if k != "features"}})
    d = encoder["clip_embed_dim"]
    config = {
        "model_type": "mllama", "architectures": ["MllamaForConditionalGeneration"], "torch_dtype": "bfloat16",
        "text_config": {"model_type": "mllama_text_model", "hidden_size": encoder["decoder_embed_dim"]},
        "vision_config": {
            "model_type": "mllama_vision_model", "attention_heads": encoder["num_heads"], "hidden_act": "gelu",
            "hidden_size": d, "image_size": encoder["tile_size"], "intermediate_size": 4 * d,
            "intermediate_layers_indices": encoder["clip_hidden_states"], "max_num_tiles": encoder["max_num_tiles"],
            "norm_eps": 1e-05, "num_channels": encoder["in_channels"],
            "num_global_layers": encoder["num_layers_projection"], "num_hidden_layers": encoder["clip_num_layers"],
            "patch_size": encoder["patch_size"], "supported_aspect_ratios": [list(r) for r in grids[1:]],
            "vision_output_dim": d * (1 + len(encoder["clip_hidden_states"]))},
        "made": {"seed": seed, "padding_entries_differ": differ, "versions": versions(transformers), **figures},
    }
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    print(figures)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("step", choices=["write", "outputs", "pixels", "meta", "finetuned"])
    p.add_argument("--tag", choices=["v4", "v5"], help="which release `outputs` runs under")
    p.add_argument("--out", type=pathlib.Path, help="the set's directory (hf_tiny or hf_finetuned beside this script)")
    a = p.parse_args()
    torch.set_num_threads(1)
    out = a.out or HERE / ("hf_finetuned" if a.step == "finetuned" else "hf_tiny")
    if a.step == "outputs":
        if a.tag is None:
            p.error("outputs needs --tag")
        outputs(out, a.tag)
    else:
        {"write": write, "pixels": pixels, "meta": meta, "finetuned": finetuned}[a.step](out)


if __name__ == "__main__":
    main()
