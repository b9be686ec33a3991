"""Asks a running server for the embeddings of pictures, and of pixels that are tiles already: numpy in, numpy out.

    client.py [--address 127.0.0.1:8000] [--dtype FP32|FP16|BF16] [--output OUT.npz] PICTURE...

The standard library and numpy are enough: a request of the Open Inference Protocol (v2) is a JSON object that names its
tensors, followed by their bytes; so is an answer. A 4-tile picture of the 11B model is 52 MB in FP16, which nobody wants as
JSON numbers.
"""

import argparse
import http.client
import json

import numpy

#: The protocol's names of types. numpy has no bfloat16: it comes as bits, and `widen` makes numbers of them.
DTYPES = {"FP32": numpy.float32, "FP16": numpy.float16, "BF16": numpy.uint16, "INT64": numpy.int64}


class Refused(Exception):
    """The server's refusal: its status, and its reason."""


class Client:
    """A connection to a server, kept between requests."""

    def __init__(self, address, model="tilesight"):
        self._connection = http.client.HTTPConnection(address)
        self._path = f"/v2/models/{model}/infer"

    def encode(self, files, dtype="FP32"):
        """Encodes pictures, given as the bytes of their files: for each its embeddings, [tiles * tokens, width]."""
        elements = b"".join(len(file).to_bytes(4, "little") + file for file in files)
        tensors = [(dict(name="image", datatype="BYTES", shape=[len(files)]), elements)]
        return self._embeddings(self._ask(tensors, dtype))

    def encode_pixels(self, pixels, aspect_ratio, dtype="FP32"):
        """Encodes tiles, [n, tiles, 3, s, s] in float32 or float16, of pictures that have [n, 2] tiles down and across: the
        same, rows of padding tiles included."""
        pixels = numpy.ascontiguousarray(pixels)
        aspect_ratio = numpy.ascontiguousarray(aspect_ratio, numpy.int64)
        name = {numpy.dtype(numpy.float32): "FP32", numpy.dtype(numpy.float16): "FP16"}[pixels.dtype]
        tensors = [
            (dict(name="pixels", datatype=name, shape=list(pixels.shape)), pixels.tobytes()),
            (dict(name="aspect_ratio", datatype="INT64", shape=list(aspect_ratio.shape)), aspect_ratio.tobytes()),
        ]
        return self._embeddings(self._ask(tensors, dtype))

    def _ask(self, tensors, dtype):
        """Sends tensors, and gives the answer's by name."""
        inputs = [{**about, "parameters": {"binary_data_size": len(data)}} for about, data in tensors]
        wanted = {"dtype": dtype, "binary_data_output": True}
        head = json.dumps({"inputs": inputs, "parameters": wanted}).encode()
        body = b"".join([head, *[data for _, data in tensors]])
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        self._connection.request("POST", self._path, body, headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise Refused(f"{answer.status}: {json.loads(data)['error']}")
        length = int(answer.headers["Inference-Header-Content-Length"])
        outputs, at = {}, length
        for about in json.loads(data[:length])["outputs"]:
            size = about["parameters"]["binary_data_size"]
            values = numpy.frombuffer(data[at : at + size], DTYPES[about["datatype"]])
            outputs[about["name"]] = values.reshape(about["shape"])
            at += size
        return outputs

    @staticmethod
    def _embeddings(outputs):
        """Each picture's rows: they lie one after another."""
        embeddings, num_tiles = outputs["embeddings"], outputs["num_tiles"]
        tokens = len(embeddings) // int(num_tiles.sum())
        return numpy.split(embeddings, numpy.cumsum(num_tiles)[:-1] * tokens)


def widen(bits):
    """bfloat16, which is the upper half of float32."""
    return (bits.astype(numpy.uint32) << 16).view(numpy.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="127.0.0.1:8000", help="where the server listens for HTTP (127.0.0.1:8000)")
    parser.add_argument("--dtype", default="FP32", choices=["FP32", "FP16", "BF16"], help="the embeddings' type (FP32)")
    parser.add_argument("--output", help="an .npz file for the embeddings, under the pictures' numbers; BF16 as bits")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="a JPEG, PNG or WebP file")
    arguments = parser.parse_args()
    files = [open(path, "rb").read() for path in arguments.pictures]
    embeddings = Client(arguments.address).encode(files, arguments.dtype)
    for path, rows in zip(arguments.pictures, embeddings):
        print(f"{path}: {len(rows)} embeddings of {rows.shape[1]} values")
    if arguments.output:
        numpy.savez(arguments.output, **{str(number): rows for number, rows in enumerate(embeddings)})


if __name__ == "__main__":
    main()
