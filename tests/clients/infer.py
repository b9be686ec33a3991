"""Triton's own clients against a running server, over HTTP and gRPC: pictures and pixels in, tensors out.

    infer.py HTTP_ADDRESS GRPC_ADDRESS EMBEDDINGS.safetensors PICTURE...

The embeddings are `tilesight encode`'s of the same pictures. Both protocols must give just those, every picture alone what
it gives among the others, and FP16 and BF16 what FP32 rounds to.
"""

import queue
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.http
from embeddings import read_embeddings
from tritonclient.utils import InferenceServerException

http_address, grpc_address, expected_path, *paths = sys.argv[1:]
MODEL = "tilesight"
files = [open(path, "rb").read() for path in paths]


def round_to_bf16(values):
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


class Protocol:
    """One of the clients, and what differs between them."""

    def __init__(self, module, address):
        self.module, self.client = module, module.InferenceServerClient(address)
        self.is_grpc = module is tritonclient.grpc

    def ask(self, name, *arguments):
        asked = getattr(self.client, name)
        return asked(*arguments, as_json=True) if self.is_grpc else asked(*arguments)

    def input(self, name, datatype, values):
        tensor = self.module.InferInput(name, list(values.shape), datatype)
        tensor.set_data_from_numpy(values)
        return tensor

    def images(self, files):
        return self.input("image", "BYTES", np.array(files, dtype=np.object_))

    def encode(self, files, **parameters):
        return self.client.infer(MODEL, [self.images(files)], request_id="a", parameters=parameters or None)

    def pixels(self, values, datatype, ratio):
        tensors = [self.input("pixels", datatype, values), self.input("aspect_ratio", "INT64", np.array([ratio]))]
        wanted = [self.module.InferRequestedOutput(name) for name in ("num_tiles", "embeddings")]
        return self.client.infer(MODEL, tensors, model_version="1", outputs=wanted)

    def refuses(self, reason, call):
        error = self.error(reason, call)
        assert reason in str(error), error

    def error(self, reason, call):
        try:
            call()
        except InferenceServerException as error:
            return error
        raise AssertionError(f"accepted, though {reason}")


def check(protocol, expected):
    client = protocol.client
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("other")
    assert "statistics" in protocol.ask("get_server_metadata")["extensions"]
    metadata = protocol.ask("get_model_metadata", MODEL)
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["embeddings", "num_tiles", "aspect_ratio"], metadata
    config = protocol.ask("get_model_config", MODEL)
    config = config["config"] if protocol.is_grpc else config
    assert [tensor["data_type"] for tensor in config["input"]] == ["TYPE_STRING", "TYPE_FP32", "TYPE_INT64"], config
    index = protocol.ask("get_model_repository_index")
    index = index["models"] if protocol.is_grpc else index
    assert [(model["name"], model["state"]) for model in index] == [(MODEL, "READY")], index

    together = protocol.encode(files)
    embeddings, num_tiles = together.as_numpy("embeddings"), together.as_numpy("num_tiles")
    response = together.get_response(as_json=True) if protocol.is_grpc else together.get_response()
    assert response["id"] == "a" and len(response["parameters"]) == 1
    assert embeddings.dtype == np.float32 and np.array_equal(embeddings, expected)
    assert (together.as_numpy("aspect_ratio").prod(axis=1) == num_tiles).all() and num_tiles.shape == (len(files),)
    alone = np.concatenate([protocol.encode([file]).as_numpy("embeddings") for file in files])
    assert np.array_equal(embeddings, alone)
    assert np.array_equal(protocol.encode(files, dtype="FP16").as_numpy("embeddings"), embeddings.astype(np.float16))
    assert np.array_equal(protocol.encode(files, dtype="BF16").as_numpy("embeddings"), round_to_bf16(embeddings))

    channels, side = (int(size) for size in metadata["inputs"][1]["shape"][2:4])
    tiles = 4
    # Values that FP16 and BF16 hold, so that all three give the same.
    values = (np.arange(tiles * channels * side * side, dtype=np.float32) % 97 / 64 - 0.75).reshape(1, tiles, channels, side, side)
    results = []
    for datatype, typed in [("FP32", values), ("FP16", values.astype(np.float16)), ("BF16", values)]:
        result = protocol.pixels(typed, datatype, (1, 2))
        assert result.as_numpy("num_tiles").tolist() == [tiles]
        results.append(result.as_numpy("embeddings"))
    assert results[0].shape[1] == embeddings.shape[1]
    assert all(np.array_equal(results[0], other) for other in results[1:])
    assert not np.array_equal(results[0], protocol.pixels(values, "FP32", (2, 1)).as_numpy("embeddings"))

    protocol.refuses("picture", lambda: protocol.encode([b"not a picture"]))
    protocol.refuses("dtype", lambda: protocol.encode(files, dtype="INT8"))
    protocol.refuses("aspect_ratio", lambda: protocol.pixels(values, "FP32", (1, 2, 3)))
    protocol.refuses("FP32", lambda: protocol.pixels(values.astype(np.int64), "INT64", (1, 2)))
    protocol.refuses("other", lambda: client.infer("other", [protocol.images(files)]))
    protocol.refuses("version", lambda: client.infer(MODEL, [protocol.images(files)], model_version="2"))
    assert np.array_equal(protocol.encode(files).as_numpy("embeddings"), embeddings)

    statistics = protocol.ask("get_inference_statistics", MODEL)["model_stats"][0]
    stats = statistics["inference_stats"]
    assert int(stats["success"]["count"]) == int(statistics["inference_count"]) >= 8 + len(files), statistics
    assert int(stats["fail"]["count"]) >= 4 and int(stats["compute_infer"]["ns"]) > 0, statistics
    return embeddings, results[0]


def check_stream(protocol, expected):
    """gRPC's streams: answers come in turn, and a refusal ends none."""
    answers = queue.Queue()
    protocol.client.start_stream(lambda result, error: answers.put((result, error)))
    for contents in (files, [b"not a picture"], files):
        protocol.client.async_stream_infer(MODEL, [protocol.images(contents)])
    for is_good in (True, False, True):
        result, error = answers.get(timeout=600)
        assert (error is None) == is_good, error
        assert not is_good or np.array_equal(result.as_numpy("embeddings"), expected)
    protocol.client.stop_stream()


expected = read_embeddings(expected_path)
grpc = Protocol(tritonclient.grpc, grpc_address)
over_http = check(Protocol(tritonclient.http, http_address), expected)
over_grpc = check(grpc, expected)
assert all(np.array_equal(one, other) for one, other in zip(over_http, over_grpc))
check_stream(grpc, expected)
grpc.refuses("compression", lambda: grpc.client.infer(MODEL, [grpc.images(files)], compression_algorithm="gzip"))
# The status alone: the words are the server's or the client's, whoever sees first that the time has passed.
late = grpc.error("late", lambda: grpc.client.infer(MODEL, [grpc.images(files * 200)], client_timeout=0.005))
assert late.status() == "StatusCode.DEADLINE_EXCEEDED", late
print(f"tritonclient, HTTP and gRPC: {len(files)} pictures, {expected.shape} embeddings")
