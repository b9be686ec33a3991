"""Tilesight: the Llama 3.2 Vision encoder, by its C interface. One file, no build step; needs numpy and libtilesight.

    import tilesight

    with tilesight.Encoder("Llama-3.2-11B-Vision") as encoder:
        embeddings = encoder.encode("photo.jpg")    # [tiles * tokens, width], numpy; a list of pictures gives a list

The library is looked for where TILESIGHT_LIBRARY says, then where the system looks. Arrays are taken as DLPack hands them
over, so torch's, numpy's and others' do, bfloat16 included; nothing is copied that is contiguous.

A child of os.fork() has none of the library's threads: where the parent had made an encoder, everything in the child raises
ForkedError. Import the module before or after, but make encoders in the child alone, or start it by multiprocessing's "spawn"
or "forkserver".
"""

import ctypes
import ctypes.util
import operator
import os
from dataclasses import dataclass

import numpy

DTYPES = {"f32": 0, "bf16": 1, "fp16": 2}
PADDING = {"as given": 0, "zeros": 1}

STATUSES = [
    "ok", "invalid argument", "invalid handle", "too small", "image", "input", "config", "checkpoint", "io",
    "out of memory", "unavailable", "device", "lost", "not finite", "internal",
    "forked",
]  # fmt: skip


