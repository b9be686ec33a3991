#!/usr/bin/env python3
"""Time torchtune's Llama 3.2 Vision encoder on the CPU, eager.

    target/peers/bin/python benches/peers/torchtune_cpu.py --model DIR --pixels case.safetensors --json out.json

DIR holds config.json and model*.safetensors under torchtune's names, as `tilesight random --preset 11b --dtype bf16
--seed 7 --output DIR` writes them; weights are cast to --dtype tensor by tensor. The case has `images`
(b, i, t, C, s, s) and, where there is more than one tile, `aspect_ratio` (b, i, 2); make_case.py writes one.

The report (--json, or the standard output): seconds of each run, their best and median, GFLOP/s of the best by the
closed form, peak resident memory (VmHWM, the weights' loading included), a checksum of the output, versions, CPU.
--output writes the embeddings as `embeddings` F32 (b, i*t*R, E).

Versions: torch 2.8.0, torchvision 0.23.0, torchtune 0.6.1, torchao 0.12.0, safetensors 0.8.0 (requirements.txt).
"""
import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file, save_file

from peer import checkpoint, checksum, encoder_config, peak_rss_bytes, report, timed

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def load(config, directory, dtype):
    """The encoder with the checkpoint's weights, without ever holding two copies of them."""
    from torchtune.models.llama3_2_vision import llama3_2_vision_encoder
    with torch.device("meta"):
        model = llama3_2_vision_encoder(**config)
    weights = {name: torch.frombuffer(data, dtype=STORED[stored]).reshape(shape).to(dtype, copy=True)
               for name, stored, shape, data in checkpoint(directory)}
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=pathlib.Path, required=True, help="directory of the checkpoint")
    p.add_argument("--config", type=pathlib.Path, help="config.json (DIR/config.json; the 11B geometry without one)")
    p.add_argument("--pixels", type=pathlib.Path, required=True, help="safetensors file with images and aspect_ratio")
    p.add_argument("--dtype", choices=DTYPES, default="float32", help="of weights and activations (float32)")
    p.add_argument("--threads", type=int, default=2, help="torch's threads (2)")
    p.add_argument("--warmup", type=int, default=1, help="runs before the timed ones (1)")
    p.add_argument("--repeat", type=int, default=3, help="timed runs (3)")
    p.add_argument("--output", type=pathlib.Path, help="write the embeddings there")
    p.add_argument("--json", type=pathlib.Path, help="write the report there (standard output)")
    a = p.parse_args()
    if a.repeat < 1 or a.warmup < 0 or a.threads < 1:
        p.error("--repeat and --threads start at 1, --warmup at 0")
    torch.set_num_threads(a.threads)
    import torchao
    import torchtune
    imported = peak_rss_bytes()
    config, dtype = encoder_config(a.config or a.model / "config.json"), DTYPES[a.dtype]
    case = load_file(a.pixels)
    images, aspect_ratio = case["images"].to(dtype), case.get("aspect_ratio")
    model = load(config, a.model, dtype)
    loaded = peak_rss_bytes()
    with torch.inference_mode():
        seconds, warmup, out = timed(lambda: model(images, aspect_ratio), a.warmup, a.repeat)
    result = report("torchtune eager", config, images.shape, a.dtype, seconds, warmup, None, threads=a.threads,
                    peak_rss_after_import_bytes=imported, peak_rss_after_loading_bytes=loaded,
                    cpu_capability=torch.backends.cpu.get_cpu_capability(),
                    versions={m.__name__: m.__version__ for m in (torch, torchtune, torchao)})
    out = out.float()  # the report above has the peak before this copy and the checksum's
    result["output"] = checksum(out.numpy())
    if a.output:
        save_file({"embeddings": out.contiguous()}, str(a.output))
    text = json.dumps(result, indent=1) + "\n"
    if a.json:
        a.json.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
