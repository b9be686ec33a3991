"""What the comparison rests on, without torch: when outputs agree, whose turn it is, what a peer that fails costs.

    python -m unittest discover benches/peers
"""
import argparse
import contextlib
import io
import json
import pathlib
import tempfile
import unittest

import numpy as np
from safetensors.numpy import save_file

import agreement
import compare
import sides
from encoder import LLAMA_11B, encoder_config, flops

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests/golden"


def noise(seed=1):
    return np.random.default_rng(seed).standard_normal((1, 6, 8)).astype(np.float32)


def changed(values, index, value):
    values = values.copy()
    values.flat[index] = value
    return values


class Agreement(unittest.TestCase):
    def test_float32_agrees_within_rounding_and_no_further(self):
        right = noise()
        self.assertTrue(agreement.in_float32(right * np.float32(1 + 1e-6), right)["agrees"])
        wrong = [-right, 0 * right, right * np.float32(1.0001), changed(right, 7, np.nan), changed(right, 7, np.inf),
                 changed(right, 7, right.flat[7] + 1e-4), right[:, ::-1]]
        for ours in wrong:
            self.assertFalse(agreement.in_float32(ours, right)["agrees"])
            self.assertFalse(agreement.in_float32(right, ours)["agrees"])

    def test_in_half_ours_may_be_as_far_off_as_the_peer(self):
        right = noise()
        error = noise(2) * np.linalg.norm(right) / np.linalg.norm(noise(2))
        at = lambda size: (right + size * error).astype(np.float32)
        agrees = lambda ours, theirs, factor: agreement.in_half(at(ours), at(theirs), right, factor)["agrees"]
        self.assertTrue(agrees(0.009, 0.01, agreement.OF_EAGER))
        self.assertFalse(agrees(0.011, 0.01, agreement.OF_EAGER))
        self.assertTrue(agrees(0.0155, 0.01, agreement.OF_COMPILED))
        self.assertFalse(agrees(0.0165, 0.01, agreement.OF_COMPILED))
        self.assertFalse(agrees(0.001, 0.06, agreement.OF_EAGER), "a peer that is broken proves nothing")
        self.assertFalse(agreement.in_half(right, changed(right, 3, np.nan), right, 1.0)["agrees"])

    def test_outputs_of_other_sizes_are_refused(self):
        with self.assertRaises(SystemExit):
            agreement.difference(noise(), noise()[:, 1:])


class Encoder(unittest.TestCase):
    def test_both_ways_to_write_a_configuration(self):
        self.assertEqual(encoder_config(GOLDEN / "small/config.json")["clip_hidden_states"], [1, 3])
        found = encoder_config(GOLDEN / "hf_tiny/config.json")
        self.assertEqual([found[name] for name in ("clip_embed_dim", "clip_hidden_states", "decoder_embed_dim", "tile_size")],
                         [64, [0, 2], 32, 28])

    def test_flops_are_those_of_the_published_geometry(self):
        tera = lambda tiles, multiple=1: flops(LLAMA_11B, (1, 1, tiles), multiple) / 1e12
        self.assertAlmostEqual(tera(1), 3.146, 3)
        self.assertAlmostEqual(tera(4), 18.884, 3)
        self.assertAlmostEqual(tera(4, 8), 19.00, 2)


class Rounds(unittest.TestCase):
    """A comparison of sides that only say they ran."""

    def run_with(self, peers, seconds, failing=(), outputs=None, **more):
        turns = []

        def side(name, output):
            turns.append(name)
            if name in failing:
                raise sides.Failed(name)
            save_file({"embeddings": (outputs or {}).get(name, noise())}, str(output))
            return {"seconds": seconds[name], "report": {}}

        ours = lambda a, semantics, tiles, pixels, output, repeat: side("tilesight", output)
        theirs = lambda a, name, tiles, pixels, output, repeat, dtype=None: side(name, output)
        a = argparse.Namespace(device="cpu", dtype="float32", rounds=3, batch=1, repeat=None, bfloat16_too=False, peers=peers,
                               models={"torchtune": None}, **more)
        kept = sides.tilesight, sides.peer
        sides.tilesight, sides.peer = ours, theirs
        try:
            with tempfile.TemporaryDirectory() as work, contextlib.redirect_stderr(io.StringIO()):
                config = encoder_config(GOLDEN / "tiny/config.json")
                return compare.compare(a, config, (1, 2), pathlib.Path(work)), turns, a
        finally:
            sides.tilesight, sides.peer = kept

    def test_sides_take_turns_and_the_ratio_is_of_one_round(self):
        case, turns, a = self.run_with(["torchtune"], {"tilesight": [1.0, 2.0, 9.0], "torchtune": [3.0]})
        self.assertEqual(turns, ["tilesight", "torchtune", "torchtune", "tilesight", "tilesight", "torchtune"])
        self.assertEqual(case["sides"]["torchtune"]["ratio"], {"median": 1.5, "min": 1.5, "max": 1.5})
        self.assertTrue(case["agrees"])
        self.assertIn("1.500 (1.500 to 1.500)", compare.table(a, [case]))

    def test_one_wrong_output_is_seen(self):
        case, _, a = self.run_with(["torchtune"], {"tilesight": [1.0], "torchtune": [1.0]}, outputs={"torchtune": -noise()})
        self.assertFalse(case["agrees"])
        self.assertIn("DIFFERS", compare.table(a, [case]))

    def test_a_peer_that_fails_is_named_and_the_others_go_on(self):
        seconds = {"tilesight": [1.0], "torchtune": [1.0], "torchtune-compile": [1.0]}
        case, turns, a = self.run_with(["torchtune", "torchtune-compile"], seconds, failing=["torchtune-compile"])
        self.assertEqual(turns.count("torchtune-compile"), 1)
        self.assertEqual(turns.count("torchtune"), 3)
        self.assertFalse(case["agrees"])
        self.assertIn("failed: torchtune-compile", compare.table(a, [case]))

    def test_a_report_is_json_whatever_was_found(self):
        outputs = {"torchtune": changed(noise(), 0, np.nan)}
        case, _, _ = self.run_with(["torchtune"], {"tilesight": [1.0], "torchtune": [1.0]}, outputs=outputs)
        read = json.loads(json.dumps(compare.finite(case), allow_nan=False))
        self.assertIsNone(read["sides"]["torchtune"]["agreement"]["difference"])
        self.assertFalse(read["agrees"])


class OurReport(unittest.TestCase):
    def test_warm_ups_do_not_count_and_a_simulated_gpu_is_refused(self):
        report = {"seconds": [9.0, 1.0, 2.0], "device": "cpu", "peak_rss_bytes": 5}
        self.assertEqual(sides.read_tilesight(report, None, 1, 3)["seconds"], [1.0, 2.0])
        with self.assertRaises(sides.Failed):
            sides.read_tilesight(report, None, 1, 4)
        with self.assertRaises(SystemExit):
            sides.read_tilesight({**report, "device": "CUDA simulator"}, None, 1, 3)

    def test_on_a_gpu_the_device_says_its_own_time(self):
        bench = {"stages": {"gpu": {"p50": 0.5}}, "device_bytes": [1, 2]}
        found = sides.read_tilesight({"seconds": [9.0, 1.0], "device": "NVIDIA", "peak_rss_bytes": None}, bench, 1, 2)
        self.assertEqual((found["device_seconds"], found["peak_device_bytes"]), ([0.5], 3))
        self.assertNotIn("peak_rss_bytes", found)


if __name__ == "__main__":
    unittest.main()
