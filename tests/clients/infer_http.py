"""Triton's own client against a running server: pictures and pixels in, binary tensors out.

    infer_http.py ADDRESS PICTURE...

Every picture alone must give the bytes it gives among the others, and FP16 must be FP32 rounded.
"""

import sys

import numpy as np
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

address, *paths = sys.argv[1:]
client = http.InferenceServerClient(address)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tilesight")
metadata = client.get_model_metadata("tilesight")
assert [tensor["name"] for tensor in metadata["outputs"]] == ["embeddings", "num_tiles", "aspect_ratio"], metadata
assert client.get_model_config("tilesight")["max_batch_size"] == 0


def encode(files, **parameters):
    tensor = http.InferInput("image", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=np.object_))
    return client.infer("tilesight", [tensor], request_id="a", parameters=parameters or None)


files = [open(path, "rb").read() for path in paths]
together = encode(files)
embeddings, num_tiles = together.as_numpy("embeddings"), together.as_numpy("num_tiles")
assert together.get_response()["id"] == "a"
assert embeddings.dtype == np.float32 and num_tiles.shape == (len(files),)
assert (together.as_numpy("aspect_ratio").prod(axis=1) == num_tiles).all()
alone = np.concatenate([encode([file]).as_numpy("embeddings") for file in files])
assert np.array_equal(embeddings, alone)
assert np.array_equal(encode(files, dtype="FP16").as_numpy("embeddings"), embeddings.astype(np.float16))

channels, side = metadata["inputs"][1]["shape"][2:4]
tiles = 4
pixels = http.InferInput("pixels", [1, tiles, channels, side, side], "FP32")
pixels.set_data_from_numpy(np.linspace(-1, 1, tiles * channels * side * side, dtype=np.float32).reshape(pixels.shape()))
aspect_ratio = http.InferInput("aspect_ratio", [1, 2], "INT64")
aspect_ratio.set_data_from_numpy(np.array([[1, 2]]))
result = client.infer("tilesight", [pixels, aspect_ratio])
assert result.as_numpy("num_tiles").tolist() == [tiles]
assert result.as_numpy("embeddings").shape[1] == embeddings.shape[1]

try:
    encode([b"not a picture"])
    raise AssertionError("bytes that are no picture were encoded")
except InferenceServerException as error:
    assert "picture" in str(error), error
assert np.array_equal(encode(files).as_numpy("embeddings"), embeddings)
print(f"tritonclient: {len(files)} pictures, {embeddings.shape} embeddings")
