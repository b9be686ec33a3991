#!/usr/bin/env python3
"""Time torchtune's Llama 3.2 Vision encoder, eager or under torch.compile.

    target/peers/bin/python benches/peers/torchtune_peer.py --model DIR --pixels case.safetensors --json out.json

DIR holds config.json and model*.safetensors under torchtune's names, as `tilesight random --preset 11b --dtype bf16
--seed 7 --output DIR` writes them; weights are cast to --dtype tensor by tensor. The case has `images`
(b, i, t, C, s, s) and, where there is more than one tile, `aspect_ratio` (b, i, 2); make_case.py writes one. On a GPU
both are there before the clock starts, as torchtune's recipes have them, so its loop over the aspect ratios waits for
the device.

The report (--json, or the standard output): seconds of each run, their best and median, GFLOP/s of the best by the
closed form, peak memory (VmHWM, the weights' loading included; on a GPU torch's allocations too), a checksum of the
output, versions, device. On a GPU `seconds` is the forward pass on the device, and `with_copies` from the host's pixels
to the host's embeddings. --output writes the embeddings as `embeddings` F32 (b, i*t*R, E).
"""
import peer
from encoder import flops


def libraries():
    import torchao
    import torchtune
    import torchtune.models.llama3_2_vision
    return torchtune, torchao


def load(a, config, case, dtype):
    from torchtune.models.llama3_2_vision import llama3_2_vision_encoder

    model = peer.without_weights(lambda: llama3_2_vision_encoder(**config))
    model.load_state_dict(peer.weights(a.model, dtype, a.device), assign=True)
    inputs = [case[name] for name in ("images", "aspect_ratio") if name in case]
    return peer.Peer("torchtune", model.requires_grad_(False).eval(), tuple(inputs), flops(config, case["images"].shape))


if __name__ == "__main__":
    peer.main(peer.parser(__doc__), libraries, load)
