#!/usr/bin/env python3
"""Time tilesight and torchtune side by side on the CPU, and check that they agree.

    cargo build --release
    benches/peers/setup.sh
    target/peers/bin/python benches/peers/compare.py --json compare.json

Both run in float32 from one checkpoint on the same pixels, for one tile and for four, turn about: a round is one process
of each, and the order changes from round to round, so that a slow phase of the machine does not fall on one of them
alone. Each process is held to --threads CPUs, does --warmup runs that do not count and then --repeat timed ones; only
forward passes are timed. Only one process runs at a time, and memory is that of the larger (about 6 GB at 11B).

Outputs must agree to max |a-b| / max |b| <= 1e-5, or the exit status is 1. The ratio is torchtune's time over ours,
from the medians of one round; the table gives the median round's and the range over the rounds. Memory is the peak
resident set: ours over the whole process, torchtune's up to the end of its last forward pass, its checksum left out.

Without --model, a random 11B checkpoint is made first by `tilesight random --preset 11b --dtype bf16 --seed 7`.
"""
import argparse
import datetime
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file, save_file

from make_case import case, grid
from peer import cpu_model, encoder_config, flops

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE.parent.parent / "target"
TOLERANCE = 1e-5


def run(command, cpus, threads):
    """Runs a process on those CPUs to its end; returns its peak resident set in bytes."""
    env = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads),
           "MKL_NUM_THREADS": str(threads)}
    hold = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
    process = subprocess.Popen([str(c) for c in command], env=env, preexec_fn=hold, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"exit status {process.returncode} from: {' '.join(str(c) for c in command)}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def embeddings(path):
    """The one floating point tensor of a file; a file with more must call it `embeddings`."""
    tensors = load_file(path)
    floats = [name for name, value in tensors.items() if value.dtype.kind == "f"]
    if "embeddings" in tensors:
        floats = ["embeddings"]
    if len(floats) != 1:
        raise SystemExit(f"{path}: which of {', '.join(tensors)} are the embeddings?")
    return tensors[floats[0]]


def difference(ours, theirs):
    """max |a-b| / max |b| in float64; the shapes may differ in how they group rows, not in their size."""
    if ours.size != theirs.size or ours.shape[-1] != theirs.shape[-1]:
        raise SystemExit(f"outputs have the shapes {ours.shape} and {theirs.shape}")
    a, b = (x.reshape(-1).astype(np.float64) for x in (ours, theirs))
    if not (np.isfinite(a).all() and np.isfinite(b).all() and b.any()):
        return float("inf")
    return float(np.abs(a - b).max() / np.abs(b).max())


def measure(a, model, pixels, repeat, work):
    """One process of ours or theirs: its timed runs, its peak memory, its output."""
    def ours():
        runs = a.warmup + repeat
        peak = run([a.tilesight, "encode", "--model", model, "--pixels", pixels, "--device", "cpu", "--output",
                    work / "ours.safetensors", "--repeat", runs, "--json", work / "ours.json", *a.ours], a.cpus, a.threads)
        told = json.loads((work / "ours.json").read_text())
        if len(told["seconds"]) != runs:
            raise SystemExit(f"tilesight reports {len(told['seconds'])} runs, not {runs}")
        return {"seconds": told["seconds"][a.warmup:], "peak_rss_bytes": peak, "report": told}

    def theirs():
        run([sys.executable, HERE / "torchtune_cpu.py", "--model", model, "--pixels", pixels, "--threads", a.threads,
             "--warmup", a.warmup, "--repeat", repeat, "--output", work / "theirs.safetensors",
             "--json", work / "theirs.json"], a.cpus, a.threads)
        told = json.loads((work / "theirs.json").read_text())
        return {"seconds": told["seconds"], "peak_rss_bytes": told["peak_rss_bytes"], "report": told}
    return {"ours": ours, "theirs": theirs}


def compare(a, model, config, tiles, work):
    """All rounds of one grid."""
    h, w = tiles
    pixels = work / f"case{h}x{w}.safetensors"
    tensors = case(tiles, config["tile_size"], config["in_channels"], seed=1)
    save_file(tensors, str(pixels))
    shape, repeat = tensors["images"].shape, a.repeat or (3 if h * w == 1 else 1)
    del tensors
    sides, rounds = measure(a, model, pixels, repeat, work), []
    for k in range(a.rounds):
        got = {"load_average": os.getloadavg()[0]}
        for side in ("ours", "theirs") if k % 2 == 0 else ("theirs", "ours"):
            got[side] = sides[side]()
        got["difference"] = difference(embeddings(work / "ours.safetensors"), embeddings(work / "theirs.safetensors"))
        ours, theirs = (statistics.median(got[side]["seconds"]) for side in ("ours", "theirs"))
        got["ratio"] = theirs / ours
        rounds.append(got)
        print(f"{h}x{w} round {k + 1} of {a.rounds}: ours {ours:.3f} s, torchtune {theirs:.3f} s, "
              f"ratio {theirs / ours:.3f}, difference {got['difference']:.1e}", file=sys.stderr)
    ratios = [r["ratio"] for r in rounds]
    summary = {"grid": [h, w], "flops": flops(config, shape), "repeat": repeat,
               "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
               "difference": max(r["difference"] for r in rounds)}
    for side in ("ours", "theirs"):
        seconds = [s for r in rounds for s in r[side]["seconds"]]
        summary[side] = {"best": min(seconds), "median": statistics.median(seconds), "worst": max(seconds),
                         "gflop_per_s": summary["flops"] / min(seconds) / 1e9,
                         "peak_rss_bytes": max(r[side]["peak_rss_bytes"] for r in rounds)}
    summary["agrees"] = summary["difference"] <= TOLERANCE
    return {**summary, "rounds": rounds}


def table(cases):
    """One line a grid and side."""
    row = "{:<6} {:<10} {:>9} {:>9} {:>9} {:>8} {:>9}   {}"
    lines = [row.format("grid", "", "best s", "median s", "worst s", "GFLOP/s", "peak GB", "ratio (range)   difference")]
    for c in cases:
        r = c["ratio"]
        verdict = f"{r['median']:.3f} ({r['min']:.3f} to {r['max']:.3f})   {c['difference']:.1e}"
        verdict += "" if c["agrees"] else f"  more than {TOLERANCE:.0e}"
        for side, label in (("ours", "tilesight"), ("theirs", "torchtune")):
            s = c[side]
            lines.append(row.format("x".join(map(str, c["grid"])), label, f"{s['best']:.3f}", f"{s['median']:.3f}",
                                    f"{s['worst']:.3f}", f"{s['gflop_per_s']:.0f}", f"{s['peak_rss_bytes'] / 1e9:.2f}",
                                    verdict if side == "ours" else "").rstrip())
    return "\n".join(lines)


def commit():
    got = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True)
    return got.stdout.strip() or None


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tilesight", type=pathlib.Path, default=TARGET / "release/tilesight", help="(target/release/tilesight)")
    p.add_argument("--model", type=pathlib.Path, help="checkpoint under torchtune's names (a random 11B one)")
    p.add_argument("--grids", type=grid, nargs="+", default=[(1, 1), (2, 2)], metavar="HxW", help="(1x1 2x2)")
    p.add_argument("--rounds", type=int, default=3, help="processes of each side and grid (3)")
    p.add_argument("--warmup", type=int, default=1, help="uncounted runs of each process (1)")
    p.add_argument("--repeat", type=int, help="timed runs of each process (3 for one tile, otherwise 1)")
    p.add_argument("--threads", type=int, default=2, help="threads and CPUs of each side (2)")
    p.add_argument("--ours", nargs=argparse.REMAINDER, default=[], help="what follows goes to `tilesight encode` too")
    p.add_argument("--json", type=pathlib.Path, help="write everything measured there")
    a = p.parse_args()
    if a.rounds < 1 or a.warmup < 0 or a.threads < 1 or (a.repeat is not None and a.repeat < 1):
        p.error("--rounds, --repeat and --threads start at 1, --warmup at 0")
    if shutil.which(a.tilesight) is None:
        p.error(f"no {a.tilesight}; build it with `cargo build --release` or name it with --tilesight")
    a.cpus = None
    if hasattr(os, "sched_setaffinity"):
        a.cpus = set(sorted(os.sched_getaffinity(0))[:a.threads])
        if len(a.cpus) < a.threads:
            p.error(f"only {len(a.cpus)} CPUs for {a.threads} threads")
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"the machine is busy (load average {load:.1f}); expect noise", file=sys.stderr)
    model = a.model
    if model is None:
        model = TARGET / "peers-11b-seed7"
        if not (model / "config.json").exists():
            run([a.tilesight, "random", "--preset", "11b", "--dtype", "bf16", "--seed", "7", "--output", model], None, a.threads)
    config = encoder_config(model / "config.json")
    with tempfile.TemporaryDirectory() as work:
        cases = [compare(a, model, config, tiles, pathlib.Path(work)) for tiles in a.grids]
    theirs = cases[0]["rounds"][0]["theirs"]["report"]
    print(f"{cpu_model()}, {a.threads} threads, float32; torch {theirs['versions']['torch']}, "
          f"torchtune {theirs['versions']['torchtune']}; rounds: {a.rounds}")
    print(table(cases))
    if a.json:
        result = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "commit": commit(),
                  "command": [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]], "cpu": cpu_model(), "threads": a.threads,
                  "warmup": a.warmup, "tolerance": TOLERANCE, "versions": theirs["versions"], "cases": cases}
        a.json.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if all(c["agrees"] for c in cases) else 1)


if __name__ == "__main__":
    main()
