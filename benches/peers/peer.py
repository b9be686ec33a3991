"""What each peer's script does around its forward pass: options, weights, clocks, the report.

Nothing here runs by itself. A peer is a script beside this one whose `libraries` imports what it runs on and whose `load`
makes a `Peer` of the options and the case; `main` times its forward passes alone and writes the report.
"""
import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import platform
import resource
import statistics
import time

import torch
from safetensors.torch import load_file, save_file

from encoder import checkpoint, encoder_config

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
BUFFERS = 4  # that the inputs rotate through on a GPU, so that none is in L2 because the last run left it there


@dataclasses.dataclass
class Peer:
    """An implementation of the encoder with its weights."""
    name: str
    model: torch.nn.Module
    inputs: tuple  # the model's arguments in the host's memory: images in float32, and integers
    flops: int
    facts: dict = dataclasses.field(default_factory=dict)  # more for the report


def parser(doc):
    """The options that every peer has."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=pathlib.Path, required=True, help="directory of the checkpoint")
    p.add_argument("--config", type=pathlib.Path, help="config.json (DIR/config.json; the 11B geometry without one)")
    p.add_argument("--pixels", type=pathlib.Path, required=True, help="safetensors file with images and aspect_ratio")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(cpu)")
    p.add_argument("--dtype", choices=DTYPES, help="of weights and activations (float32 on the CPU, bfloat16 on CUDA)")
    p.add_argument("--compile", nargs="?", const="default", metavar="MODE", help="torch.compile the model (mode default)")
    p.add_argument("--threads", type=int, default=2, help="torch's threads (2)")
    p.add_argument("--warmup", type=int, help="runs before the timed ones (1; 5 on CUDA)")
    p.add_argument("--repeat", type=int, help="timed runs (3; 50 on CUDA)")
    p.add_argument("--output", type=pathlib.Path, help="write the embeddings there")
    p.add_argument("--json", type=pathlib.Path, help="write the report there (standard output)")
    return p


def weights(directory, dtype, device, wanted=lambda name: True):
    """The checkpoint's tensors by name in that type on that device, without ever holding two copies of them."""
    return {name: torch.frombuffer(data, dtype=STORED[stored]).reshape(shape).to(device, dtype, copy=True)
            for name, stored, shape, data in checkpoint(directory, wanted)}


def without_weights(make):
    """The module that `make` returns, with parameters that have a shape and no memory: load_state_dict(assign=True) gives
    them the checkpoint's."""
    with torch.device("meta"):
        return make()


@dataclasses.dataclass
class Times:
    """Seconds of each run that counted and of those before them; with copies from and to the host where the device has
    memory of its own; and the last output, in float32 on the host."""
    seconds: list
    warmup_seconds: list
    output: torch.Tensor
    seconds_with_copies: list | None = None
    memory: dict = dataclasses.field(default_factory=dict)


def on_cpu(model, inputs, dtype, warmup, repeat):
    """Pixels in `dtype` in memory to embeddings in `dtype` in memory."""
    images, *integers = inputs
    images, seconds, output = images.to(dtype), [], None
    for _ in range(warmup + repeat):
        output = None  # let the last output go before the next is made
        start = time.perf_counter()
        output = model(images, *integers)
        seconds.append(time.perf_counter() - start)
    memory = {"peak_rss_bytes": peak_rss_bytes()}  # without the copy below
    return Times(seconds[warmup:], seconds[:warmup], output.float(), memory=memory)


