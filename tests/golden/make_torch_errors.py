#!/usr/bin/env python3
"""Measure torch's own error on every golden case: the limit a half precision engine is held to.

    python make_torch_errors.py          writes torch_errors.json next to this script
    python make_torch_errors.py --check  measures again and prints the largest ratio to the figures on file

Versions: torch 2.8.0, torchtune 0.6.1, transformers 4.53.3, safetensors 0.8.0, numpy 2.4 (requirements.txt).

Each case runs on the CPU in float32, bfloat16 and float16 (weights, inputs and activations) and is compared with its
float64 reference: torchtune's encoder for case<K>, transformers' Mllama vision model with its default attention (SDPA)
for meta<K>, hf_tiny and hf_finetuned. Keys are "<set>/<file>"; `frobenius` is |a-b| / |b| over the whole output,
`max` is max |a-b| / max |b|. Rows of padding tiles count, as everywhere in these files.

`real_tiles` gives the same over the rows of real tiles alone (tiles < h*w), for an engine that leaves padding rows out.

The figures depend on the CPU, which is on file: between one with AMX and one without, Frobenius errors in bfloat16
were seen to differ by 1 %, maxima by 15 %.
"""
import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file

from make_hf import FINETUNED, TINY
from reference import HERE, errors, hf_encoder, load_set, torchtune_encoder, tune_to_hf, versions

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def real_rows(out, aspect_ratio, images, tokens):
    """Rows of tiles < h*w, (rows, E). Without an aspect ratio every tile is real."""
    b, i, t = images.shape[:3]
    tiles = out.reshape(b * i, t, tokens, -1)
    if aspect_ratio is None:
        return tiles.flatten(0, 2)
    real = torch.arange(t) < aspect_ratio.reshape(-1, 2).prod(-1)[:, None]
    return tiles[real].flatten(0, 1)


def measure(encoder, run, case):
    """run(images, aspect_ratio) in some dtype against the case's float64 output."""
    images, aspect_ratio, expected = case["images"], case.get("aspect_ratio"), case["out_f64"]
    with torch.inference_mode():
        found = run(images, aspect_ratio)
    tokens = (encoder["tile_size"] // encoder["patch_size"]) ** 2 + 1
    if encoder["max_num_tiles"] == 1:
        aspect_ratio = None
    real = [real_rows(x, aspect_ratio, images, tokens) for x in (found, expected)]
    name = lambda pair: {"frobenius": pair[1], "max": pair[0]}
    return {**name(errors(found, expected)), "real_tiles": name(errors(*real))}


def measure_all():
    figures = {}

    def add(path, encoder, make_run, case):
        figures[path] = {name: measure(encoder, make_run(dtype), case) for name, dtype in DTYPES.items()}
        print(path, {k: f"{v['frobenius']:.2e} {v['max']:.2e}" for k, v in figures[path].items()})

    for config in sorted(HERE.glob("*/config.json")):
        name = config.parent.name
        if name.startswith("hf_"):
            continue
        encoder, weights = load_set(name)

        def torchtune(dtype):
            model = torchtune_encoder(encoder, weights, dtype)
            return lambda images, aspect_ratio: model(images.to(dtype), aspect_ratio)
        for path in sorted(config.parent.glob("case*.safetensors")):
            add(f"{name}/{path.stem}", encoder, torchtune, load_file(path))
        for path in sorted(config.parent.glob("meta*.safetensors")):
            by_id = tune_to_hf(weights, encoder["max_num_tiles"])
            add(f"{name}/{path.stem}", encoder, lambda dtype: hf_encoder(encoder, by_id, dtype), load_file(path))

    encoder = json.loads((HERE / "resize/tiny/config.json").read_text())["encoder"]
    weights = load_set("tiny")[1]

    def resized(dtype):
        model = torchtune_encoder(encoder, weights, dtype)
        return lambda images, aspect_ratio: model(images.to(dtype), aspect_ratio)
    add("resize/tiny/case0", encoder, resized, load_file(HERE / "resize/tiny/case0.safetensors"))

    for name, spec in (("hf_tiny", TINY), ("hf_finetuned", FINETUNED)):
        encoder, weights = spec["encoder"], {}
        for path in sorted((HERE / name).glob("model*.safetensors")):
            weights.update({k.removeprefix("model."): v for k, v in load_file(path).items() if "language_model" not in k})
        if name == "hf_tiny":
            expected = load_file(HERE / name / "expected_meta_f64.safetensors")
            case = {"images": load_file(HERE / name / "expected_v5.safetensors")["pixel_values"],
                    "aspect_ratio": expected["aspect_ratio"], "out_f64": expected["cross_attention_states"]}
            case["out_f64"] = case["out_f64"].reshape(case["images"].shape[0], -1, encoder["decoder_embed_dim"])
            stem = "expected_meta_f64"
        else:
            case, stem = load_file(HERE / name / "case.safetensors"), "case"
        add(f"{name}/{stem}", encoder, lambda dtype: hf_encoder(encoder, weights, dtype), case)
    return figures


def cpu_model():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, default=HERE / "torch_errors.json", help="file to write")
    p.add_argument("--check", action="store_true", help="write nothing; compare with the figures on file")
    a = p.parse_args()
    torch.set_num_threads(1)
    import torchtune
    import transformers
    figures = measure_all()
    if a.check:
        old = json.loads(a.out.read_text())["cases"]
        for dtype in DTYPES:
            ratio, path = max((figures[k][dtype]["frobenius"] / old[k][dtype]["frobenius"], k) for k in old)
            print(f"{dtype}: at most {ratio:.3f} times the figure on file ({path})")
        return
    report = {"versions": versions(torchtune, transformers), "cpu": cpu_model(),
              "cpu_capability": torch.backends.cpu.get_cpu_capability(), "cases": figures}
    a.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
