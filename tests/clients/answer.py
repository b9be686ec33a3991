"""The server's answer to a picture, and the colours of its patches by numpy."""

import json
import math
import urllib.request

import numpy as np


class Answer:
    """An answer in bf16."""

    def __init__(self, origin, file):
        request = urllib.request.Request(f"{origin}/v1/encode?dtype=bf16", data=file, method="POST")
        with urllib.request.urlopen(request) as response:
            data = response.read()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        self.metadata = header["__metadata__"]

        def tensor(name, dtype):
            begin, end = (8 + length + offset for offset in header[name]["data_offsets"])
            return np.frombuffer(data[begin:end], dtype).reshape(header[name]["shape"])

        self.down, self.across = tensor("aspect_ratio", "<i8")[0].tolist()
        self.tile, self.tokens = int(self.metadata["tile_size"]), int(self.metadata["tokens_per_tile"])
        self.side = math.isqrt(self.tokens - 1)
        self.height, self.width = json.loads(self.metadata["resized"])
        bits = tensor("embeddings", "<u2").astype("<u4") << 16
        self.embeddings = bits.view("<f4").astype(np.float64)

    def patches(self):
        """The patches' embeddings, row by row of the canvas: [rows of patches, columns, width]."""
        tiles = self.embeddings.reshape(self.down, self.across, self.tokens, -1)[:, :, 1:]
        patches = tiles.reshape(self.down, self.across, self.side, self.side, -1).transpose(0, 2, 1, 3, 4)
        return patches.reshape(self.down * self.side, self.across * self.side, -1)


def colors_of(patches):
    """[..., 3] by the singular vectors of the patches, and the components' shares of the variance."""
    centered = patches.reshape(-1, patches.shape[-1])
    centered = centered - centered.mean(axis=0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    assert (s[:3] > 1.001 * s[1:4]).all(), f"components too close to tell apart: {s[:4]}"
    scores = u[:, :3] * s[:3]
    ordered = np.sort(scores, axis=0)
    last = len(ordered) - 1
    low, high = ordered[math.floor(0.01 * last)], ordered[math.ceil(0.99 * last)]
    colors = np.clip(255 * (scores - low) / (high - low), 0, 255)
    return colors.reshape(*patches.shape[:-1], 3), s[:3] ** 2 / (s**2).sum()


def require_colors(found, expected):
    assert found.shape == expected.shape, (found.shape, expected.shape)
    for channel in range(3):
        shown, wanted = found[..., channel], expected[..., channel]
        assert shown.std() > 20, f"component {channel} is flat: {shown}"
        # A direction has two signs.
        worst = min(abs(shown - wanted).max(), abs(255 - shown - wanted).max())
        assert worst <= 1, f"component {channel} differs by {worst} levels"
