"""perf_analyzer against a running server, over HTTP and gRPC.

    perf.py HTTP_ADDRESS GRPC_ADDRESS PICTURE...

It must end well at each load, with throughput in its report, and the server must have refused nothing. What it measures is
printed, and proves nothing: the machine is whatever it is.
"""

import base64
import csv
import glob
import json
import os
import subprocess
import sys
import tempfile
import urllib.request

http_address, grpc_address, *paths = sys.argv[1:]
folder = os.path.dirname(os.path.dirname(os.path.abspath(sys.executable)))
libraries = [f"{folder}/lib", *glob.glob(f"{folder}/lib/python3*/site-packages/nvidia/cuda_runtime/lib")]

LOADS = {
    "HTTP": ["-i", "http", "-u", http_address, "--concurrency-range", "1:4"],
    "gRPC": ["-i", "grpc", "-u", grpc_address, "--concurrency-range", "1:4"],
    "gRPC, streams": ["-i", "grpc", "-u", grpc_address, "--streaming", "--concurrency-range", "4"],
    "HTTP, Poisson": ["-i", "http", "-u", http_address, "--request-rate-range", "200", "--request-distribution", "poisson"],
    "gRPC, Poisson": ["-i", "grpc", "-u", grpc_address, "--request-rate-range", "200", "--request-distribution", "poisson"],
}


def statistics():
    with urllib.request.urlopen(f"http://{http_address}/v2/models/tilesight/stats") as response:
        return json.load(response)["model_stats"][0]


def element(path):
    """A picture as an element of BYTES: its length, and its file."""
    with open(path, "rb") as file:
        picture = file.read()
    element = len(picture).to_bytes(4, "little") + picture
    return {"image": {"content": {"b64": base64.b64encode(element).decode()}, "shape": [1]}}


with tempfile.TemporaryDirectory() as work:
    data, report = f"{work}/data.json", f"{work}/report.csv"
    with open(data, "w") as file:
        json.dump({"data": [element(path) for path in paths]}, file)
    # Windows of a tenth of a second: whether it runs is tested, not how fast.
    command = [f"{folder}/bin/perf_analyzer", "-m", "tilesight", "--input-data", data, "-f", report]
    command += ["--measurement-interval", "100", "--stability-percentage", "1000"]
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}
    for name, load in LOADS.items():
        before = statistics()
        run = subprocess.run(command + load, env=environment, capture_output=True, text=True, timeout=1200)
        assert run.returncode == 0, f"{name}: {run.stdout}{run.stderr}"
        after = statistics()
        with open(report) as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == (4 if "1:4" in load else 1), rows
        assert all(float(row["Inferences/Second"]) > 0 and float(row["Server Compute Infer"]) > 0 for row in rows), rows
        assert after["inference_count"] > before["inference_count"] and after["execution_count"] > before["execution_count"]
        assert after["inference_stats"]["fail"] == before["inference_stats"]["fail"], after
        print(f"perf_analyzer, {name}:", ", ".join(f"{float(row['Inferences/Second']):.0f}/s" for row in rows))
