#!/usr/bin/env python3
"""Writes the golden data of the preprocessing tests: small pictures of every kind, and what the references make of them.

    python -m venv venv
    venv/bin/pip install pillow==12.3.0 torch==2.8.0 torchvision==0.23.0 torchtune==0.6.1 torchao==0.12.0 \
        transformers==4.53.3 safetensors numpy
    venv/bin/python tests/golden/make_images.py

Pillow must be older than 13, which resizes in another order. torch must run on x86 with AVX2 or AVX-512, for its float32
sums depend on the machine. Everything is written below tests/golden/images:

decode/*                    pictures of 1 to 99 pixels a side in every variant of JPEG, PNG and WebP that is read
decoded.safetensors         for each file of decode/: `NAME.rgb`, U8 (height, width, 3), Pillow's convert("RGB"), and
                            `NAME.white`, Hugging Face's convert_to_rgb (over white), where that differs
                            for each JPEG `NAME.accepted_cuts`, I64 (n): how many bytes, up to 60, may be missing at
                            its end without Pillow calling it truncated
over_white.safetensors      `white`, U8 (256, 256): level (column) over white at alpha (row)
canvas.safetensors          `case`, U16 (n, 4): width, height, tile_size, max_num_tiles; `torchtune` and `hf`, U16 (n, 4):
                            tiles down and across, resized height and width (0 0 where torchtune fails)
resize.safetensors          `size`, I32 (n, 4): height, width, new height, new width; `crc`, U32 stored as I64 (n): CRC-32
                            of what Pillow's bilinear resize makes of picture(height, width); `K.float`, F32
                            (new height, new width, 3): torchvision's antialiased resize of the K-th picture / 255, for
                            the sizes of at most 3,600 pixels
tiles.safetensors           for each picture FILE of PICTURES, each tile SIDE of SIDES and each reference, at most 4 tiles:
                            `FILE.SIDE.REFERENCE.aspect_ratio`, I64 (2); `....samples`, F32 (n): every 4999th pixel
                            value; `....crc`, I64 (1): CRC-32 of all pixel values as F32
"""
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from torchtune.models.clip import CLIPImageTransform
from torchtune.modules.transforms.vision_utils.get_canvas_best_fit import find_supported_resolutions, get_canvas_best_fit
from torchtune.modules.transforms.vision_utils.resize_with_pad import _get_max_res_without_distortion
from torchvision.transforms.v2 import functional as F
from transformers.models.mllama.image_processing_mllama import (
    MllamaImageProcessor, convert_to_rgb, get_image_size_fit_to_canvas, get_optimal_tiled_canvas)

OUT = Path(__file__).parent / "images"
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
SIDES = [560, 200]
PICTURES = ["chelsea.png", "rocket.jpg", "hubble_deep_field.jpg"]


