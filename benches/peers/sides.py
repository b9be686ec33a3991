"""The processes that a comparison times, ours and the peers': started alike, read alike.

A side's measurement is a dict: `seconds` of each counted run from pixels in the host's memory to embeddings there, which is
what all sides have; `device_seconds` of each forward pass alone, where a side on a GPU tells it; `peak_rss_bytes`,
`peak_device_bytes` where told; `report`, all that the process said.
"""
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

from agreement import OF_COMPILED, OF_EAGER

HERE = pathlib.Path(__file__).resolve().parent
TILESIGHT_DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "fp16"}


class Failed(Exception):
    """A process ended badly; the others can go on."""


@dataclasses.dataclass(frozen=True)
class Peer:
    """A way to run a peer, the semantics it has, and how far ours may be off, in the peer's own errors."""
    semantics: str
    script: str
    options: tuple = ()
    compiles: bool = False

    @property
    def error_factor(self):
        return OF_COMPILED if self.compiles else OF_EAGER


PEERS = {
    "torchtune": Peer("torchtune", "torchtune_peer.py"),
    "torchtune-compile": Peer("torchtune", "torchtune_peer.py", compiles=True),
    "transformers": Peer("meta", "transformers_peer.py"),
    "transformers-eager": Peer("meta", "transformers_peer.py", ("--attention", "eager")),
    "transformers-compile": Peer("meta", "transformers_peer.py", compiles=True),
}
# Whose float32 run is the reference in each semantics.
REFERENCES = {"torchtune": "torchtune", "meta": "transformers"}


def run(command, cpus, threads):
    """Runs a process on those CPUs to its end; returns its peak resident set in bytes."""
    env = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads),
           "MKL_NUM_THREADS": str(threads)}
    hold = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
    process = subprocess.Popen([str(c) for c in command], env=env, preexec_fn=hold, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Failed(f"exit status {process.returncode} from: {' '.join(str(c) for c in command)}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def tilesight(a, semantics, pixels, output, repeat):
    """One process of ours."""
    runs, told = a.warmup + repeat, output.with_suffix(".json")
    command = [a.tilesight, "encode", "--model", a.models[semantics], "--semantics", semantics, "--pixels", pixels,
               "--device", a.device, "--dtype", TILESIGHT_DTYPES[a.dtype], "--output", output, "--repeat", runs,
               "--json", told, "--max-batch-tiles", max(8, a.batch * a.most_tiles), *a.ours]
    return read_tilesight(json.loads((run(command, a.cpus, a.threads), told.read_text())[1]), a.warmup, runs)


def read_tilesight(report, warmup, runs):
    """What our report says, in a side's words. Each run goes from pixels in the host's memory to embeddings there."""
    if len(report["seconds"]) != runs:
        raise Failed(f"tilesight reports {len(report['seconds'])} runs, not {runs}")
    if "simulator" in report["device"]:
        raise SystemExit("tilesight ran on a simulated GPU: no time of it means anything")
    return {"seconds": report["seconds"][warmup:], "peak_rss_bytes": report["peak_rss_bytes"], "report": report}


def peer(a, name, pixels, output, repeat, dtype=None):
    """One process of a peer."""
    how, told = PEERS[name], output.with_suffix(".json")
    command = [sys.executable, HERE / how.script, "--model", a.models[how.semantics], "--pixels", pixels, "--device", a.device,
               "--dtype", dtype or a.dtype, "--threads", a.threads, "--warmup", a.warmup, "--repeat", repeat,
               "--output", output, "--json", told, *how.options, *(["--compile", a.compile_mode] if how.compiles else [])]
    run(command, a.cpus, a.threads)
    report = json.loads(told.read_text())
    copies = report.get("with_copies")
    measured = {"seconds": (copies or report)["seconds"], "flops": report["flops"], "report": report}
    if copies:
        measured["device_seconds"] = report["seconds"]
    return measured | {name: report[name] for name in ("peak_rss_bytes", "peak_device_bytes") if name in report}
