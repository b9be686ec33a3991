#!/usr/bin/env python3
"""Time torch's attention beside ours, on one GPU in one run.

    cargo build --release --features cuda
    python3 benches/peers/attention.py --json attention.json

Runs `tilesight bench kernels`, then torch's scaled_dot_product_attention with the cuDNN and the flash back end (and any
other that --backends names) on the attention shapes of its report: as many sequences as the batch has images, heads and
rows as the transformer has them, no mask. Torch is timed by CUDA events as ours is, 50 rounds after two that do not
count, on queries, keys and values of noise that rotate through several buffers, so that none stays in L2 by accident.
Ours includes the scattered layout of queries, keys and values in one matrix; torch's gets each as a tensor of its own,
[images, heads, rows, head_dim], which is its best case. In meta semantics our rows that stand for several count once,
and torch has no such thing: ask for torchtune's, the default.

The table gives torch's time over ours. A back end that refuses a shape is named with its reason. A simulated GPU is
refused: no time of it means anything. Needs torch with CUDA.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROUNDS = 50
BUFFERS = 4


def shapes(report):
    """Images, heads, rows and head_dim of each attention that was timed in the transformer, with our best time."""
    config = report["config"]
    patches = (config["tile_size"] // config["patch_size"]) ** 2
    found = {}
    for row in report["kernels"]:
        if row["step"] == "transformer.attention" and row["seconds"] is not None:
            shape = (row["batch"], config["num_heads"], row["tiles"] * (patches + 1),
                     config["clip_embed_dim"] // config["num_heads"])
            best = found.get(shape)
            if best is None or row["seconds"]["median"] < best["seconds"]["median"]:
                found[shape] = row
    return found


def flops(shape):
    images, heads, rows, head_dim = shape
    return 4 * images * heads * rows * rows * head_dim


def time_torch(torch, shape, backend, dtype):
    """Milliseconds of each round."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    operands = [[torch.randn(shape, device="cuda", dtype=dtype) for _ in range(3)] for _ in range(BUFFERS)]
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    with sdpa_kernel(getattr(SDPBackend, backend)):
        for round_ in range(ROUNDS + 2):
            start.record()
            for queries, keys, values in operands:
                scaled_dot_product_attention(queries, keys, values)
            end.record()
            end.synchronize()
            if round_ >= 2:
                times.append(start.elapsed_time(end) / BUFFERS)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tilesight", default=HERE.parent.parent / "target/release/tilesight", type=pathlib.Path)
    parser.add_argument("--report", type=pathlib.Path, help="a report of bench kernels from this run of the machine")
    parser.add_argument("--backends", nargs="+", default=["CUDNN_ATTENTION", "FLASH_ATTENTION"])
    parser.add_argument("--dtype", choices=["bf16", "fp16"], default="bf16")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()

    if options.report:
        report = json.loads(options.report.read_text())
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "kernels.json"
            command = [options.tilesight, "bench", "kernels", "--dtype", options.dtype, "--json", path]
            subprocess.run([str(word) for word in command], check=True, stdout=sys.stderr)
            report = json.loads(path.read_text())
    if not report["timed"] or "simulator" in report["device"]:
        raise SystemExit("the report holds no times of a real GPU")

    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[report["dtype"]]
    rows = []
    print(f"{report['device']}, torch {torch.__version__}, {report['dtype']}")
    print(f"{'images':>6} {'rows':>6} {'ours, form':>14} {'µs':>9} {'TFLOP/s':>8}  torch's µs, TFLOP/s, and time over ours")
    for shape, ours in sorted(shapes(report).items()):
        mine = ours["seconds"]["median"]
        row = {"shape": shape, "tilesight": ours, "torch": {}}
        told = []
        for backend in options.backends:
            try:
                times = time_torch(torch, shape, backend, dtype)
            except RuntimeError as refusal:
                row["torch"][backend] = {"refusal": str(refusal).splitlines()[0]}
                told.append(f"{backend}: {row['torch'][backend]['refusal']}")
                continue
            seconds = statistics.median(times) / 1e3
            row["torch"][backend] = {
                "seconds": {"median": seconds, "least": min(times) / 1e3, "most": max(times) / 1e3, "rounds": ROUNDS},
                "tflops": flops(shape) / seconds / 1e12,
                "time_over_ours": seconds / mine,
            }
            told.append(f"{backend}: {seconds * 1e6:.1f}, {flops(shape) / seconds / 1e12:.0f}, {seconds / mine:.2f}")
        rows.append(row)
        print(f"{shape[0]:6} {shape[2]:6} {ours['form']:>14} {mine * 1e6:9.1f} {flops(shape) / mine / 1e12:8.0f}  "
              + "; ".join(told))
    if options.json:
        options.json.write_text(json.dumps({"kernels": report, "torch": torch.__version__, "attention": rows}, indent=1))


if __name__ == "__main__":
    main()
