#!/usr/bin/env python3
"""Write golden sets of the encoder, with torchtune in float64 as the reference.

    python make_encoder.py one_tile bare         writes those sets next to this script
    python make_encoder.py --list                says what there is
    python make_encoder.py tiny --out DIR        writes DIR/tiny

Versions: torch 2.8.0, torchvision 0.23.0, torchtune 0.6.1, torchao 0.12.0, safetensors 0.8.0, numpy 2.4 (requirements.txt).

A set is a directory:
    config.json           the encoder's parameters, the seed, the storage type, versions, and figures for each case
    model.safetensors     random weights under torchtune's names, exact in the storage type
    case<K>.safetensors   the tensors of one case; B = bsz * n_imgs
        images        F32 (bsz, n_imgs, n_tiles, C, tile, tile)    tiles past h*w are zero, unless "noisy_padding"
        aspect_ratio  I64 (bsz, n_imgs, 2)                         absent where the case has none
        out_f64       F64 (bsz, n_imgs*n_tiles*tokens, decoder_embed_dim)    the reference
        out_f32       F32 the same from the unmodified float32 model
      and the stages the case names under "stages" (true: all), float32 roundings of the float64 run:
        mid.patch_embed   (B, n_tiles, patches, D)  after the patch convolution alone
        mid.embed_sum     (B, n_tiles, tokens, D)   what goes into ln_pre
        mid.ln_pre        (B, n_tiles, tokens, D)
        mid.hidden.<j>    (B, n_tiles, tokens, D)   j-th collected hidden state, in increasing layer order
        mid.ln_post       (B, n_tiles, tokens, D)   before the post-tile embedding
        mid.post_tile     (B, n_tiles, tokens, D)   what goes into the projection layers
        mid.head          (B, n_tiles, tokens, D)   after the last projection layer, before concatenation

The float64 run replaces torchtune's layer norms, which are pinned to float32. torchtune 0.6.1 cannot run `wide`, whose
hidden states include the number of layers; for it a hook keeps the output of the last layer before ln_post, which is
the rule of torchtune's main branch (see torchtune_encoder in reference.py). Every float64 result is compared with the
plain forward pass of reference.py before it is written.
"""
import argparse
import json
import pathlib

import torch

from reference import HERE, STORE, encode, errors, make_images, realistic_weights, save, torchtune_encoder, versions