class Error(Exception):
    """A refusal: `status` is its kind, one of STATUSES, and the message says what was expected and what was found."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = STATUSES[status] if status < len(STATUSES) else f"status {status}"


class ForkedError(Error):
    """This process is a child of fork() of one that had used the library: no call here will succeed."""


class _Sized(ctypes.Structure):
    """A struct of the interface, which starts with its size."""

    def __init__(self, **fields):
        super().__init__(size=ctypes.sizeof(self), **fields)


class _Encoder(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint64)]


class _Options(_Sized):
    _fields_ = [
        ("size", ctypes.c_size_t),
        *[(n, ctypes.c_char_p) for n in ("model", "config", "semantics", "preprocess", "device", "dtype", "kernels")],
        ("threads", ctypes.c_uint32),
        ("max_batch_tiles", ctypes.c_uint32),
    ]


class _Description(_Sized):
    _fields_ = [
        ("size", ctypes.c_size_t),
        *[(n, ctypes.c_uint32) for n in ("tile_size", "max_num_tiles", "in_channels", "num_tokens", "embed_dim")],
        *[(n, ctypes.c_uint32) for n in ("computed_in", "semantics", "num_threads")],
        ("identity", ctypes.c_uint8 * 32),
    ]


class _Bytes(ctypes.Structure):
    _fields_ = [("data", ctypes.c_char_p), ("len", ctypes.c_size_t)]


class _Picture(_Sized):
    _fields_ = [
        ("size", ctypes.c_size_t),
        *[(name, ctypes.c_uint32) for name in ("width", "height", "tiles_down", "tiles_across")],
        ("num_rows", ctypes.c_uint64),
    ]


class _Pixels(_Sized):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("shape", ctypes.c_uint64 * 6),
        ("aspect_ratio", ctypes.c_void_p),
        ("dtype", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


class _Output(_Sized):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("capacity", ctypes.c_size_t),
        ("dtype", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


class _DevicePixels(_Sized):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("address", ctypes.c_uint64),
        ("shape", ctypes.c_uint64 * 6),
        ("aspect_ratio", ctypes.c_void_p),
        ("dtype", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    ]


class _DeviceOutput(_Sized):
    _fields_ = [("size", ctypes.c_size_t), ("address", ctypes.c_uint64), ("capacity", ctypes.c_uint64)]


class _Stream(_Sized):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("stream", ctypes.c_void_p),
        ("done", ctypes.c_void_p),
        ("device", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


@dataclass(frozen=True)
class Picture:
    """What becomes of a picture: its size in pixels, its tiles, and how many embeddings it has."""

    width: int
    height: int
    tiles_down: int
    tiles_across: int
    num_rows: int


def _load():
    path = os.environ.get("TILESIGHT_LIBRARY") or ctypes.util.find_library("tilesight") or "libtilesight.so"
    library = ctypes.CDLL(path)
    library.tilesight_error.restype = library.tilesight_version.restype = ctypes.c_char_p
    pointer = ctypes.POINTER
    for name, *arguments in [
        ("open", pointer(_Options), pointer(_Encoder)),
        ("close", _Encoder),
        ("describe", _Encoder, pointer(_Description)),
        ("measure", _Encoder, ctypes.c_char_p, ctypes.c_size_t, pointer(_Picture)),
        ("encode_pictures", _Encoder, pointer(_Bytes), ctypes.c_size_t, pointer(_Output), pointer(ctypes.c_uint64)),
        ("encode_pixels", _Encoder, pointer(_Pixels), pointer(_Output)),
        ("enqueue_pixels", _Encoder, pointer(_DevicePixels), pointer(_DeviceOutput), pointer(_Stream)),
    ]:
        function = getattr(library, f"tilesight_{name}")
        function.argtypes, function.restype = arguments, ctypes.c_int
    return library


_library = _load()

#: The library's version.
__version__ = _library.tilesight_version().decode()


def _call(name, *arguments):
    status = getattr(_library, f"tilesight_{name}")(*arguments)
    if status:
        kind = ForkedError if STATUSES[status:] == ["forked"] else Error
        raise kind(status, _library.tilesight_error().decode())


class Encoder:
    """An encoder. Calls may come from any thread, and take turns.

    `model` is a checkpoint: a folder, a safetensors file, or an index of shards; None is the built-in demo model, whose
    embeddings mean nothing. The other options are the command line's, under its names.
    """

    def __init__(self, model=None, *, config=None, semantics=None, preprocess=None, device="auto", dtype=None,
                 kernels=None, threads=0, max_batch_tiles=0):  # fmt: skip
        texts = dict(model=model, config=config, semantics=semantics, preprocess=preprocess, device=device, dtype=dtype,
                     kernels=kernels)  # fmt: skip
        texts = {name: None if text is None else os.fsencode(text) for name, text in texts.items()}
        self._handle = _Encoder()
        options = _Options(**texts, threads=_count("threads", threads),
                           max_batch_tiles=_count("max_batch_tiles", max_batch_tiles))  # fmt: skip
        _call("open", ctypes.byref(options), ctypes.byref(self._handle))
        about = _Description()
        _call("describe", self._handle, ctypes.byref(about))
        #: Side of a tile in pixels; the most tiles of a picture; channels of a pixel.
        self.tile_size, self.max_num_tiles, self.in_channels = about.tile_size, about.max_num_tiles, about.in_channels
        #: Embeddings of a tile, its class token first, and their width.
        self.num_tokens, self.embed_dim = about.num_tokens, about.embed_dim
        #: The type it computes in, and which function of the weights.
        self.computed_in = list(DTYPES)[about.computed_in]
        self.semantics = ["torchtune", "meta"][about.semantics]
        #: The digest of all that decides the bits of its embeddings, but its input.
        self.identity = bytes(about.identity).hex()

    def close(self):
        """Gives its memory back. In a child of fork() there is nothing to give: the encoder is the parent's."""
        if self._handle.id:
            handle, self._handle = self._handle, _Encoder()
            try:
                _call("close", handle)
            except ForkedError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        if getattr(self, "_handle", None) is not None:
            self.close()

    def measure(self, picture):
        """What becomes of a picture (a JPEG, PNG or WebP file: its bytes, its path, or an open file), from its header alone."""
        picture, found = _file(picture), _Picture()
        _call("measure", self._handle, picture, len(picture), ctypes.byref(found))
        return Picture(*[getattr(found, field) for field in Picture.__dataclass_fields__])

    def encode(self, pictures):
        """Encodes a list of pictures: for each its embeddings, [tiles * tokens, width], f32. A picture is a JPEG, PNG or
        WebP file: its bytes, its path, or an open file. One picture that is no list is encoded alone, and its embeddings
        are returned without a list."""
        if isinstance(pictures, _FILES) or hasattr(pictures, "read"):
            return self.encode([pictures])[0]
        pictures = [_file(picture) for picture in pictures]
        rows = [self.measure(picture).num_rows for picture in pictures]
        embeddings = numpy.empty((sum(rows), self.embed_dim), numpy.float32)
        files = (_Bytes * len(pictures))(*[_Bytes(picture, len(picture)) for picture in pictures])
        _call("encode_pictures", self._handle, files, len(files), ctypes.byref(_output(embeddings)), None)
        return numpy.split(embeddings, numpy.cumsum(rows)[:-1]) if pictures else []

    def encode_pixels(self, pixels, aspect_ratio=None):
        """Encodes a pixel tensor of the host, [b, i, t, c, s, s], as torchtune's forward(images, aspect_ratio) does:
        [b, i * t * tokens, width], f32."""
        with _Tensor(pixels) as tensor:
            tensor.require("host")
            ratios = tensor.ratios(aspect_ratio)
            given = _Pixels(data=tensor.address, shape=tensor.six(), aspect_ratio=_address(ratios), dtype=tensor.dtype)
            b, i, t = tensor.shape[:3]
            embeddings = numpy.empty((b, i * t * self.num_tokens, self.embed_dim), numpy.float32)
            _call("encode_pixels", self._handle, ctypes.byref(given), ctypes.byref(_output(embeddings)))
        return embeddings

    def enqueue_pixels(self, pixels, out, aspect_ratio=None, *, stream, done=None, padding="as given", device=0):
        """Enqueues the encoding of a pixel tensor on a GPU into `out`, [b, i * t * tokens, width] in the type that it
        computes in, both on that GPU: in the order of `stream`, a CUstream as an integer (torch.cuda.Stream.cuda_stream).
        Keep both alive until the stream has come there. `done` is a CUevent that is recorded behind it."""
        with _Tensor(pixels) as tensor, _Tensor(out) as output:
            tensor.require("GPU")
            output.require("GPU")
            if output.dtype != DTYPES[self.computed_in]:
                raise TypeError(f"out must be {self.computed_in}")
            ratios = tensor.ratios(aspect_ratio)
            given = _DevicePixels(address=tensor.address, shape=tensor.six(), aspect_ratio=_address(ratios),
                                  dtype=tensor.dtype, padding=PADDING[padding])  # fmt: skip
            target = _DeviceOutput(address=output.address, capacity=output.nbytes)
            order = _Stream(stream=stream, done=done, device=device)
            _call("enqueue_pixels", self._handle, ctypes.byref(given), ctypes.byref(target), ctypes.byref(order))


