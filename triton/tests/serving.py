"""A Triton Inference Server of its own for each test, its clients, and what `tilesight encode` gives of the same pictures."""

import json
import os
import signal
import socket
import struct
import subprocess
import tempfile
import time

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException


def read_tensors(path):
    """A safetensors file's tensors, by name."""
    types = {"F64": np.float64, "F32": np.float32, "I64": np.int64, "U8": np.uint8, "BF16": np.uint16, "F16": np.float16}
    with open(path, "rb") as file:
        data = file.read()
    head = 8 + struct.unpack("<Q", data[:8])[0]
    tensors = {}
    for name, tensor in json.loads(data[8:head]).items():
        if name != "__metadata__":
            begin, end = (head + offset for offset in tensor["data_offsets"])
            tensors[name] = np.frombuffer(data[begin:end], types[tensor["dtype"]]).reshape(tensor["shape"])
    return tensors


def round_to_bf16(values):
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


class Tilesight:
    """The command line, which says what must come out."""

    def __init__(self, program):
        self.program = program

    def run(self, *arguments):
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/out.safetensors"
            subprocess.run([self.program, *arguments, "--output", path], check=True, capture_output=True)
            return read_tensors(path)

    def encode(self, model, pictures):
        """Of each picture its embeddings and its aspect ratio."""
        out = self.run("encode", "--device", "cpu", *(["--model", model] if model else []), *pictures)
        embeddings = out["embeddings"]
        tokens = len(embeddings) // out["num_tiles"].sum()
        return np.split(embeddings, np.cumsum(out["num_tiles"])[:-1] * tokens), out["aspect_ratio"]

    def tiles(self, model, picture):
        out = self.run("tiles", "--model", model, picture)
        return out["image0.pixels"], out["image0.aspect_ratio"]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """tritonserver over a repository, in which models are loaded by name."""

    def __init__(self, program, backends, models, *options, **environment):
        self.log_path = f"{models}.log"
        ports = [free_port() for _ in range(2)]
        self.http_address, self.grpc_address = (f"127.0.0.1:{port}" for port in ports)
        command = [program, "--model-repository", models, "--backend-directory", backends]
        command += ["--model-control-mode", "explicit", "--allow-metrics", "false", "--http-address", "127.0.0.1"]
        command += ["--grpc-address", "127.0.0.1", "--http-port", str(ports[0]), "--grpc-port", str(ports[1])]
        command += options
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
        self.http = tritonclient.http.InferenceServerClient(self.http_address, concurrency=32, network_timeout=600)
        self.grpc = tritonclient.grpc.InferenceServerClient(self.grpc_address)
        for _ in range(3000):
            try:
                if self.http.is_server_live() and self.grpc.is_server_live():
                    return
            except (OSError, InferenceServerException):
                pass
            assert self.process.poll() is None, self.log()
            time.sleep(0.1)
        raise AssertionError(self.log())

    def log(self):
        with open(self.log_path) as log:
            return log.read()

    def stop(self):
        """Ends it as its operator would; a backend that breaks on the way out shows in the status."""
        # The server waits for connections, those that are idle too.
        self.http.close()
        self.grpc.close()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(300)
        assert status == 0, f"the server ended with {status}: {self.log()}"

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind:
            print(self.log())
            self.process.kill()
        else:
            self.stop()

    def statistics(self, model):
        return self.http.get_inference_statistics(model)["model_stats"][0]

    def resident(self):
        """Bytes of memory of the process, and how many threads it has."""
        with open(f"/proc/{self.process.pid}/statm") as statm:
            pages = int(statm.read().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{self.process.pid}/task"))


class Protocol:
    """HTTP or gRPC."""

    def __init__(self, server, name):
        self.name, self.module = name, getattr(tritonclient, name)
        self.client = getattr(server, name)

    def input(self, name, datatype, values):
        tensor = self.module.InferInput(name, list(values.shape), datatype)
        tensor.set_data_from_numpy(values)
        return tensor

    def images(self, files):
        return self.input("image", "BYTES", np.array(files, dtype=np.object_).reshape(len(files), 1))

    def infer(self, model, inputs, wanted=(), **options):
        outputs = [self.module.InferRequestedOutput(name) for name in wanted] or None
        return self.client.infer(model, inputs, outputs=outputs, **options)

    def pixels(self, model, values, datatype, ratios=None, **options):
        inputs = [self.input("pixels", datatype, values)]
        if ratios is not None:
            inputs.append(self.input("aspect_ratio", "INT64", np.array(ratios, dtype=np.int64)))
        return self.infer(model, inputs, **options)

    def refuses(self, reason, call):
        try:
            call()
        except InferenceServerException as error:
            assert reason in str(error), f"{self.name}: {error}"
        else:
            raise AssertionError(f"{self.name}: accepted, though {reason}")