def picture(height, width):
    """A picture of integers that any language can repeat: slopes, stripes and noise."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    hash = (x * 2654435761 + y * 40503 + c * 9973) % 4294967296
    hash = (hash ^ (hash >> 15)) * 2246822519 % 4294967296
    return ((x * 3 + y * 2 + c * 40 + ((x // 5 + y // 7) % 2) * 90 + (hash >> 24) // 4) % 256).astype(np.uint8)


def smooth(height, width):
    """A picture a lossy format can keep, with full contrast somewhere."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    rng = np.random.default_rng(height * 1000 + width)
    planes = [127 + 100 * np.sin(x / (3 + c) + c) * np.cos(y / (4 + c)) + rng.normal(0, 18, x.shape) for c in range(3)]
    out = np.stack(planes, -1)
    out[: height // 4, : width // 3] = [255, 0, 30]
    return np.clip(out, 0, 255).astype(np.uint8)


def alpha_of(height, width):
    y, x = np.mgrid[0:height, 0:width]
    return ((x * 255 // max(width - 1, 1) + y * 31) % 256 * (x + y > 4)).astype(np.uint8)


# ---------------------------------------------------------------- JPEG

def jpegs():
    def encode(im, **options):
        out = io.BytesIO()
        Image.fromarray(im).save(out, "JPEG", **options)
        return out.getvalue()

    for height, width in [(23, 37), (1, 1), (9, 8), (16, 16), (33, 17), (1, 40), (40, 1), (64, 99)]:
        im = smooth(height, width)
        for name, subsampling in [("444", 0), ("422", 1), ("420", 2)]:
            yield f"{name}_{width}x{height}.jpg", encode(im, quality=90, subsampling=subsampling)
            yield f"{name}_progressive_{width}x{height}.jpg", encode(im, quality=75, subsampling=subsampling, progressive=True)
        yield f"gray_{width}x{height}.jpg", encode(im[..., 1], quality=85)
    im = smooth(41, 67)
    yield "gray_progressive.jpg", encode(im[..., 0], progressive=True)
    for quality in [1, 30, 100]:
        yield f"quality{quality}.jpg", encode(im, quality=quality)
    yield "optimized.jpg", encode(im, optimize=True)
    yield "restart_blocks.jpg", encode(im, restart_marker_blocks=3)
    yield "restart_rows.jpg", encode(im, restart_marker_rows=1, subsampling=0)
    yield "restart_progressive.jpg", encode(im, restart_marker_blocks=2, progressive=True)
    yield "rgb.jpg", encode(im, keep_rgb=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "exif_rotated.jpg", encode(im, exif=exif)
    yield "icc.jpg", encode(im, icc_profile=b"not a profile" * 9)
    inks = np.dstack([smooth(25, 31), smooth(31, 25).transpose(1, 0, 2)[..., :1]])
    out = io.BytesIO()
    Image.fromarray(inks, "CMYK").save(out, "JPEG", quality=92)
    cmyk = out.getvalue()
    yield "cmyk.jpg", cmyk
    # Adobe's marker ends in the colour transform: 2 makes YCCK of the same data.
    at = cmyk.index(b"Adobe") + 11
    assert cmyk[at] == 0
    yield "ycck.jpg", cmyk[:at] + b"\x02" + cmyk[at + 1:]
    # The same coefficients, arranged for other sampling factors: Pillow writes none of these.
    yield "440.jpg", resampled(encode(smooth(24, 48), subsampling=1), 0x21, 0x12, 21, 45)
    yield "411.jpg", resampled(encode(smooth(32, 48), subsampling=2), 0x22, 0x41, 15, 93)
    yield "4x1_tall.jpg", resampled(encode(smooth(32, 48), subsampling=2), 0x22, 0x14, 63, 23)
    yield "trailing_bytes.jpg", encode(im) + b"more bytes after the end"
    # A progressive file of which only the first scans were written.
    whole = encode(smooth(64, 80), progressive=True, quality=60)
    scans = [i for i in range(len(whole)) if whole[i:i + 2] == b"\xff\xda"]
    for kept in [1, 2, 4]:
        yield f"progressive_{kept}_scans.jpg", whole[:scans[kept]] + b"\xff\xd9"


def resampled(jpeg, old, new, height, width):
    at = jpeg.index(b"\xff\xc0")
    assert jpeg[at + 11] == old
    return jpeg[:at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9:at + 11] + bytes([new]) + jpeg[at + 12:]


# ---------------------------------------------------------------- PNG

def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(samples, bits, color_type, *extra, interlaced=False):
    """A PNG of samples (height, width, channels), filter 0, with the chunks `extra` before the data."""
    height, width, _ = samples.shape
    passes = [(0, 0, 1, 1)] if not interlaced else ADAM7
    raw = b""
    for x0, y0, dx, dy in passes:
        part = samples[y0::dy, x0::dx]
        if part.size:
            for row in part.reshape(part.shape[0], -1):
                raw += b"\0" + packed(row, bits)
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, interlaced)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", zlib.compress(raw))
            + chunk(b"IEND", b""))


def packed(row, bits):
    if bits == 16:
        return row.astype(">u2").tobytes()
    flags = (row[:, None].astype(int) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(flags.ravel().astype(np.uint8)).tobytes()


def pngs():
    rng = np.random.default_rng(7)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
    depths = {0: [1, 2, 4, 8], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16]}
    names = {0: "gray", 2: "rgb", 3: "palette", 4: "gray_alpha", 6: "rgba"}
    for color_type, channel_count in channels.items():
        for bits in depths[color_type]:
            samples = rng.integers(0, 1 << bits, (13, 19, channel_count))
            palette = []
            if color_type == 3:
                palette = [chunk(b"PLTE", rng.integers(0, 256, 3 << bits, dtype=np.uint8).tobytes())]
            for interlaced in [False, True]:
                name = f"{names[color_type]}{bits}{'_interlaced' if interlaced else ''}.png"
                yield name, png(samples, bits, color_type, *palette, interlaced=interlaced)
            if color_type == 0:
                for level in {0, 1, (1 << bits) - 1, 85}:
                    key = chunk(b"tRNS", struct.pack(">H", level))
                    yield f"gray{bits}_transparent{level}.png", png(samples, bits, 0, key)
            if color_type == 2:
                key = chunk(b"tRNS", struct.pack(">3H", *(int(v) for v in samples[3, 4])))
                yield f"rgb{bits}_transparent.png", png(samples, bits, 2, key)
            if color_type == 3:
                alphas = rng.integers(0, 256, max((1 << bits) - 1, 1), dtype=np.uint8).tobytes()
                yield f"palette{bits}_alpha.png", png(samples, bits, 3, *palette, chunk(b"tRNS", alphas))
                simple = chunk(b"tRNS", b"\xff" * ((1 << bits) // 2) + b"\0")
                yield f"palette{bits}_one_transparent.png", png(samples, bits, 3, *palette, simple)
                short = [chunk(b"PLTE", bytes(range(10, 16)))]
                yield f"palette{bits}_short.png", png(samples, bits, 3, *short)
    for height, width in [(1, 1), (1, 9), (9, 1), (3, 5)]:
        samples = rng.integers(0, 256, (height, width, 4))
        yield f"rgba_interlaced_{width}x{height}.png", png(samples, 8, 6, interlaced=True)
    extra = [chunk(b"gAMA", struct.pack(">I", 100000)), chunk(b"pHYs", struct.pack(">IIB", 3, 7, 0)),
             chunk(b"tEXt", b"Comment\0hello"), chunk(b"bKGD", struct.pack(">3H", 1, 2, 3))]
    yield "chunks.png", png(rng.integers(0, 256, (5, 6, 3)), 8, 2, *extra)
    for name, im in [("filtered_rgb", smooth(40, 51)), ("filtered_rgba", np.dstack([smooth(40, 51), alpha_of(40, 51)]))]:
        out = io.BytesIO()
        Image.fromarray(im).save(out, "PNG")
        yield f"{name}.png", out.getvalue()
    frames = [Image.fromarray(np.dstack([smooth(20, 30), alpha_of(20, 30)])), Image.fromarray(picture(20, 30)).convert("RGBA")]
    for name, default_image in [("animated", False), ("animated_default", True)]:
        out = io.BytesIO()
        frames[0].save(out, "PNG", save_all=True, append_images=frames[1:], default_image=default_image)
        yield f"{name}.png", out.getvalue()


# ---------------------------------------------------------------- WebP

def webps():
    def encode(im, **options):
        out = io.BytesIO()
        Image.fromarray(im).save(out, "WEBP", **options)
        return out.getvalue()

    for height, width in [(23, 37), (1, 1), (9, 8), (16, 16), (33, 17), (1, 40), (40, 1), (64, 99)]:
        rgba = np.dstack([smooth(height, width), alpha_of(height, width)])
        for name, im in [("rgb", rgba[..., :3]), ("rgba", rgba)]:
            yield f"lossy_{name}_{width}x{height}.webp", encode(np.ascontiguousarray(im), quality=70)
            yield f"lossless_{name}_{width}x{height}.webp", encode(np.ascontiguousarray(im), lossless=True)
    rgba = np.dstack([smooth(61, 83), alpha_of(61, 83)])
    rgb = np.ascontiguousarray(rgba[..., :3])
    for quality in [0, 20, 50, 95, 100]:
        yield f"quality{quality}.webp", encode(rgb, quality=quality)
    for method in range(7):
        yield f"method{method}.webp", encode(rgb, quality=60, method=method)
        yield f"lossless_method{method}.webp", encode(rgba, lossless=True, method=method)
    for alpha_quality in [0, 30, 80]:
        yield f"alpha_quality{alpha_quality}.webp", encode(rgba, quality=60, alpha_quality=alpha_quality)
    yield "exact.webp", encode(rgba, lossless=True, exact=True)
    yield "picture.webp", encode(picture(50, 70), quality=80)
    yield "lossless_picture.webp", encode(picture(50, 70), lossless=True)
    yield "few_colors.webp", encode(picture(30, 40) // 64 * 64, lossless=True)
    yield "gray.webp", encode(np.repeat(rgb[..., :1], 3, -1), lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "exif_rotated.webp", encode(rgb, exif=exif)
    lossy = encode(rgb, exif=exif)
    flags = lossy.index(b"VP8X") + 8
    yield "alpha_flag_without_alpha.webp", lossy[:flags] + bytes([lossy[flags] | 0x10]) + lossy[flags + 1:]
    with_alpha = encode(rgba, quality=60)
    flags = with_alpha.index(b"VP8X") + 8
    yield "alpha_without_flag.webp", with_alpha[:flags] + bytes([with_alpha[flags] & ~0x10]) + with_alpha[flags + 1:]
    for name, im, flag in [("without_flag", rgba, 0), ("flag_without_alpha", rgb, 0x10)]:
        lossless = encode(np.ascontiguousarray(im), lossless=True, exif=exif)
        flags = lossless.index(b"VP8X") + 8
        yield f"lossless_alpha_{name}.webp", lossless[:flags] + bytes([lossless[flags] & ~0x10 | flag]) + lossless[flags + 1:]
    for name, lossless, im in [("lossy", False, rgb), ("lossless", True, rgb), ("lossy_alpha", False, rgba), ("lossless_alpha", True, rgba)]:
        second = np.roll(im, 7, axis=1).copy()
        frames = [Image.fromarray(f) for f in [im, second]]
        out = io.BytesIO()
        frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], lossless=lossless, duration=50, quality=70)
        yield f"animated_{name}.webp", out.getvalue()
    # An animation whose first frame leaves a border of the canvas free.
    small = np.zeros((40, 60, 4), np.uint8)
    small[10:30, 20:50] = np.dstack([smooth(20, 30), alpha_of(20, 30)])
    out = io.BytesIO()
    Image.fromarray(small).save(out, "WEBP", save_all=True, append_images=[Image.fromarray(rgba[:40, :60].copy())],
                                lossless=True, duration=50, background=(9, 99, 199, 255))
    yield "animated_small_first.webp", offset_frame(out.getvalue())


def offset_frame(webp):
    """Moves the first frame of an animation by growing the canvas to the left and top."""
    at = webp.index(b"VP8X") + 8
    webp = webp[:at + 4] + struct.pack("<I", 63)[:3] + struct.pack("<I", 43)[:3] + webp[at + 10:]
    at = webp.index(b"ANMF") + 8
    return webp[:at] + struct.pack("<I", 1)[:3] + struct.pack("<I", 2)[:3] + webp[at + 6:]


# ---------------------------------------------------------------- what the references make of them

def write_decoded():
    (OUT / "decode").mkdir(exist_ok=True)
    tensors = {}
    for name, data in [*jpegs(), *pngs(), *webps()]:
        (OUT / "decode" / name).write_bytes(data)
        im = Image.open(io.BytesIO(data))
        tensors[f"{name}.rgb"] = np.array(im.convert("RGB"))
        white = np.array(convert_to_rgb(im))
        if not np.array_equal(white, tensors[f"{name}.rgb"]):
            tensors[f"{name}.white"] = white
        if name.endswith(".jpg"):
            tensors[f"{name}.accepted_cuts"] = np.array([cut for cut in range(1, 61) if decodes(data[:-cut])], np.int64)
    save_file(tensors, OUT / "decoded.safetensors")
    level, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    white = np.array(convert_to_rgb(Image.fromarray(np.dstack([level, level, level, alpha]))))
    save_file({"white": np.ascontiguousarray(white[..., 0])}, OUT / "over_white.safetensors")


def decodes(data):
    try:
        Image.open(io.BytesIO(data)).load()
        return True
    except OSError:
        return False


def write_canvas():
    rng = np.random.default_rng(5)
    cases, tune, hf = [], [], []
    for tile_size in [560, 448, 28]:
        for max_num_tiles in [1, 4, 6, 12]:
            resolutions = torch.tensor(find_supported_resolutions(max_num_tiles, tile_size))
            sides = [1, tile_size - 1, tile_size, tile_size + 1, 2 * tile_size, 3 * tile_size, 4 * tile_size, 65535]
            sizes = [(w, h) for w in sides for h in sides]
            sizes += [tuple(int(v) for v in np.exp(rng.uniform(0, math.log(9000), 2))) for _ in range(60)]
            sizes += [tuple(int(v) for v in rng.integers(1, 5 * tile_size, 2)) for _ in range(50)]
            for width, height in sizes:
                cases.append([width, height, tile_size, max_num_tiles])
                image = torch.empty((1, 1, 1)).expand(1, height, width)
                canvas = get_canvas_best_fit(image, resolutions, False)
                target = (min(max(height, tile_size), canvas[0]), min(max(width, tile_size), canvas[1]))
                resized = _get_max_res_without_distortion((height, width), target)
                tune.append([canvas[0] // tile_size, canvas[1] // tile_size, *(resized if 0 not in resized else (0, 0))])
                down, across = (int(v) for v in get_optimal_tiled_canvas(height, width, max_num_tiles, tile_size))
                resized = get_image_size_fit_to_canvas(height, width, down, across, tile_size)
                hf.append([down // tile_size, across // tile_size, *(int(v) for v in resized)])
    to_u16 = lambda rows: np.array(rows).astype(np.uint16)
    save_file({"case": to_u16(cases), "torchtune": to_u16(tune), "hf": to_u16(hf)}, OUT / "canvas.safetensors")
    print(len(cases), "canvas cases")


def write_resize():
    rng = np.random.default_rng(9)
    sizes = [(1, 1, 5, 7), (5, 7, 1, 1), (20, 30, 20, 15), (20, 30, 10, 30), (20, 30, 20, 30), (2, 2, 60, 60), (50, 3, 7, 3),
             (59, 60, 58, 61), (600, 401, 28, 19), (3, 1000, 2, 560), (1000, 3, 560, 2), (2000, 1500, 747, 560),
             (700, 1500, 560, 1200), (40, 4000, 11, 1120), (4000, 40, 1120, 11), (4000, 39, 1120, 11), (4100, 41, 1120, 11), (400, 3, 500, 4), (640, 480, 560, 420), (1, 300, 1, 28)]
    while len(sizes) < 90:
        top = 70 if len(sizes) % 2 else 900
        sizes.append(tuple(int(v) for v in np.exp(rng.uniform(0, math.log(top), 4))))
    tensors, crcs = {}, []
    for k, (height, width, new_height, new_width) in enumerate(sizes):
        im = picture(height, width)
        out = np.array(Image.fromarray(im).resize((new_width, new_height), Image.Resampling.BILINEAR))
        crcs.append(zlib.crc32(out.tobytes()))
        if new_height * new_width <= 3600:
            unit = F.to_dtype(F.to_image(Image.fromarray(im)), torch.float32, scale=True)
            out = F.resize(unit, [new_height, new_width], antialias=True)
            tensors[f"{k}.float"] = np.ascontiguousarray(out.permute(1, 2, 0).numpy())
    tensors["size"] = np.array(sizes, np.int32)
    tensors["crc"] = np.array(crcs, np.int64)
    save_file(tensors, OUT / "resize.safetensors")


def write_tiles():
    tensors = {}

    def keep(key, aspect_ratio, values):
        tensors[f"{key}.aspect_ratio"] = np.array(aspect_ratio, np.int64)
        tensors[f"{key}.samples"] = values.ravel()[::4999].copy()
        tensors[f"{key}.crc"] = np.array([zlib.crc32(np.ascontiguousarray(values).tobytes())], np.int64)

    for name in PICTURES:
        im = Image.open(OUT / name)
        for side in SIDES:
            for reference, dtype in [("torchtune", torch.float32), ("torchtune-bf16", torch.bfloat16)]:
                transform = CLIPImageTransform(image_mean=MEAN, image_std=STD, dtype=dtype, tile_size=side, max_num_tiles=4)
                got = transform({"image": im})
                keep(f"{name}.{side}.{reference}", got["aspect_ratio"].numpy(), got["image"].float().numpy())
            processor = MllamaImageProcessor(size={"height": side, "width": side}, max_image_tiles=4, image_mean=MEAN,
                                             image_std=STD)
            got = processor(im, return_tensors="np")
            grids = [(h, w) for h in range(1, 5) for w in range(1, 5) if h * w <= 4]
            keep(f"{name}.{side}.pil", grids[got["aspect_ratio_ids"][0, 0] - 1],
                 got["pixel_values"][0, 0, :got["num_tiles"][0][0]])
    save_file(tensors, OUT / "tiles.safetensors")


if __name__ == "__main__":
    write_decoded()
    write_canvas()
    write_resize()
    write_tiles()
