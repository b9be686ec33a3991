"""Triton's own clients and their shared memory against a running server, over HTTP and gRPC.

    shared_memory.py HTTP_ADDRESS GRPC_ADDRESS EMBEDDINGS.safetensors PICTURE...

The server was started with `--shared-memory-regions`; the embeddings are `tilesight encode`'s of the same pictures. They must
come back in the clients' memory, whether pictures or pixels went there.
"""

import os
import sys
import warnings

import numpy as np
import tritonclient.grpc
import tritonclient.http
from embeddings import read_embeddings
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

# The client finds its library by a package that is no longer liked.
warnings.filterwarnings("ignore", message="pkg_resources")
import tritonclient.utils.shared_memory as shm

http_address, grpc_address, expected_path, *paths = sys.argv[1:]
MODEL = "tilesight"
files = np.array([open(path, "rb").read() for path in paths], dtype=np.object_)


class Region:
    """An object of the client's, registered at the server while the block lasts."""

    def __init__(self, client, name, byte_size):
        self.client, self.name, self.byte_size = client, name, byte_size

    def __enter__(self):
        key = f"/tilesight-{os.getpid()}-{self.name}"
        self.handle = shm.create_shared_memory_region(self.name, key, self.byte_size)
        self.client.register_system_shared_memory(self.name, key, self.byte_size)
        return self

    def __exit__(self, *_):
        self.client.unregister_system_shared_memory(self.name)
        shm.destroy_shared_memory_region(self.handle)


def registered(client, is_grpc):
    status = client.get_system_shared_memory_status(**({"as_json": True} if is_grpc else {}))
    return sorted(status.get("regions", {}) if is_grpc else (region["name"] for region in status))


def check(module, address, expected):
    is_grpc = module is tritonclient.grpc
    client = module.InferenceServerClient(address)
    client.unregister_system_shared_memory()
    metadata = client.get_server_metadata(**({"as_json": True} if is_grpc else {}))
    assert "system_shared_memory" in metadata["extensions"], metadata

    def infer(inputs, outputs, **parameters):
        return client.infer(MODEL, inputs, outputs=outputs, parameters=parameters or None)

    def output(name, region=None, byte_size=0, offset=0):
        output = module.InferRequestedOutput(name)
        if region:
            output.set_shared_memory(region.name, byte_size, offset)
        return output

    element = serialize_byte_tensor(files)
    with Region(client, "in", len(element.item())) as source, Region(client, "out", expected.nbytes + 64) as target:
        assert registered(client, is_grpc) == ["in", "out"]
        shm.set_shared_memory_region(source.handle, [element])
        image = module.InferInput("image", [len(files)], "BYTES")
        image.set_shared_memory(source.name, source.byte_size)
        # The output without bytes comes first: over gRPC the clients look for one's bytes at its place among all.
        outputs = [output("embeddings", target, expected.nbytes, offset=64), output("num_tiles")]
        result = infer([image], outputs)
        assert np.array_equal(shm.get_contents_as_numpy(target.handle, np.float32, expected.shape, 64), expected)
        assert result.as_numpy("num_tiles").shape == (len(files),)
        told = result.get_output("embeddings")
        assert "shared_memory_region" in (told.parameters if is_grpc else told["parameters"]), told

        infer([image], outputs[:1], dtype="FP16")
        halves = shm.get_contents_as_numpy(target.handle, np.float16, expected.shape, 64)
        assert np.array_equal(halves, expected.astype(np.float16))

        try:
            infer([image], [output("embeddings", target, expected.nbytes - 1)])
        except InferenceServerException as error:
            assert "its shared memory has" in str(error), error
        else:
            raise AssertionError("embeddings were put where they have no room")

    model = client.get_model_metadata(MODEL, **({"as_json": True} if is_grpc else {}))
    channels, side = (int(size) for size in model["inputs"][1]["shape"][2:4])
    values = (np.arange(4 * channels * side * side, dtype=np.float32) % 97 / 64 - 0.75).reshape(1, 4, channels, side, side)
    ratio = module.InferInput("aspect_ratio", [1, 2], "INT64")
    ratio.set_data_from_numpy(np.array([(1, 2)]))
    pixels = module.InferInput("pixels", list(values.shape), "FP32")
    pixels.set_data_from_numpy(values)
    sent = infer([pixels, ratio], None).as_numpy("embeddings")
    with Region(client, "pixels", values.nbytes) as source:
        shm.set_shared_memory_region(source.handle, [values])
        pixels.set_shared_memory(source.name, values.nbytes)
        assert np.array_equal(infer([pixels, ratio], None).as_numpy("embeddings"), sent)
    assert registered(client, is_grpc) == []


expected = read_embeddings(expected_path)
check(tritonclient.http, http_address, expected)
check(tritonclient.grpc, grpc_address, expected)
print(f"tritonclient's shared memory, HTTP and gRPC: {len(files)} pictures in, {expected.shape} embeddings out")
