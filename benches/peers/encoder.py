"""The encoder as ours and the peers share it: its parameters, the tensors of a checkpoint, its arithmetic.

Nothing here runs by itself, and nothing here needs torch.
"""
import json
import math
import pathlib

NAMES = ("patch_size", "num_heads", "clip_embed_dim", "clip_num_layers", "clip_hidden_states",
         "num_layers_projection", "decoder_embed_dim", "tile_size", "max_num_tiles", "in_channels")
LLAMA_11B = dict(zip(NAMES, (14, 16, 1280, 32, [3, 7, 15, 23, 30], 8, 4096, 560, 4, 3)))
# What Hugging Face's config.json calls the same, in vision_config; decoder_embed_dim is text_config's hidden_size.
HUGGING_FACE = {"patch_size": "patch_size", "num_heads": "attention_heads", "clip_embed_dim": "hidden_size",
                "clip_num_layers": "num_hidden_layers", "clip_hidden_states": "intermediate_layers_indices",
                "num_layers_projection": "num_global_layers", "tile_size": "image_size",
                "max_num_tiles": "max_num_tiles", "in_channels": "num_channels"}
BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "U8": 1, "I8": 1, "BOOL": 1}


def encoder_config(path):
    """The encoder's parameters in torchtune's words, from a config.json of Hugging Face's, or from one of torchtune's,
    under "encoder" or bare; without the file, those of the 11B model."""
    path = pathlib.Path(path)
    if not path.exists():
        return dict(LLAMA_11B)
    config = json.loads(path.read_text())
    if "vision_config" in config:
        vision, text = config["vision_config"], config.get("text_config", {})
        config = {name: vision[theirs] for name, theirs in HUGGING_FACE.items() if theirs in vision}
        if "hidden_size" in text:
            config["decoder_embed_dim"] = text["hidden_size"]
    config = config.get("encoder", config)
    missing = [n for n in NAMES if n not in config]
    if missing:
        raise SystemExit(f"{path}: no {', '.join(missing)}: neither torchtune's words nor Hugging Face's")
    return {n: config[n] for n in NAMES}


def checkpoint(directory, wanted=lambda name: True):
    """Each wanted tensor of a checkpoint as (name, dtype, shape, bytes), one at a time and read rather than mapped:
    mapped pages would count towards the process's peak memory, which is measured."""
    files = sorted(pathlib.Path(directory).glob("model*.safetensors"))
    if not files:
        raise SystemExit(f"{directory}: no model*.safetensors")
    for path in files:
        with open(path, "rb") as file:
            start = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(start))
            header.pop("__metadata__", None)
            for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                if not wanted(name):
                    continue
                begin, end = entry["data_offsets"]
                assert end - begin == BYTES[entry["dtype"]] * math.prod(entry["shape"]), name
                data = bytearray(end - begin)
                file.seek(8 + start + begin)
                if file.readinto(data) != len(data):
                    raise SystemExit(f"{path}: ends within {name}")
                yield name, entry["dtype"], entry["shape"], data


def flops(config, images_shape, rows_to_multiple_of=1):
    """Floating point operations of one forward pass that computes every row of every tile it is given, multiply and add
    counted apart; norms, GELU, softmax left out. Rows added to each tile are cut off before the output matrix."""
    b, i, t = images_shape[:3]
    d, p, e = config["clip_embed_dim"], config["patch_size"], config["decoder_embed_dim"]
    g = config["tile_size"] // p
    n = len(config["clip_hidden_states"] or [])
    tokens = g * g + 1
    s = t * (tokens + -tokens % rows_to_multiple_of)
    layers = config["clip_num_layers"] + config["num_layers_projection"]
    return b * i * (2 * t * g * g * config["in_channels"] * p * p * d + layers * (24 * s * d * d + 4 * s * s * d)
                    + 2 * t * tokens * (1 + n) * d * e)