MORE = ["patch_embed", "embed_sum", "ln_pre", "hidden", "post_tile", "head"]
SETS = {
    "tiny": {
        "seed": 11, "store": "bf16",
        "encoder": dict(patch_size=14, num_heads=2, clip_embed_dim=160, clip_num_layers=3, clip_hidden_states=[0, 2],
                        num_layers_projection=2, decoder_embed_dim=96, tile_size=28, max_num_tiles=4, in_channels=3),
        "cases": [
            dict(bsz=1, n_imgs=1, n_tiles=4, aspect_ratio=[[[2, 2]]], stages=True),
            dict(bsz=2, n_imgs=2, n_tiles=3, aspect_ratio=[[[1, 3], [2, 1]], [[3, 1], [1, 1]]], stages=True),
        ],
    },
    "small": {
        "seed": 12, "store": "bf16",
        "encoder": dict(patch_size=14, num_heads=2, clip_embed_dim=160, clip_num_layers=4, clip_hidden_states=[1, 3],
                        num_layers_projection=2, decoder_embed_dim=128, tile_size=112, max_num_tiles=4, in_channels=3),
        "cases": [
            dict(bsz=1, n_imgs=1, n_tiles=2, aspect_ratio=[[[1, 2]]],
                 stages=["patch_embed", "ln_pre", "hidden", "head"]),
            dict(bsz=1, n_imgs=2, n_tiles=2, aspect_ratio=[[[2, 1], [1, 1]]], stages=[]),
        ],
    },
    # max_num_tiles 1 is another model: no tile embeddings, no gates before the trunk, one position table
    "one_tile": {
        "seed": 31, "store": "bf16",
        "encoder": dict(patch_size=14, num_heads=2, clip_embed_dim=64, clip_num_layers=2, clip_hidden_states=[1],
                        num_layers_projection=1, decoder_embed_dim=48, tile_size=42, max_num_tiles=1, in_channels=3),
        "cases": [
            dict(bsz=2, n_imgs=1, n_tiles=1, aspect_ratio=None, stages=MORE),
            # torchtune asks for an aspect ratio as soon as there are two tiles, and then does not read it
            dict(bsz=1, n_imgs=2, n_tiles=2, aspect_ratio=[[[1, 2], [7, 3]]], noisy_padding=True, stages=[]),
        ],
    },
    # nothing after the trunk but the output layer; pixels past the last patch; grids of more than max_num_tiles tiles
    "bare": {
        "seed": 32, "store": "f16",
        "encoder": dict(patch_size=14, num_heads=4, clip_embed_dim=64, clip_num_layers=2, clip_hidden_states=None,
                        num_layers_projection=0, decoder_embed_dim=40, tile_size=31, max_num_tiles=3, in_channels=5),
        "cases": [
            dict(bsz=1, n_imgs=1, n_tiles=9, aspect_ratio=[[[3, 3]]], stages=["patch_embed", "ln_pre", "post_tile"]),
            dict(bsz=1, n_imgs=2, n_tiles=5, aspect_ratio=[[[2, 2], [1, 3]]], stages=[]),
        ],
    },
    # three heads, hidden states out of order and with the last layer's output, more tiles than max_num_tiles, padding
    # tiles that differ from one another, images without any real tile
    "wide": {
        "seed": 33, "store": "f32",
        "encoder": dict(patch_size=6, num_heads=3, clip_embed_dim=72, clip_num_layers=2, clip_hidden_states=[2, 0],
                        num_layers_projection=1, decoder_embed_dim=56, tile_size=20, max_num_tiles=5, in_channels=3),
        "cases": [
            dict(bsz=2, n_imgs=2, n_tiles=6, aspect_ratio=[[[5, 1], [1, 5]], [[2, 2], [0, 0]]], noisy_padding=True,
                 stages=["hidden", "head"]),
            dict(bsz=1, n_imgs=1, n_tiles=8, aspect_ratio=[[[2, 3]]], noisy_padding=True, stages=["embed_sum"]),
        ],
    },
    # no trunk at all
    "deep_zero": {
        "seed": 34, "store": "bf16",
        "encoder": dict(patch_size=14, num_heads=2, clip_embed_dim=96, clip_num_layers=0, clip_hidden_states=[],
                        num_layers_projection=2, decoder_embed_dim=64, tile_size=28, max_num_tiles=4, in_channels=3),
        "cases": [
            dict(bsz=1, n_imgs=1, n_tiles=3, aspect_ratio=[[[1, 2]]], stages=MORE),
            dict(bsz=2, n_imgs=1, n_tiles=4, aspect_ratio=[[[1, 3]], [[4, 1]]], stages=[]),
        ],
    },
    # one head of odd size, one patch a tile, one grey channel, an odd output; an aspect ratio left out
    "one_head": {
        "seed": 35, "store": "bf16",
        "encoder": dict(patch_size=16, num_heads=1, clip_embed_dim=33, clip_num_layers=1, clip_hidden_states=[0],
                        num_layers_projection=1, decoder_embed_dim=7, tile_size=16, max_num_tiles=2, in_channels=1),
        "cases": [
            dict(bsz=2, n_imgs=2, n_tiles=1, aspect_ratio=None, stages=MORE),
            dict(bsz=1, n_imgs=3, n_tiles=4, aspect_ratio=[[[2, 1], [1, 2], [2, 2]]], stages=MORE),
        ],
    },
}


