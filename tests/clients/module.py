"""The Python module against the command line: the same embeddings, and refusals that say what they are.

    module.py MODEL EMBEDDINGS IMAGE...      EMBEDDINGS: what `tilesight encode --output` wrote for the images
"""

import ctypes
import json
import os
import pathlib
import struct
import sys
import threading

import numpy

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "capi/python"))
import tilesight


def read(path):
    """The f32 embeddings and the number of tiles in a safetensors file."""
    data = pathlib.Path(path).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])

    def tensor(name, dtype):
        begin, end = header[name]["data_offsets"]
        return numpy.frombuffer(data[8 + size + begin : 8 + size + end], dtype).reshape(header[name]["shape"])

    return tensor("embeddings", numpy.float32), tensor("num_tiles", numpy.int64)


class Bfloat16:
    """Upper halves of float32, as a library that knows bfloat16 hands them over: numpy does not."""

    def __init__(self, values):
        self._halves = (values.view(numpy.uint32) >> 16).astype(numpy.uint16)
        self._shape = (ctypes.c_int64 * values.ndim)(*values.shape)
        self._described = tilesight._DLTensor(data=self._halves.ctypes.data, device_type=1, ndim=values.ndim, code=4,
                                              bits=16, lanes=1, shape=self._shape)  # fmt: skip

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self):
        make = ctypes.pythonapi.PyCapsule_New
        make.argtypes, make.restype = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p], ctypes.py_object
        return make(ctypes.addressof(self._described), b"dltensor", None)

    def widened(self):
        return (self._halves.astype(numpy.uint32) << 16).view(numpy.float32)


def refused(kind, says, call):
    try:
        call()
    except (tilesight.Error, TypeError, ValueError) as error:
        assert getattr(error, "status", type(error).__name__) == kind and says in str(error), (kind, error)
        return
    raise AssertionError(f"not refused: {kind}")


def refused_in_a_child(model, encoder, picture):
    """A child of fork() is refused, and its copy of an encoder is closed without a word."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for call in (lambda: encoder.encode(picture), lambda: tilesight.Encoder(model), lambda: tilesight.Encoder()):
                try:
                    call()
                except tilesight.ForkedError as error:
                    assert error.status == "forked" and "fork()" in str(error)
                else:
                    raise AssertionError("a child is served")
            encoder.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def main(model, expected, *paths):
    embeddings, num_tiles = read(expected)
    pictures = [pathlib.Path(path).read_bytes() for path in paths]
    with tilesight.Encoder(model, device="cpu") as encoder:
        measured = [encoder.measure(picture) for picture in pictures]
        assert [p.tiles_down * p.tiles_across for p in measured] == list(num_tiles)
        found = encoder.encode(pictures)
        assert [len(rows) for rows in found] == [p.num_rows for p in measured]
        assert (numpy.concatenate(found) == embeddings).all()
        assert encoder.encode([]) == []
        # A picture is the bytes of a file, its path, or an open file; alone or in a list.
        with open(paths[0], "rb") as file:
            for one in (paths[0], pathlib.Path(paths[0]), file, bytearray(pictures[0]), memoryview(pictures[0])):
                assert (encoder.encode(one) == found[0]).all()
        assert (encoder.encode([paths[0], pictures[-1]])[1] == found[-1]).all()
        for other in (1, [1], [pictures[0], None], numpy.zeros((2, 2, 3), numpy.uint8)):
            refused("TypeError", "", lambda: encoder.encode(other))

        side, tiles = encoder.tile_size, encoder.max_num_tiles
        pixels = numpy.random.default_rng(1).standard_normal((1, 2, tiles, 3, side, side), numpy.float32)
        ratios = [[[1, 2], [1, 1]]]
        whole = encoder.encode_pixels(pixels, ratios)
        assert whole.shape == (1, 2 * tiles * encoder.num_tokens, encoder.embed_dim)
        # Through bytes that another library would hand over, and as half precision.
        half = pixels.astype(numpy.float16)
        rounded = encoder.encode_pixels(half.astype(numpy.float32), ratios)
        assert (encoder.encode_pixels(half, ratios) == rounded).all() and (rounded != whole).any()
        halves = Bfloat16(pixels)
        upper = encoder.encode_pixels(halves.widened(), ratios)
        assert (encoder.encode_pixels(halves, ratios) == upper).all() and (upper != whole).any() and (upper != rounded).any()
        frozen = pixels.copy()
        frozen.flags.writeable = False
        assert (encoder.encode_pixels(frozen, ratios) == whole).all()

        failures = []

        def again():
            if not (encoder.encode_pixels(pixels, ratios) == whole).all():
                failures.append("other embeddings in a thread")

        threads = [threading.Thread(target=again) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not failures, failures

        refused("image", "", lambda: encoder.measure(b"no picture"))
        refused("image", "", lambda: encoder.encode([pictures[0], b"\x89PNG"]))
        refused("input", "aspect_ratio", lambda: encoder.encode_pixels(pixels))
        refused("ValueError", "contiguous", lambda: encoder.encode_pixels(pixels[..., ::-1], ratios))
        refused("ValueError", "[b, i, t", lambda: encoder.encode_pixels(pixels[0], ratios))
        refused("ValueError", "at least one", lambda: encoder.encode_pixels(pixels[:, :0], ratios))
        # The library would read as many ratios as there are images.
        for wrong in ([[[1, 2]]], [[1, 2], [1, 1]], [[[1, 2], [1, 1], [1, 1]]], [[[1.0, 2.0], [1.0, 1.0]]], [], 1):
            refused("ValueError", "[1, 2, 2]", lambda: encoder.encode_pixels(pixels, wrong))
        refused("TypeError", "float32", lambda: encoder.encode_pixels(pixels.astype(numpy.float64), ratios))
        refused("TypeError", "DLPack", lambda: encoder.encode_pixels([1.0], ratios))
        refused("ValueError", "GPU's memory", lambda: encoder.enqueue_pixels(pixels, whole, ratios, stream=None))
        identity = encoder.identity
        refused_in_a_child(model, encoder, pictures[0])
        assert (encoder.encode(pictures[0]) == found[0]).all()
    refused("invalid handle", "no encoder", lambda: encoder.measure(pictures[0]))
    refused("checkpoint", "/nowhere", lambda: tilesight.Encoder("/nowhere"))
    for count in (-1, 1 << 32):
        refused("ValueError", "threads", lambda: tilesight.Encoder(model, threads=count))
        refused("ValueError", "max_batch_tiles", lambda: tilesight.Encoder(model, max_batch_tiles=count))
    refused("unavailable", "tpu", lambda: tilesight.Encoder(model, device="tpu"))
    with tilesight.Encoder(model, device="cpu", threads=1) as encoder:
        assert encoder.identity == identity and (numpy.concatenate(encoder.encode(pictures)) == embeddings).all()
    print(f"the Python module, libtilesight {tilesight.__version__}: {len(pictures)} pictures, {embeddings.shape} embeddings")


main(*sys.argv[1:])
