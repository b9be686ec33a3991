#!/usr/bin/env python3
"""Time tilesight and its peers side by side, on the CPU or on a GPU, and check that they agree.

    cargo build --release
    benches/peers/setup.sh
    target/peers/bin/python benches/peers/compare.py --json compare.json

All sides compute one encoder (a random one, in each side's names for its tensors) on the same pixels, turn about: a round
is one process of each, and the order changes from round to round, so that a slow phase of the machine does not fall on
one of them alone. Each process does --warmup runs that do not count and then --repeat timed ones; only forward passes are
timed, and only one process runs at a time. torchtune is compared with our semantics of that name, transformers with
`meta`, each image then filled up with tiles of zeros to the encoder's most.

A ratio is the peer's time over ours, from the medians of one round; the table gives the median round's and the range over
the rounds: a difference smaller than that range is noise. Times go from pixels to embeddings in the host's memory. On a
GPU there is a second ratio, of the forward passes alone on the device, by its events: ours is then `tilesight bench`'s.

Outputs are checked in every round, or the exit status is 1. In float32: max |a-b| / max |b| <= 1e-5. In bfloat16 and
float16: ours may be no further from a float32 run of the peer than the peer itself is in that type (agreement.py has the
factors), in the Frobenius norm. A peer that fails is named, and the others go on.
"""
import argparse
import datetime
import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

from safetensors.numpy import save_file

import agreement
import sides
from encoder import encoder_config, flops
from make_case import case, grid
from sides import PEERS, REFERENCES, Failed

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE.parent.parent / "target"
LAYOUTS = {"torchtune": "torchtune", "meta": "huggingface"}
SEED = 7
GPU_FACTS = "name,driver_version,power.limit,clocks.max.sm"


def models(a, work):
    """The checkpoint of each semantics that is compared: the one given, or a random one, the same in both layouts."""
    needed = sorted({PEERS[name].semantics for name in a.peers})
    given = {"torchtune": a.torchtune_model, "meta": a.transformers_model}
    stored = "fp16" if a.dtype == "float16" else "bf16"
    return {semantics: given[semantics] or random_model(a, LAYOUTS[semantics], stored, work) for semantics in needed}


def random_model(a, layout, stored, work):
    """A preset's is kept for the next time; one of a configuration that may change is not."""
    size = ["--tile-size", a.tile_size] if a.tile_size else []
    geometry = ["--config", a.config] if a.config else ["--preset", a.preset]
    name = "-".join(["peers", a.preset, *map(str, size[1:]), layout, stored, f"seed{SEED}"])
    model = work / layout if a.config else a.keep / name
    if not (model / "model.safetensors").exists():
        sides.run([a.tilesight, "random", *geometry, *size, "--layout", layout, "--dtype", stored, "--seed", SEED,
                   "--output", model], None, a.threads)
    return model


def repeats(a, num_tiles):
    """Timed runs of a process: on the CPU few where each takes minutes."""
    return a.repeat or (50 if a.device == "cuda" else 3 if num_tiles == 1 else 1)


def members(a, tiles, pixels, work):
    """Each side of a comparison: its semantics, and the call that measures one process of it."""
    def member(measure, name, semantics, label, **more):
        path, num_tiles = pixels[semantics]
        output = work / f"{label.replace(' ', '-')}.safetensors"
        return label, (semantics, output, lambda: measure(a, name, tiles, path, output, repeats(a, num_tiles), **more))

    found = dict(member(sides.tilesight, semantics, semantics, f"tilesight {semantics}") for semantics in pixels)
    found |= dict(member(sides.peer, name, PEERS[name].semantics, name) for name in a.peers)
    if a.bfloat16_too:
        found |= dict(member(sides.peer, name, PEERS[name].semantics, f"{name} bfloat16", dtype="bfloat16")
                      for name in a.peers)
    return found


