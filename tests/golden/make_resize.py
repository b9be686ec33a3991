#!/usr/bin/env python3
"""Write what torchtune's loader makes of position tables that were saved for another tile grid or tile size.

    python make_resize.py                writes resize/ next to this script

Versions: torch 2.8.0, torchtune 0.6.1, torchao 0.12.0, safetensors 0.8.0, numpy 2.4 (requirements.txt).

resize/T<T>g<g>_T<T'>g<g'>.safetensors, tables for T x T tiles of g x g patches loaded into an encoder with T' and g':
    in.<key>        F32 or BF16    the table in the checkpoint
    out.<key>       F32            after torchtune's load_state_dict hooks, of the table upcast to float32
    out_f64.<key>   F64            the same, upcast to float64
  <key>, with R = g*g + 1 tokens a tile before and R' after:
    clip.pre_tile_pos_embed.embedding, clip.post_tile_pos_embed.embedding             (T, T, 1, D)
    clip.token_pos_embedding.local_token_positional_embedding                         (R, D)
    clip.token_pos_embedding.global_token_positional_embedding                        (T, T, R, D)
  and, where the tables are bfloat16, out_bf16.<key> BF16, torchtune's result without upcasting.

resize/tables.json: the pairs (patch_size, tile_size and max_num_tiles before and after), the seed, versions.

resize/tiny: config.json and case0.safetensors as make_encoder.py writes them. The weights are those of the set `tiny`,
loaded into an encoder with that config.json, which has other tiles; the pixels belong to it.
"""
import argparse
import json
import pathlib

import torch

from reference import GLOBAL, HERE, TABLES, errors, load_set, make_images, save, torchtune_encoder, versions

LOCAL = "clip.token_pos_embedding.local_token_positional_embedding"
SEED, PATCH = 61, 14
# (T, g) before, (T, g) after, width, dtype of the tables
PAIRS = [
    ((4, 3), (4, 3), 8, torch.bfloat16),  # nothing to do, and nothing may change
    ((4, 3), (4, 5), 8, torch.float32),
    ((4, 5), (4, 3), 8, torch.bfloat16),
    ((4, 2), (2, 2), 8, torch.float32),
    ((2, 3), (5, 3), 8, torch.float32),
    ((4, 4), (3, 6), 8, torch.bfloat16),
    ((3, 6), (4, 2), 8, torch.float32),
    ((4, 3), (2, 1), 8, torch.float32),   # one patch a tile after
    ((3, 1), (2, 4), 8, torch.float32),   # one patch a tile before
    ((4, 32), (4, 40), 1, torch.bfloat16),  # tile side 448 to 560
]
TINY_CASE = dict(bsz=1, n_imgs=3, n_tiles=3, aspect_ratio=[[[1, 3], [2, 1], [1, 1]]])


def encoder_with(max_num_tiles, side, width):
    return dict(patch_size=PATCH, num_heads=1, clip_embed_dim=width, clip_num_layers=0, clip_hidden_states=None,
                num_layers_projection=0, decoder_embed_dim=1, tile_size=PATCH * side, max_num_tiles=max_num_tiles,
                in_channels=1)


def resized(tables, model, dtype):
    """The tables as they stand in the model after loading them into it, all in dtype."""
    model = model.to(dtype)
    model.load_state_dict({k: v.to(dtype) for k, v in tables.items()}, strict=False)
    state = model.state_dict()
    return {k: state[k].clone() for k in tables}


def write_tables(out):
    import torchtune
    g = torch.Generator().manual_seed(SEED)
    report = []
    for (tiles, side), (new_tiles, new_side), width, store in PAIRS:
        rows = side * side + 1
        shapes = {key: (tiles, tiles, rows if key == GLOBAL else 1, width) for key in TABLES} | {LOCAL: (rows, width)}
        tables = {k: torch.randn(s, generator=g).to(store) for k, s in shapes.items()}
        model = torchtune_encoder(encoder_with(new_tiles, new_side, width))
        out64, out32 = (resized(tables, model, dtype) for dtype in (torch.float64, torch.float32))
        tensors = {**{f"in.{k}": v for k, v in tables.items()}, **{f"out.{k}": v for k, v in out32.items()},
                   **{f"out_f64.{k}": v for k, v in out64.items()}}
        figures = {"f32_vs_f64": max(errors(out32[k], out64[k])[0] for k in tables)}
        if store == torch.bfloat16:
            out16 = resized(tables, model, torch.bfloat16)
            tensors.update({f"out_bf16.{k}": v for k, v in out16.items()})
            figures["bf16_vs_f64"] = max(errors(out16[k], out64[k])[0] for k in tables)
            figures["bf16_equal_to_rounded_f32"] = all(torch.equal(out16[k], out32[k].bfloat16()) for k in tables)
        name = f"T{tiles}g{side}_T{new_tiles}g{new_side}"
        if (tiles, side) == (new_tiles, new_side):
            assert all(torch.equal(out64[k], v.double()) for k, v in tables.items())
        save(out / f"{name}.safetensors", tensors)
        report.append({"file": name, "patch_size": PATCH,
                       "from": {"max_num_tiles": tiles, "tile_size": PATCH * side},
                       "to": {"max_num_tiles": new_tiles, "tile_size": PATCH * new_side}, "clip_embed_dim": width,
                       **figures})
        print(json.dumps(report[-1]))
    (out / "tables.json").write_text(
        json.dumps({"seed": SEED, "versions": versions(torchtune), "pairs": report}, indent=1) + "\n")


def write_tiny(out):
    import torchtune
    out.mkdir(parents=True, exist_ok=True)
    encoder, weights = load_set("tiny")
    encoder = {**encoder, "tile_size": 42, "max_num_tiles": 3}
    images, aspect_ratio = make_images(TINY_CASE, encoder, 1000 * SEED)
    with torch.inference_mode():
        out32 = torchtune_encoder(encoder, weights)(images, aspect_ratio)
        model = torchtune_encoder(encoder, dtype=torch.float64)
        model.load_state_dict({k: v.double() for k, v in weights.items()})  # resized in float64 too
        out64 = model(images.double(), aspect_ratio)
    save(out / "case0.safetensors", {"images": images, "aspect_ratio": aspect_ratio, "out_f64": out64, "out_f32": out32})
    report = {"encoder": encoder, "weights": "../../tiny/model.safetensors", "seed": SEED, "versions": versions(torchtune),
              "cases": [{**TINY_CASE, "torchtune_f32_vs_f64": errors(out32, out64)}]}
    (out / "config.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["cases"]))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, default=HERE / "resize", help="directory to write (resize beside this)")
    a = p.parse_args()
    torch.set_num_threads(1)
    a.out.mkdir(parents=True, exist_ok=True)
    write_tables(a.out)
    write_tiny(a.out / "tiny")


if __name__ == "__main__":
    main()