def on_cuda(model, inputs, dtype, warmup, repeat):
    """First each forward pass between two events, pixels in `dtype` on the device to embeddings there. Then, by the host's
    clock, from pixels in float32 to embeddings in float32, both in pinned memory of the host, which is the fastest that
    torch can do; types are changed on the device."""
    def move(images, *integers):
        images, *integers = (x.to("cuda", non_blocking=True) for x in (images, *integers))
        return images.to(dtype), *integers

    inputs = [x.pin_memory() for x in inputs]
    buffers = [move(*inputs) for _ in range(BUFFERS)]
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    seconds, output = [], None
    for run in range(warmup + repeat):
        output = None
        begin.record()
        output = model(*buffers[run % BUFFERS])
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) / 1e3)
    memory = {"peak_device_bytes": torch.cuda.max_memory_allocated(),
              "peak_device_reserved_bytes": torch.cuda.max_memory_reserved()}
    host = torch.empty(output.shape, dtype=torch.float32, pin_memory=True)
    with_copies = []
    for _ in range(warmup + repeat):
        output = None
        start = time.perf_counter()
        output = model(*move(*inputs))
        host.copy_(output.float(), non_blocking=True)
        torch.cuda.synchronize()
        with_copies.append(time.perf_counter() - start)
    memory["peak_rss_bytes"] = peak_rss_bytes()
    return Times(seconds[warmup:], seconds[:warmup], host, with_copies[warmup:], memory)


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


def checksum(tensor):
    """SHA-256 of the values, and two figures that survive another order of additions."""
    values = tensor.contiguous().numpy()
    wide = tensor.double()
    return {"sha256": hashlib.sha256(values).hexdigest(), "shape": list(tensor.shape),
            "mean": float(wide.mean()), "rms": float(wide.square().mean().sqrt())}


def spread(seconds):
    return {"best": min(seconds), "median": statistics.median(seconds), "worst": max(seconds)}


def compiled(model, mode):
    """The model under torch.compile; it is compiled by its first run, which a warm-up hides."""
    return torch.compile(model, mode=None if mode == "default" else mode)


def main(p, libraries, load):
    """Loads the peer that the options name, times it, writes its report."""
    a = p.parse_args()
    cuda = a.device == "cuda"
    a.dtype = a.dtype or ("bfloat16" if cuda else "float32")
    a.warmup = a.warmup if a.warmup is not None else 5 if cuda else 1
    a.repeat = a.repeat or (50 if cuda else 3)
    if a.repeat < 1 or a.warmup < 0 or a.threads < 1:
        p.error("--repeat and --threads start at 1, --warmup at 0")
    if cuda and not torch.cuda.is_available():
        p.error(f"torch {torch.__version__} finds no CUDA device")
    torch.set_num_threads(a.threads)
    # float32 means float32: convolutions would otherwise be in TF32 on a GPU.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    versions = {module.__name__: module.__version__ for module in (torch, *libraries())}
    imported = peak_rss_bytes()
    case, config = load_file(a.pixels), encoder_config(a.config or a.model / "config.json")
    peer = load(a, config, case, DTYPES[a.dtype])
    loaded = peak_rss_bytes()
    model = compiled(peer.model, a.compile) if a.compile else peer.model
    with torch.inference_mode():
        times = (on_cuda if cuda else on_cpu)(model, peer.inputs, DTYPES[a.dtype], a.warmup, a.repeat)
    if cuda:
        versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if cuda and a.compile:
        import triton
        versions["triton"] = triton.__version__
    result = {"peer": f"{peer.name} {f'torch.compile, {a.compile}' if a.compile else 'eager'}",
              "device": torch.cuda.get_device_name() if cuda else cpu_model(), "dtype": a.dtype,
              "images": list(peer.inputs[0].shape), "seconds": times.seconds, **spread(times.seconds),
              "warmup_seconds": times.warmup_seconds, "flops": peer.flops,
              "gflop_per_s": peer.flops / min(times.seconds) / 1e9}
    if times.seconds_with_copies:
        result["with_copies"] = {"seconds": times.seconds_with_copies, **spread(times.seconds_with_copies)}
    if a.compile:
        breaks = torch._dynamo.utils.counters["graph_break"]
        result["graph_breaks"] = sum(breaks.values())
    result |= {**times.memory, "peak_rss_after_import_bytes": imported, "peak_rss_after_loading_bytes": loaded,
               **peer.facts, "output": checksum(times.output), "encoder": config, "threads": a.threads,
               "cpu": cpu_model(), "cpu_capability": torch.backends.cpu.get_cpu_capability(), "versions": versions,
               "python": platform.python_version()}
    if a.output:
        save_file({"embeddings": times.output.contiguous()}, str(a.output))
    text = json.dumps(result, indent=1) + "\n"
    if a.json:
        a.json.write_text(text)
    else:
        print(text, end="")