def references(a, tiles, pixels, work):
    """What a peer of each semantics computes in float32, where ours is not in float32."""
    if a.dtype == "float32":
        return {}
    found = {}
    for semantics, (path, _) in pixels.items():
        output = work / f"reference-{semantics}.safetensors"
        try:
            sides.peer(a, REFERENCES[semantics], tiles, path, output, 1, dtype="float32")
            found[semantics] = agreement.embeddings(output)
        except Failed as failure:
            print(f"no reference: {failure}", file=sys.stderr)
    return found


def verdict(a, name, ours, theirs, reference):
    """Whether a peer and ours agree; None where that cannot be said."""
    if a.dtype == "float32":
        return agreement.in_float32(agreement.embeddings(ours), agreement.embeddings(theirs))
    if reference is None:
        return None
    found = map(agreement.embeddings, (ours, theirs))
    return agreement.in_half(*found, reference, PEERS[name].error_factor)


def one_round(a, number, all_sides, reference, failures):
    """One process of each side, in an order that changes; a peer that has failed stays out."""
    got = {"load_average": os.getloadavg()[0], "sides": {}, "ratios": {}, "agreement": {}}
    for label, (_, _, measure) in list(all_sides.items())[::1 if number % 2 == 0 else -1]:
        if label in failures:
            continue
        try:
            got["sides"][label] = measure()
        except Failed as failure:
            failures[label] = str(failure)
            print(f"{label}: {failure}", file=sys.stderr)
    for label, theirs in got["sides"].items():
        semantics, output, _ = all_sides[label]
        ours = got["sides"].get(f"tilesight {semantics}")
        if label.startswith("tilesight ") or ours is None:
            continue
        ratio = {key: statistics.median(theirs[key]) / statistics.median(ours[key])
                 for key in ("seconds", "device_seconds") if key in theirs and key in ours}
        got["ratios"][label] = ratio
        if label in a.peers and "incomparable" not in theirs["report"]:
            ours_output = all_sides[f"tilesight {semantics}"][1]
            got["agreement"][label] = verdict(a, label, ours_output, output, reference.get(semantics))
        print(f"  round {number + 1} of {a.rounds}: {label} {statistics.median(theirs['seconds']):.4g} s, over ours "
              f"{ratio['seconds']:.3f}, {agreement.told(got['agreement'].get(label))}", file=sys.stderr)
    return got


def summary(rounds, label):
    """A side over all rounds."""
    runs = [r["sides"][label] for r in rounds if label in r["sides"]]
    seconds = [s for run in runs for s in run["seconds"]]
    found = {"best": min(seconds), "median": statistics.median(seconds), "worst": max(seconds)}
    on_device = [s for run in runs for s in run.get("device_seconds", [])]
    if on_device:
        found["device_median"] = statistics.median(on_device)
    if "flops" in runs[0]:
        found |= {"flops": runs[0]["flops"], "gflop_per_s": runs[0]["flops"] / min(on_device or seconds) / 1e9}
    for name in ("peak_rss_bytes", "peak_device_bytes"):
        if all(name in run for run in runs):
            found[name] = max(run[name] for run in runs)
    ratios = [r["ratios"][label] for r in rounds if label in r["ratios"]]
    for key, name in (("seconds", "ratio"), ("device_seconds", "device_ratio")):
        of = [ratio[key] for ratio in ratios if key in ratio]
        if of:
            found[name] = {"median": statistics.median(of), "min": min(of), "max": max(of)}
    verdicts = [r["agreement"][label] for r in rounds if label in r["agreement"]]
    if verdicts and None not in verdicts:
        found["agreement"] = max(verdicts, key=lambda v: (not v["agrees"], v["difference"]))
    return found


