"""The embeddings that `tilesight encode` has written."""

import json
import struct

import numpy as np


def read_embeddings(path):
    data = open(path, "rb").read()
    head = struct.unpack("<Q", data[:8])[0]
    tensor = json.loads(data[8 : 8 + head])["embeddings"]
    begin, end = tensor["data_offsets"]
    return np.frombuffer(data[8 + head + begin : 8 + head + end], np.float32).reshape(tensor["shape"])
