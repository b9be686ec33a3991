"""The example client against a running server: `tilesight encode`'s embeddings in every type, and refusals.

    example.py HTTP_ADDRESS EMBEDDINGS.safetensors PICTURE...     EMBEDDINGS: what `tilesight encode` wrote for the pictures
"""

import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))
import client


def read_embeddings(path):
    data = pathlib.Path(path).read_bytes()
    (head,) = struct.unpack("<Q", data[:8])
    tensor = json.loads(data[8 : 8 + head])["embeddings"]
    begin, end = tensor["data_offsets"]
    return numpy.frombuffer(data[8 + head + begin : 8 + head + end], numpy.float32).reshape(tensor["shape"])


def refused(says, call):
    try:
        call()
    except client.Refused as refusal:
        assert says in str(refusal), refusal
        return
    raise AssertionError(f"not refused: {says}")


def main(address, expected, *paths):
    expected = read_embeddings(expected)
    files = [pathlib.Path(path).read_bytes() for path in paths]
    server = client.Client(address)
    found = server.encode(files)
    assert len(found) == len(files) and (numpy.concatenate(found) == expected).all()
    assert (server.encode(files[:1])[0] == found[0]).all()
    half = numpy.concatenate(server.encode(files, "FP16"))
    assert half.dtype == numpy.float16 and (half == expected.astype(numpy.float16)).all()
    bits = numpy.concatenate(server.encode(files, "BF16"))
    away = numpy.abs(client.widen(bits) - expected)
    assert bits.dtype == numpy.uint16 and (away <= numpy.abs(expected) / 256).all() and away.any()

    pixels = numpy.random.default_rng(3).integers(-16, 16, (2, 4, 3, 28, 28)).astype(numpy.float32) / 8
    ratios = [[1, 2], [2, 2]]
    whole = server.encode_pixels(pixels, ratios)
    assert [rows.shape for rows in whole] == [(4 * 5, expected.shape[1])] * 2
    assert all((a == b).all() for a, b in zip(whole, server.encode_pixels(pixels.astype(numpy.float16), ratios)))
    assert (server.encode_pixels(pixels, [[2, 1], [2, 2]])[0] != whole[0]).any()

    refused("415: image: not a JPEG", lambda: server.encode([b"not a picture"]))
    refused("aspect_ratio", lambda: server.encode_pixels(pixels, [[1, 2]]))
    refused("404", lambda: client.Client(address, "other").encode(files))
    assert (server.encode(files)[0] == found[0]).all()

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/embeddings.npz"
        command = [sys.executable, EXAMPLES / "client.py", "--address", address, "--output", path, *paths]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert said.count(f" embeddings of {expected.shape[1]} values\n") == len(paths), said
        with numpy.load(path) as written:
            assert (numpy.concatenate([written[str(number)] for number in range(len(paths))]) == expected).all()
    print(f"the example client: {len(files)} pictures, {expected.shape} embeddings")


main(*sys.argv[1:])