def compare(a, config, tiles, work):
    """All rounds of one grid."""
    h, w = tiles
    pixels = {}
    for semantics in a.models:
        filled = config["max_num_tiles"] if semantics == "meta" else h * w
        path = work / f"case{h}x{w}-{semantics}.safetensors"
        tensors = case(tiles, config["tile_size"], config["in_channels"], seed=1, batch=a.batch, tiles=filled)
        save_file(tensors, str(path))
        pixels[semantics] = path, filled
        del tensors
    print(f"{h}x{w}, batch {a.batch}", file=sys.stderr)
    all_sides, reference, failures = members(a, tiles, pixels, work), references(a, tiles, pixels, work), {}
    rounds = [one_round(a, number, all_sides, reference, failures) for number in range(a.rounds)]
    ran = {label for r in rounds for label in r["sides"]}
    found = {label: summary(rounds, label) for label in all_sides if label in ran}
    if "tilesight torchtune" in found:  # in meta semantics fewer rows are computed, as `tilesight plan` says
        ours, work = found["tilesight torchtune"], flops(config, (a.batch, 1, h * w))
        ours |= {"flops": work, "gflop_per_s": work / ours.get("device_median", ours["best"]) / 1e9}
    agrees = not failures and all(found[name].get("agreement", {}).get("agrees", False) for name in a.peers)
    return {"grid": [h, w], "batch": a.batch, "sides": found, "failures": failures, "agrees": agrees, "rounds": rounds}


def spread(ratio):
    return "{median:.3f} ({min:.3f} to {max:.3f})".format(**ratio) if ratio else ""


def table(a, cases):
    """One line a grid and side."""
    cuda = a.device == "cuda"
    row = "{:<6} {:<31} {:>9} {:>9} {:>9} " + ("{:>10}   {:<24} " if cuda else "{:>8} ") + "{:>8}   {:<24} {}"
    columns = ["on device", "its ratio (range)"] if cuda else ["GFLOP/s"]
    lines = [row.format("grid", "", "best s", "median s", "worst s", *columns, "peak GB", "ratio (range)", "difference")]
    for c in cases:
        name = "x".join(map(str, c["grid"]))
        for label, s in c["sides"].items():
            if cuda:
                told = [f"{s['device_median']:.4g}", spread(s.get("device_ratio"))]
                peak = s.get("peak_device_bytes")
            else:
                told = [f"{s['gflop_per_s']:.0f}" if "gflop_per_s" in s else ""]
                peak = s.get("peak_rss_bytes")
            ratio = spread(s.get("ratio"))
            difference = agreement.told(s.get("agreement")) if ratio else ""
            seconds = (f"{s[k]:.4g}" for k in ("best", "median", "worst"))
            memory = f"{peak / 1e9:.2f}" if peak else ""
            lines.append(row.format(name, label, *seconds, *told, memory, ratio, difference).rstrip())
        lines += [f"{name:<6} {label:<31} failed: {why}" for label, why in c["failures"].items()]
    return "\n".join(lines)


def asked(command):
    """The output of a command that may not be there."""
    try:
        got = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    except OSError:
        return None
    return got.stdout.strip() if got.returncode == 0 else None


def versions(cases):
    found = {}
    for side in (side for c in cases for r in c["rounds"] for side in r["sides"].values()):
        found |= side["report"].get("versions", {})
    return found