def _output(embeddings):
    return _Output(data=embeddings.ctypes.data, capacity=embeddings.nbytes, dtype=DTYPES["f32"])


#: What stands for a picture's file, besides an open file.
_FILES = (bytes, bytearray, memoryview, str, os.PathLike)


def _file(picture):
    """The bytes of a picture's file."""
    if isinstance(picture, (str, os.PathLike)):
        with open(picture, "rb") as file:
            return file.read()
    if hasattr(picture, "read"):
        picture = picture.read()
    if not isinstance(picture, (bytes, bytearray, memoryview)):
        raise TypeError(f"a picture is the bytes of a file, its path or an open file, found {type(picture).__name__}")
    return bytes(picture)


def _count(name, value):
    """A count that the library takes as 32 bits; ctypes would cut it in silence."""
    value = operator.index(value)
    if not 0 <= value < 1 << 32:
        raise ValueError(f"{name} must lie in 0..2**32, found {value}")
    return value


def _address(array):
    return None if array is None else array.ctypes.data


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_api = ctypes.pythonapi
_api.PyCapsule_GetPointer.argtypes, _api.PyCapsule_GetPointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p

#: DLPack's codes of devices and of element types.
_DEVICES = {1: "host", 2: "GPU", 3: "host", 11: "host", 13: "GPU"}
_CODES = {(2, 32): "f32", (4, 16): "bf16", (2, 16): "fp16"}


class _Tensor:
    """An array, as DLPack describes it. The capsule keeps it alive, and is never consumed: its owner frees it."""

    def __init__(self, array):
        if not hasattr(array, "__dlpack__"):
            raise TypeError(f"{type(array).__name__} does not speak DLPack")
        if isinstance(array, numpy.ndarray) and not array.flags.writeable:
            # numpy hands no array over that must not be written; here none is.
            array = array.copy()
        # The stream is the caller's to name: -1 asks for no waiting.
        on_gpu = _DEVICES.get(int(array.__dlpack_device__()[0])) == "GPU"
        self._capsule = array.__dlpack__(stream=-1) if on_gpu else array.__dlpack__()
        tensor = _DLTensor.from_address(_api.PyCapsule_GetPointer(self._capsule, b"dltensor"))
        self.shape = tuple(tensor.shape[: tensor.ndim])
        self._where = _DEVICES.get(tensor.device_type, f"device type {tensor.device_type}")
        name = _CODES.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
        if name is None:
            raise TypeError("elements must be float32, bfloat16 or float16")
        self.dtype = DTYPES[name]
        self.nbytes = tensor.bits // 8 * int(numpy.prod(self.shape, dtype=numpy.int64))
        if tensor.strides:
            expected, step = [], 1
            for size in reversed(self.shape):
                expected.insert(0, step)
                step *= size
            given = tensor.strides[: tensor.ndim]
            if any(size > 1 and a != b for size, a, b in zip(self.shape, given, expected)):
                raise ValueError("arrays must be contiguous")
        self.address = (tensor.data or 0) + tensor.byte_offset

    def six(self):
        if len(self.shape) != 6:
            raise ValueError(f"pixels must be [b, i, t, channels, s, s], found {list(self.shape)}")
        if 0 in self.shape:
            raise ValueError(f"pixels must have at least one element, found {list(self.shape)}")
        return (ctypes.c_uint64 * 6)(*self.shape)

    def ratios(self, aspect_ratio):
        """The aspect ratios of this tensor's images, [b, i, 2]. The library reads as many as there are images."""
        self.six()
        if aspect_ratio is None:
            return None
        given = numpy.asarray(aspect_ratio)
        if given.dtype.kind not in "iu" or given.shape != (*self.shape[:2], 2):
            expected = [*self.shape[:2], 2]
            raise ValueError(f"aspect_ratio must hold whole numbers {expected}, found {given.dtype} {list(given.shape)}")
        return numpy.ascontiguousarray(given, dtype=numpy.int64)

    def require(self, where):
        if self._where != where:
            raise ValueError(f"the array must be in the {where}'s memory, found {self._where}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._capsule = None
