"""What every peer needs: the encoder's parameters, its weights, its arithmetic, and the facts of a measurement.

Nothing here runs by itself. A peer is a script beside this one that takes --model, --pixels, --output and --json, times
its own forward passes alone, and writes the report of `report` below.
"""
import hashlib
import json
import math
import os
import pathlib
import platform
import resource
import statistics
import time

import numpy as np

NAMES = ("patch_size", "num_heads", "clip_embed_dim", "clip_num_layers", "clip_hidden_states",
         "num_layers_projection", "decoder_embed_dim", "tile_size", "max_num_tiles", "in_channels")
LLAMA_11B = dict(zip(NAMES, (14, 16, 1280, 32, [3, 7, 15, 23, 30], 8, 4096, 560, 4, 3)))
BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "U8": 1, "I8": 1, "BOOL": 1}


def encoder_config(path):
    """The encoder's parameters from a config.json, under "encoder" or bare; without the file, those of the 11B model."""
    path = pathlib.Path(path)
    if not path.exists():
        return dict(LLAMA_11B)
    config = json.loads(path.read_text())
    config = config.get("encoder", config)
    missing = [n for n in NAMES if n not in config]
    if missing:
        raise SystemExit(f"{path}: no {', '.join(missing)}: not a config.json in torchtune's words")
    return {n: config[n] for n in NAMES}


def checkpoint(directory):
    """Each tensor of a checkpoint as (name, dtype, shape, bytes), one at a time and read rather than mapped: mapped
    pages would count towards the process's peak memory, which is measured."""
    files = sorted(pathlib.Path(directory).glob("model*.safetensors"))
    if not files:
        raise SystemExit(f"{directory}: no model*.safetensors")
    for path in files:
        with open(path, "rb") as file:
            start = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(start))
            header.pop("__metadata__", None)
            for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                begin, end = entry["data_offsets"]
                assert end - begin == BYTES[entry["dtype"]] * math.prod(entry["shape"]), name
                data = bytearray(end - begin)
                file.seek(8 + start + begin)
                if file.readinto(data) != len(data):
                    raise SystemExit(f"{path}: ends within {name}")
                yield name, entry["dtype"], entry["shape"], data


def flops(config, images_shape):
    """Floating point operations of one forward pass, multiply and add counted apart; norms, GELU, softmax left out."""
    b, i, t = images_shape[:3]
    d, p, e = config["clip_embed_dim"], config["patch_size"], config["decoder_embed_dim"]
    g = config["tile_size"] // p
    n = len(config["clip_hidden_states"] or [])
    s = t * (g * g + 1)
    layers = config["clip_num_layers"] + config["num_layers_projection"]
    return b * i * (2 * t * g * g * config["in_channels"] * p * p * d + layers * (24 * s * d * d + 4 * s * s * d)
                    + 2 * s * (1 + n) * d * e)


def peak_rss_bytes():
    """VmHWM where the kernel tells it, else getrusage's figure."""
    for line in open("/proc/self/status") if os.path.exists("/proc/self/status") else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_model():
    try:
        lines = open("/proc/cpuinfo").read().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def checksum(array):
    """SHA-256 of the values, and two figures that survive another order of additions."""
    array = np.ascontiguousarray(array)
    return {"sha256": hashlib.sha256(array).hexdigest(), "shape": list(array.shape),
            "mean": float(array.mean(dtype=np.float64)), "rms": float(np.sqrt(np.square(array).mean(dtype=np.float64)))}


def timed(run, warmup, repeat):
    """Seconds of each of `repeat` calls after `warmup` others, the others' seconds, and the last result."""
    seconds, result = [], None
    for _ in range(warmup + repeat):
        result = None  # let the last output go before the next is made
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return seconds[warmup:], seconds[:warmup], result


def report(peer, config, images_shape, dtype, seconds, warmup_seconds, output, **more):
    work = flops(config, images_shape)
    return {"peer": peer, "seconds": seconds, "best": min(seconds), "median": statistics.median(seconds),
            "warmup_seconds": warmup_seconds, "flops": work, "gflop_per_s": work / min(seconds) / 1e9,
            "peak_rss_bytes": peak_rss_bytes(), "dtype": dtype, "images": list(images_shape), "encoder": config,
            "output": output, "cpu": cpu_model(), "python": platform.python_version(), **more}
