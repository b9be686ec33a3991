"""The Python module and torch: tensors by DLPack, bfloat16 included, and Hugging Face's decoder with Tilesight's states; the
comparisons of examples/huggingface.py can fail.

    torch_arrays.py MODEL PICTURE PICTURE      MODEL: a small checkpoint that computes in Meta's semantics
"""

import pathlib
import sys
import tempfile

import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples"))
import huggingface
import tilesight


def refused(kind, says, call):
    try:
        call()
    except (tilesight.Error, TypeError, ValueError, RuntimeError) as error:
        assert getattr(error, "status", type(error).__name__) == kind and says in str(error), (type(error), error)
        return
    raise AssertionError(f"not refused: {kind}")


def tensors(model):
    with tilesight.Encoder(model, device="cpu") as encoder:
        side, tiles = encoder.tile_size, encoder.max_num_tiles
        generator = torch.Generator().manual_seed(1)
        pixels = torch.randn(1, 2, tiles, 3, side, side, generator=generator)
        ratios = [[[1, 2], [1, 1]]]
        whole = encoder.encode_pixels(pixels, ratios)
        assert (encoder.encode_pixels(pixels.numpy(), ratios) == whole).all()
        seen = [whole]
        for dtype in (torch.bfloat16, torch.float16):
            rounded = pixels.to(dtype)
            assert rounded.data_ptr() % 2 == 0
            found = encoder.encode_pixels(rounded, ratios)
            assert (found == encoder.encode_pixels(rounded.float(), ratios)).all()
            assert all((found != other).any() for other in seen)
            seen.append(found)
        # A view that begins within its storage.
        one = encoder.encode_pixels(pixels.to(torch.bfloat16)[:, 1:], [[[1, 1]]])
        assert (one == seen[1][:, seen[1].shape[1] // 2 :]).all()
        refused("ValueError", "contiguous", lambda: encoder.encode_pixels(pixels.to(torch.bfloat16).transpose(4, 5), ratios))
        refused("TypeError", "float32", lambda: encoder.encode_pixels(pixels.double(), ratios))
        refused("RuntimeError", "gradient", lambda: encoder.encode_pixels(pixels.clone().requires_grad_(), ratios))
        assert (encoder.encode_pixels(pixels, ratios) == whole).all()
    print(f"the Python module, torch {torch.__version__}: tensors in f32, bf16 and fp16")


def decoder(first, second):
    with tempfile.TemporaryDirectory() as checkpoint:
        huggingface.random_checkpoint(checkpoint)
        load = transformers.MllamaForConditionalGeneration.from_pretrained
        model = load(checkpoint, torch_dtype=torch.float32).eval()
        processor = transformers.MllamaImageProcessor.from_pretrained(checkpoint)
        given = huggingface.inputs(model, processor, [first])
        other = huggingface.inputs(model, processor, [second])
        expected = huggingface.answers(model, given, 16)
        with tilesight.Encoder(checkpoint, device="cpu") as encoder:
            huggingface.adopt(model, encoder)
            found = huggingface.answers(model, given, 16)
            assert huggingface.difference(found[0], expected[0]) < huggingface.STATES
            assert huggingface.difference(found[1], expected[1]) < huggingface.LOGITS and found[2] == expected[2]
            # The decoder does look at its picture: another changes what it says.
            states, logits, tokens = huggingface.answers(model, other, 16)
            assert huggingface.difference(states, expected[0]) > 0.1 and huggingface.difference(logits, expected[1]) > 0.01
            assert tokens != expected[2], tokens
            # The published models are in bf16: the states come in the pixels' type.
            half = {name: value.bfloat16() if name == "pixel_values" else value for name, value in given.items()}
            with torch.inference_mode():
                states = huggingface.states_of(model, half)
            assert states.dtype == torch.bfloat16
            assert 0 < huggingface.difference(states.float(), expected[0]) < 0.03
        # Another function of the same weights is no tower of this model, and it shows.
        with tilesight.Encoder(checkpoint, device="cpu", semantics="torchtune") as encoder:
            refused("ValueError", "Meta's semantics", lambda: huggingface.VisionTower(encoder))
            encoder.semantics = "meta"
            states, logits, _ = huggingface.answers(huggingface.adopt(model, encoder), given, 4)
            assert huggingface.difference(states, expected[0]) > 100 * huggingface.STATES
            assert huggingface.difference(logits, expected[1]) > 10 * huggingface.LOGITS
    print(f"transformers {transformers.__version__}: the decoder says with Tilesight's states what it says with its own")


tensors(sys.argv[1])
decoder(*sys.argv[2:])
