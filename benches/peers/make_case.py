#!/usr/bin/env python3
"""Write the pixels of a picture-like image, cut into tiles, as input for ours and the peers.

    target/peers/bin/python benches/peers/make_case.py --grid 2x2 --output case.safetensors

Gradients, waves, flat shapes with hard edges and noise, quantized to 8 bits and normalized as the model's pictures are;
every pixel is random in --seed. The file: images F32 (b, 1, t, C, s, s), t the tiles of the grid or, with --tiles, so
many, zeros past the grid's; aspect_ratio I64 (b, 1, 2). A batch has as many pictures of the grid, each another.
"""
import argparse
import pathlib

import numpy as np
from safetensors.numpy import save_file

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


def picture(height, width, channels, seed):
    """Values from 0 to 255, (channels, height, width)."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float64)
    size = max(height, width)
    image = np.empty((channels, height, width))
    for plane in image:
        plane[:] = 128 + rng.uniform(-60, 60) * (xx / width - 0.5) + rng.uniform(-60, 60) * (yy / height - 0.5)
        for period in size / np.array([1.5, 5, 17, 60]):  # coarse to fine, weaker as it gets finer
            angle = rng.uniform(0, 2 * np.pi)
            wave = (xx * np.cos(angle) + yy * np.sin(angle)) / period + rng.uniform()
            plane += 60 * np.sqrt(period / size) * np.sin(2 * np.pi * wave)
    for _ in range(12):
        cx, cy, rx, ry = rng.uniform(0, width), rng.uniform(0, height), *(size * rng.uniform(0.02, 0.2, 2))
        inside = ((xx - cx) / rx) ** 2 + ((yy - cy) / ry) ** 2 < 1
        image[:, inside] = rng.uniform(0, 255, (channels, 1))
    image += rng.normal(0, 6, image.shape)
    return np.rint(np.clip(image, 0, 255))


def case(grid, tile_size, channels, seed, batch=1, tiles=None):
    h, w = grid
    images = np.zeros((batch, 1, tiles or h * w, channels, tile_size, tile_size), dtype=np.float32)
    of = np.arange(channels) % 3
    for number in range(batch):
        image = picture(h * tile_size, w * tile_size, channels, seed + number)
        image = (image / 255 - MEAN[of, None, None]) / STD[of, None, None]
        cut = image.reshape(channels, h, tile_size, w, tile_size).transpose(1, 3, 0, 2, 4)
        images[number, 0, :h * w] = cut.reshape(h * w, channels, tile_size, tile_size)
    return {"images": images, "aspect_ratio": np.tile(np.array([h, w], dtype=np.int64), (batch, 1, 1))}


def grid(text):
    h, w = (int(x) for x in text.split("x"))
    if h < 1 or w < 1:
        raise ValueError
    return h, w


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--grid", type=grid, default=(1, 1), metavar="HxW", help="tiles down by tiles across (1x1)")
    p.add_argument("--tile-size", type=int, default=560, help="side of a tile in pixels (560)")
    p.add_argument("--channels", type=int, default=3, help="(3)")
    p.add_argument("--batch", type=int, default=1, help="pictures (1)")
    p.add_argument("--tiles", type=int, help="tiles of each picture, zeros past the grid's (the grid's)")
    p.add_argument("--seed", type=int, default=1, help="(1)")
    p.add_argument("--output", type=pathlib.Path, required=True)
    a = p.parse_args()
    if a.batch < 1 or (a.tiles is not None and a.tiles < a.grid[0] * a.grid[1]):
        p.error("--batch starts at 1, --tiles at the grid's")
    save_file(case(a.grid, a.tile_size, a.channels, a.seed, a.batch, a.tiles), str(a.output))


if __name__ == "__main__":
    main()
