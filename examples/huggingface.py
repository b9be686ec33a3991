"""Hugging Face's Llama 3.2 Vision with Tilesight as its vision tower: the decoder reads Tilesight's states, and says the same.

    huggingface.py [--checkpoint DIR] [--new-tokens N] PICTURE...

Needs torch, transformers 4.45 to 4.54, pillow, and libtilesight (TILESIGHT_LIBRARY, or where the system looks). Without a
checkpoint, a small model with random weights is made, saved as transformers saves, and opened by both.

transformers collects the hidden states of the vision model as Meta does up to 4.54; from 4.55 on it collects others, with
which the published weights were not trained. Tilesight's are Meta's.
"""

import argparse
import pathlib
import sys
import tempfile

import torch
import transformers
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "capi/python"))
import tilesight

#: Largest difference of two f32 results, in units of the largest value. Either is within 1.1e-6 of float64, and the mildest
#: known mistake in the model moves it by 5e-6 (tests/golden/README.md).
STATES = 3e-6
#: The decoder's own roundings on top of it.
LOGITS = 1e-5


class VisionTower(torch.nn.Module):
    """Stands where the model has its vision model, and gives what the vision model and the projector give together."""

    def __init__(self, encoder):
        super().__init__()
        if encoder.semantics != "meta":
            raise ValueError(f"the model was trained in Meta's semantics, the encoder computes {encoder.semantics}'s")
        self.encoder = encoder
        # The decoder's mask is made from it.
        self.num_patches = encoder.num_tokens

    def forward(self, pixel_values, aspect_ratio_ids, aspect_ratio_mask, **_):
        b, i, t = pixel_values.shape[:3]
        # Nothing is copied on the way in: the tensor is handed over by DLPack, whatever its type.
        states = self.encoder.encode_pixels(pixel_values.detach().contiguous(), self.aspect_ratios(aspect_ratio_ids))
        states = torch.from_numpy(states).reshape(b, i, t, self.num_patches, self.encoder.embed_dim)
        return (states.to(pixel_values.dtype),)

    def aspect_ratios(self, ids):
        """Tiles down and across, from the processor's ids: they number what fits from 1 on, and 0 is no image."""
        most = self.encoder.max_num_tiles
        supported = [(down, across) for down in range(1, most + 1) for across in range(1, most + 1) if down * across <= most]
        return [[([(0, 0)] + supported)[number] for number in sample] for sample in ids.tolist()]


def adopt(model, encoder):
    """Has the model see through Tilesight. Its own vision model, and that one's memory, are let go."""
    model.model.vision_model = VisionTower(encoder)
    # The states are projected already.
    model.model.multi_modal_projector = torch.nn.Identity()
    return model


def random_checkpoint(folder):
    """A model in small, whose gates let pictures through: those of a new model are closed."""
    vision = dict(hidden_size=64, attention_heads=2, num_hidden_layers=3, num_global_layers=2, intermediate_size=256,
                  image_size=56, patch_size=14, max_num_tiles=4, intermediate_layers_indices=[0, 2],
                  vision_output_dim=3 * 64, supported_aspect_ratios=[[h, w] for h in range(1, 5) for w in range(1, 5) if h * w <= 4])  # fmt: skip
    text = dict(vocab_size=128, hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
                num_key_value_heads=2, cross_attention_layers=[1, 3], max_position_embeddings=128, rope_theta=500000.0,
                rope_scaling={"rope_type": "default"}, pad_token_id=0, bos_token_id=1, eos_token_id=2)  # fmt: skip
    config = transformers.MllamaConfig(vision_config=vision, text_config=text, image_token_index=128)
    torch.manual_seed(7)
    model = transformers.MllamaForConditionalGeneration(config)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "gate" in name:
                values.uniform_(0.5, 1.0)
            elif "norm" not in name:
                values.normal_(0, 1.0 / values.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    processor = transformers.MllamaImageProcessor(size={"height": 56, "width": 56}, max_image_tiles=4)
    processor.save_pretrained(folder)


def inputs(model, processor, paths):
    """A prompt that names each picture, and what the processor makes of the pictures."""
    pictures = processor([[Image.open(path).convert("RGB") for path in paths]], return_tensors="pt")
    num_tiles = pictures.pop("num_tiles")[0]
    image, words = model.config.image_token_index, range(3, 11)
    tokens = torch.tensor([[1] + [image] * len(paths) + [word % model.config.text_config.vocab_size for word in words]])
    # What comes after the pictures sees all of their tiles.
    mask = torch.zeros(1, tokens.shape[1], len(paths), pictures["pixel_values"].shape[2], dtype=torch.long)
    for number, tiles in enumerate(num_tiles):
        mask[0, 1 + number :, number, :tiles] = 1
    return dict(input_ids=tokens, attention_mask=torch.ones_like(tokens), cross_attention_mask=mask, **pictures)


def states_of(model, given):
    """What the model's cross-attention is given to read."""
    vision = model.model.vision_model(
        **{name: given[name] for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")})
    return model.model.multi_modal_projector(vision[0])


def answers(model, given, new_tokens):
    """The states, the logits of the prompt, and the tokens that follow it."""
    with torch.inference_mode():
        tokens = model.generate(**given, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)
        return states_of(model, given), model(**given).logits, tokens[0, given["input_ids"].shape[1] :].tolist()


def difference(found, expected):
    return ((found.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="a folder as transformers saves it; by default a small random model")
    parser.add_argument("--new-tokens", type=int, default=16, help="tokens to generate (16)")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="a JPEG, PNG or WebP file")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()

    with tempfile.TemporaryDirectory() as scratch:
        if not arguments.checkpoint:
            random_checkpoint(scratch)
        checkpoint = arguments.checkpoint or scratch
        model = transformers.MllamaForConditionalGeneration.from_pretrained(checkpoint, torch_dtype=torch.float32).eval()
        processor = transformers.MllamaImageProcessor.from_pretrained(checkpoint)
        given = inputs(model, processor, arguments.pictures)
        its_states, its_logits, its_tokens = answers(model, given, arguments.new_tokens)
        with tilesight.Encoder(checkpoint, device="cpu") as encoder:
            states, logits, tokens = answers(adopt(model, encoder), given, arguments.new_tokens)

    in_states, in_logits = difference(states, its_states), difference(logits, its_logits)
    print(f"{len(arguments.pictures)} pictures, states {list(states.shape)}")
    print(f"transformers {transformers.__version__} and Tilesight {tilesight.__version__} differ by {in_states:.1e} of the largest state,"
          f" {in_logits:.1e} of the largest logit")  # fmt: skip
    print(f"Tilesight's tower:    {tokens}\ntransformers' tower:  {its_tokens}")
    if not (in_states < STATES and in_logits < LOGITS and tokens == its_tokens):
        sys.exit("they are not the same")


if __name__ == "__main__":
    main()