def finite(value):
    """The same with null for infinities, which JSON has none of."""
    if isinstance(value, dict):
        return {key: finite(of) for key, of in value.items()}
    if isinstance(value, list):
        return [finite(of) for of in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(a, cases):
    """Everything measured so far."""
    facts = next((side["report"] for c in cases for r in c["rounds"] for label, side in r["sides"].items()
                  if not label.startswith("tilesight ")), {})
    result = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
              "commit": asked(["git", "-C", HERE, "describe", "--always", "--dirty", "--abbrev=12"]),
              "tilesight": asked([a.tilesight, "--version"]), "command": [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]],
              "device": facts.get("device"), "dtype": a.dtype, "cpu": facts.get("cpu"), "threads": a.threads,
              "gpu": asked(["nvidia-smi", f"--query-gpu={GPU_FACTS}", "--format=csv,noheader"]),
              "warmup": a.warmup, "versions": versions(cases), "cases": cases}
    a.json.write_text(json.dumps(finite(result), indent=1, allow_nan=False) + "\n")


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tilesight", type=pathlib.Path, default=TARGET / "release/tilesight", help="(target/release/tilesight)")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(cpu)")
    p.add_argument("--peers", nargs="+", choices=PEERS, default=["torchtune"], help="(torchtune)")
    p.add_argument("--dtype", choices=sides.TILESIGHT_DTYPES, help="(float32 on the CPU, ours has no other; else bfloat16)")
    p.add_argument("--bfloat16-too", action="store_true", help="on the CPU, time each peer in bfloat16 too, unchecked")
    p.add_argument("--compile-mode", default="default", help="torch.compile's mode for the peers that compile (default)")
    p.add_argument("--grids", type=grid, nargs="+", default=[(1, 1), (2, 2)], metavar="HxW", help="(1x1 2x2)")
    p.add_argument("--batch", type=int, default=1, help="pictures encoded together (1)")
    p.add_argument("--preset", default="11b", help="geometry of the random encoder (11b)")
    p.add_argument("--config", type=pathlib.Path, help="the same from a config.json")
    p.add_argument("--tile-size", type=int, help="side of a tile in pixels (the geometry's)")
    p.add_argument("--torchtune-model", type=pathlib.Path, help="checkpoint in torchtune's names (a random one)")
    p.add_argument("--transformers-model", type=pathlib.Path, help="checkpoint in Hugging Face's names (a random one)")
    p.add_argument("--keep", type=pathlib.Path, default=TARGET, help="where a preset's checkpoint is kept (target)")
    p.add_argument("--rounds", type=int, default=3, help="processes of each side and grid (3)")
    p.add_argument("--warmup", type=int, help="uncounted runs of each process (1; 5 on CUDA)")
    p.add_argument("--repeat", type=int, help="timed runs of each process (CPU: 3 for one tile, otherwise 1; 50 on CUDA)")
    p.add_argument("--threads", type=int, help="threads and CPUs of each side (2; all on CUDA)")
    p.add_argument("--ours", nargs=argparse.REMAINDER, default=[], help="what follows goes to `tilesight encode` too")
    p.add_argument("--json", type=pathlib.Path, help="write everything measured there, after each grid")
    a = p.parse_args()
    cuda = a.device == "cuda"
    a.dtype = a.dtype or ("bfloat16" if cuda else "float32")
    if (a.dtype == "float32") == cuda:
        p.error("tilesight computes in float32 on the CPU, in bfloat16 and float16 on CUDA; see --bfloat16-too")
    if a.bfloat16_too and cuda:
        p.error("--bfloat16-too is for the CPU")
    a.warmup = a.warmup if a.warmup is not None else 5 if cuda else 1
    a.threads = a.threads if a.threads is not None else (os.cpu_count() if cuda else 2)
    if min(a.rounds, a.threads, a.batch) < 1 or a.warmup < 0 or (a.repeat is not None and a.repeat < 1):
        p.error("--rounds, --repeat, --batch and --threads start at 1, --warmup at 0")
    if shutil.which(a.tilesight) is None:
        p.error(f"no {a.tilesight}; build it with `cargo build --release` or name it with --tilesight")
    a.cpus = None
    if hasattr(os, "sched_setaffinity") and not cuda:
        a.cpus = set(sorted(os.sched_getaffinity(0))[:a.threads])
        if len(a.cpus) < a.threads:
            p.error(f"only {len(a.cpus)} CPUs for {a.threads} threads")
    return a


def main():
    a = arguments()
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"the machine is busy (load average {load:.1f}); expect noise", file=sys.stderr)
    cases = []
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        try:
            a.models = models(a, work)
        except Failed as failure:
            raise SystemExit(str(failure)) from None
        configs = [encoder_config(model / "config.json") for model in a.models.values()]
        if any(config != configs[0] for config in configs):
            raise SystemExit("the checkpoints are of different encoders")
        a.most_tiles = max(configs[0]["max_num_tiles"], *(h * w for h, w in a.grids))
        for tiles in a.grids:
            cases.append(compare(a, configs[0], tiles, work))
            if a.json:
                write(a, cases)
    known = ", ".join(f"{name} {version}" for name, version in versions(cases).items())
    print(f"{a.device}, {a.threads} threads, {a.dtype}; {known}; rounds: {a.rounds}")
    print(table(a, cases))
    sys.exit(0 if all(c["agrees"] for c in cases) else 1)


if __name__ == "__main__":
    main()
