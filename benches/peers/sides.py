"""The processes that a comparison times, ours and the peers': started alike, read alike.

A side's measurement is a dict: `seconds` of each counted run from pixels in the host's memory to embeddings there, which is
what all sides have; on a GPU `device_seconds` of the forward passes there alone, by its events (of ours, their median);
`peak_rss_bytes`, `peak_device_bytes` where told; `report`, all that the process said, and of ours on a GPU `bench`.
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
BENCH_SECONDS = 3  # a hundred passes where one takes 30 ms, as four tiles of the 11B encoder may


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
    """Runs a process on those CPUs to its end."""
    env = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads),
           "MKL_NUM_THREADS": str(threads)}
    command = [str(word) for word in command]
    hold = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
    status = subprocess.run(command, env=env, preexec_fn=hold, stdout=sys.stderr).returncode
    if status:
        raise Failed(f"exit status {status} from: {' '.join(command)}")


def tilesight(a, semantics, tiles, pixels, output, repeat):
    """Ours: a process that encodes the pixels; on a GPU then one of `tilesight bench`, which has the times of the device's
    own events and its memory, on noise of the same grid."""
    def json_of(command, path, *options):
        run([a.tilesight, *command, "--model", a.models[semantics], "--semantics", semantics, "--device", a.device,
             "--dtype", TILESIGHT_DTYPES[a.dtype], "--max-batch-tiles", a.batch * a.most_tiles, "--json", path, *options,
             *a.ours], a.cpus, a.threads)
        return json.loads(path.read_text())

    runs = a.warmup + repeat
    encode = json_of(["encode", "--pixels", pixels], output.with_suffix(".json"), "--output", output, "--repeat", runs)
    bench = None
    if a.device == "cuda":
        scenario = ["--scenario", "multi", "--images-per-query", a.batch] if a.batch > 1 else ["--scenario", "single"]
        grid = f"{tiles[1]}x{tiles[0]}"  # that command names tiles across first
        path = output.with_suffix(".bench.json")
        bench = json_of(["bench", *scenario, "--tiles", grid, "--duration", BENCH_SECONDS], path)
    return read_tilesight(encode, bench, a.warmup, runs)


def read_tilesight(encode, bench, warmup, runs):
    """What our reports say, in a side's words."""
    if len(encode["seconds"]) != runs:
        raise Failed(f"tilesight reports {len(encode['seconds'])} runs, not {runs}")
    if "simulator" in encode["device"]:
        raise SystemExit("tilesight ran on a simulated GPU: no time of it means anything")
    found = {"seconds": encode["seconds"][warmup:], "peak_rss_bytes": encode["peak_rss_bytes"], "report": encode}
    if bench:
        found |= {"device_seconds": [bench["stages"]["gpu"]["p50"]], "peak_device_bytes": sum(bench["device_bytes"]),
                  "bench": bench}
    return {name: value for name, value in found.items() if value is not None}


def peer(a, name, _tiles, pixels, output, repeat, dtype=None):
    """One process of a peer."""
    how, told = PEERS[name], output.with_suffix(".json")
    compiling = ["--compile", a.compile_mode] if how.compiles else []
    run([sys.executable, HERE / how.script, "--model", a.models[how.semantics], "--pixels", pixels, "--device", a.device,
         "--dtype", dtype or a.dtype, "--threads", a.threads, "--warmup", a.warmup, "--repeat", repeat,
         "--output", output, "--json", told, *how.options, *compiling], a.cpus, a.threads)
    report = json.loads(told.read_text())
    copies = report.get("with_copies")
    measured = {"seconds": (copies or report)["seconds"], "flops": report["flops"], "report": report}
    if copies:
        measured["device_seconds"] = report["seconds"]
    return measured | {name: report[name] for name in ("peak_rss_bytes", "peak_device_bytes") if name in report}