def run(model, images, aspect_ratio, tap=False):
    """The model's output, and what its stages gave."""
    got, handles = {}, []
    if tap:
        clip = model.clip
        keep = lambda name: lambda mod, args, out: got.__setitem__(name, out.detach().clone())
        handles = [
            clip.conv.register_forward_hook(lambda mod, args, out: got.update(
                patch_embed=out.detach().flatten(2).transpose(1, 2).clone())),
            clip.ln_pre.register_forward_pre_hook(lambda mod, args: got.update(embed_sum=args[0].detach().clone())),
            clip.ln_pre.register_forward_hook(keep("ln_pre")),
            clip.ln_post.register_forward_hook(keep("ln_post")),
            clip.register_forward_hook(lambda mod, args, out: got.update(
                {"post_tile": out[0].clone(), **{f"hidden.{j}": h.clone() for j, h in enumerate(out[1])}})),
        ]
        if len(model.projection.layers):
            handles.append(model.projection.layers[-1].register_forward_hook(keep("head")))
    with torch.inference_mode():
        out = model(images, aspect_ratio).clone()
    for handle in handles:
        handle.remove()
    return out, got


def write(name, out):
    import torchao
    import torchtune
    spec = SETS[name]
    encoder, seed = spec["encoder"], spec["seed"]
    out.mkdir(parents=True, exist_ok=True)
    shapes = {k: v.shape for k, v in torchtune_encoder(encoder).state_dict().items()}
    weights = realistic_weights(shapes, seed, STORE[spec["store"]])
    save(out / "model.safetensors", weights, format="pt")
    model, model64 = torchtune_encoder(encoder, weights), torchtune_encoder(encoder, weights, torch.float64)
    weights64 = {k: v.double() for k, v in weights.items()}
    report = {"encoder": encoder, "seed": seed, "store": spec["store"],
              "versions": versions(torchtune, torchao), "cases": []}
    for k, case in enumerate(spec["cases"]):
        images, aspect_ratio = make_images(case, encoder, 1000 * seed + k)
        out64, stages = run(model64, images.double(), aspect_ratio, tap=bool(case["stages"]))
        out32, _ = run(model, images, aspect_ratio)
        plain, plain_stages = encode(weights64, encoder, images.double(), aspect_ratio)
        agreement = max([errors(plain, out64)[0]] + [errors(plain_stages[n].reshape(v.shape), v)[0]
                                                     for n, v in stages.items() if n in plain_stages])
        assert out64.dtype == torch.float64 and agreement < 1e-13, agreement
        tensors = {"images": images, "out_f64": out64, "out_f32": out32}
        if aspect_ratio is not None:
            tensors["aspect_ratio"] = aspect_ratio
        for stage, value in stages.items():
            if case["stages"] is True or stage.split(".")[0] in case["stages"]:
                shape = (case["bsz"] * case["n_imgs"], case["n_tiles"], -1, encoder["clip_embed_dim"])
                tensors["mid." + stage] = value.reshape(shape).float()
        save(out / f"case{k}.safetensors", tensors)
        report["cases"].append({**case, "out_rms": float(out64.pow(2).mean().sqrt()),
                                "out_absmax": float(out64.abs().max()), "torchtune_f32_vs_f64": errors(out32, out64),
                                "plain_f64_vs_torchtune_f64": agreement})
        print(name, k, json.dumps(report["cases"][-1]))
    (out / "config.json").write_text(json.dumps(report, indent=1) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("sets", nargs="*", choices=[*SETS, []], metavar="SET", help="one of " + ", ".join(SETS))
    p.add_argument("--out", type=pathlib.Path, default=HERE, help="directory to write the sets in (this script's)")
    p.add_argument("--list", action="store_true", help="print the sets and their parameters")
    a = p.parse_args()
    torch.set_num_threads(1)
    if a.list:
        for name, spec in SETS.items():
            print(f"{name}: seed {spec['seed']}, {spec['store']}, {spec['encoder']}")
    for name in a.sets:
        write(name, a.out / name)


if __name__ == "__main__":
    main()
