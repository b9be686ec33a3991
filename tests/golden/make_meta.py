#!/usr/bin/env python3
"""Add what Meta's code, and Hugging Face's up to 4.54, compute with the weights of the torchtune sets.

    python make_meta.py                  writes meta<K>.safetensors and meta.json into each set below
    python make_meta.py tiny wide        some of them

Versions: torch 2.8.0, transformers 4.53.3, safetensors 0.8.0, numpy 2.4 (requirements.txt).

The reference is the plain forward pass of reference.py in float64, mode "meta": each tile's rows are followed by zero
rows up to a multiple of 8, there are always max_num_tiles tiles, and a score is masked where its query and its key are
both padding. Before anything is written, transformers 4.53.3 computes the same from the same weights in float64
(required to agree to 1e-12) and in float32 (2e-6).

meta<K>.safetensors, T = max_num_tiles, B = b*i, R tokens a tile, A alignment rows (R + A is a multiple of 8):
    images        F32 (b, i, T, C, tile, tile)     tiles past h*w are zero, unless "noisy_padding"
    aspect_ratio  I64 (b, i, 2)                    (0, 0) is a missing image: no position from any table, but its first
                                                   tile counts as real in the mask, as Hugging Face's processor has it
    out_f64       F64 (b, i*T*R, decoder_embed_dim)
    out_f32       F32 the same from transformers 4.53.3 in float32
  and the stages the case names (true: all), float32 roundings of the float64 run, padding tiles and rows included:
    mid.hidden.<j>, mid.post_tile, mid.head        F32 (B, T, R + A, D)
"""
import argparse
import json
import pathlib

import torch

from reference import HERE, encode, errors, hf_encoder, load_set, make_images, save, tune_to_hf, versions

SETS = {
    "tiny": (41, [
        dict(bsz=1, n_imgs=3, aspect_ratio=[[[1, 1], [1, 2], [2, 1]]], stages=True),
        dict(bsz=2, n_imgs=2, aspect_ratio=[[[1, 3], [2, 2]], [[4, 1], [0, 0]]], stages=True),
    ]),
    "small": (42, [
        dict(bsz=1, n_imgs=1, aspect_ratio=[[[1, 1]]], stages=["head"]),
        dict(bsz=1, n_imgs=2, aspect_ratio=[[[1, 2], [2, 1]]], stages=[]),
        dict(bsz=2, n_imgs=1, aspect_ratio=[[[1, 3]], [[4, 1]]], stages=[]),
    ]),
    "wide": (43, [
        dict(bsz=1, n_imgs=4, aspect_ratio=[[[1, 1], [2, 2], [1, 3], [0, 0]]], noisy_padding=True, stages=True),
        dict(bsz=1, n_imgs=3, aspect_ratio=[[[5, 1], [2, 1], [1, 1]]], stages=[]),
    ]),
    "bare": (44, [dict(bsz=1, n_imgs=3, aspect_ratio=[[[1, 1], [1, 2], [3, 1]]], stages=[])]),
    "deep_zero": (45, [dict(bsz=1, n_imgs=2, aspect_ratio=[[[1, 2], [1, 3]]], stages=["head"])]),
    "one_head": (46, [dict(bsz=1, n_imgs=3, aspect_ratio=[[[1, 1], [2, 1], [1, 2]]], stages=True)]),
}


def write(name, out):
    import transformers
    encoder, weights = load_set(name)
    out.mkdir(parents=True, exist_ok=True)
    weights64 = {k: v.double() for k, v in weights.items()}
    by_id = tune_to_hf(weights64, encoder["max_num_tiles"])
    hf64, hf32 = (hf_encoder(encoder, by_id, dtype) for dtype in (torch.float64, torch.float32))
    seed, cases = SETS[name]
    report = {"seed": seed, "versions": versions(transformers), "cases": []}
    for k, case in enumerate(cases):
        case = {**case, "n_tiles": encoder["max_num_tiles"]}
        images, aspect_ratio = make_images(case, encoder, 1000 * seed + k)
        out64, stages = encode(weights64, encoder, images.double(), aspect_ratio, "meta")
        out32 = hf32(images, aspect_ratio)
        figures = {"transformers_f64_vs_f64": errors(hf64(images, aspect_ratio), out64),
                   "transformers_f32_vs_f64": errors(out32, out64)}
        assert figures["transformers_f64_vs_f64"][0] < 1e-12 and figures["transformers_f32_vs_f64"][0] < 2e-6, figures
        tensors = {"images": images, "aspect_ratio": aspect_ratio, "out_f64": out64, "out_f32": out32}
        for stage, value in stages.items():
            if stage != "features" and (case["stages"] is True or stage.split(".")[0] in case["stages"]):
                tensors["mid." + stage] = value.float()
        save(out / f"meta{k}.safetensors", tensors)
        report["cases"].append({**case, "out_rms": float(out64.pow(2).mean().sqrt()),
                                "out_absmax": float(out64.abs().max()), **figures})
        print(name, k, json.dumps(report["cases"][-1]))
    (out / "meta.json").write_text(json.dumps(report, indent=1) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("sets", nargs="*", default=list(SETS), metavar="SET", help="of " + ", ".join(SETS) + " (all)")
    p.add_argument("--out", type=pathlib.Path, default=HERE, help="directory of the sets to write to (this script's)")
    a = p.parse_args()
    torch.set_num_threads(1)
    for name in a.sets:
        write(name, a.out / name)


if __name__ == "__main__":
    main()
