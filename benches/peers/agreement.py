"""Whether two sides computed the same embeddings, and by what measure.

In float32 both sides are within rounding of the same numbers, so they are held against each other. In a half type each is
a percent off by right, so both are held against a float32 run of the peer, and ours may not be further off than the peer
is itself.
"""
import numpy as np
from safetensors.numpy import load_file

# At 11B, where both sides round after every operation, 1.1e-6 was found from torchtune and from transformers alike (560
# pixels, one tile; docs/performance.md). The nearest wrong variants known are the tanh form of GELU (1.2e-4) and, below
# this limit, another epsilon in the layer norms (5e-6), which the golden tests look for.
FLOAT32 = 1e-5
# Our error may be this many times the peer's own. Eager, the peer rounds after every operation, as ours does not: 1.
# Compiled, it keeps float32 between pointwise operations and is 0.62 to 0.65 as far off as eager (torch 2.8, 40 layers of
# 320, bfloat16 and float16, both peers); the eager error stays the limit.
OF_EAGER, OF_COMPILED = 1.0, 1.6
# A peer that is further than this from its own float32 is broken, and no measure of ours: bfloat16 comes to 0.012.
BROKEN = 0.05


def embeddings(path):
    """The one floating point tensor of a file; a file with more must call it `embeddings`."""
    tensors = load_file(path)
    floats = [name for name, value in tensors.items() if value.dtype.kind == "f"]
    if "embeddings" in tensors:
        floats = ["embeddings"]
    if len(floats) != 1:
        raise SystemExit(f"{path}: which of {', '.join(tensors)} are the embeddings?")
    return tensors[floats[0]]


def flat(a, b):
    """Both in float64, in one dimension; the shapes may differ in how they group rows, not in their size."""
    if a.size != b.size or a.shape[-1] != b.shape[-1]:
        raise SystemExit(f"outputs have the shapes {a.shape} and {b.shape}")
    a, b = (x.reshape(-1).astype(np.float64) for x in (a, b))
    return (a, b) if np.isfinite(a).all() and np.isfinite(b).all() and b.any() else (None, None)


def difference(a, b):
    """max |a-b| / max |b|; infinite where either has no finite values or b is zero."""
    a, b = flat(a, b)
    return float("inf") if a is None else float(np.abs(a - b).max() / np.abs(b).max())


def error(a, b):
    """The same in the Frobenius norm, |a-b| / |b|."""
    a, b = flat(a, b)
    return float("inf") if a is None else float(np.linalg.norm(a - b) / np.linalg.norm(b))


def in_float32(ours, theirs):
    found = difference(ours, theirs)
    return {"measure": "max |a-b| / max |b|", "difference": found, "limit": FLOAT32, "agrees": found <= FLOAT32}


def in_half(ours, theirs, reference, factor):
    """Both against `reference`, what the peer computes in float32."""
    mine, own = error(ours, reference), error(theirs, reference)
    return {"measure": "|a-b| / |b| (Frobenius), b the peer's in float32", "difference": mine, "theirs": own,
            "limit": factor * own, "agrees": own <= BROKEN and mine <= factor * own}


def told(verdict):
    """A verdict in a few words."""
    if verdict is None:
        return "not compared"
    words = f"{verdict['difference']:.1e}" + (f", theirs {verdict['theirs']:.1e}" if "theirs" in verdict else "")
    return words if verdict["agrees"] else f"{words}: DIFFERS, limit {verdict['limit']:.1e}"
