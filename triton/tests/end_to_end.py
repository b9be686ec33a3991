"""The backend in a Triton Inference Server on the CPU, asked by Triton's clients.

    end_to_end.py TRITONSERVER LIBTRITON_TILESIGHT TILESIGHT

What the server gives must be to the bit what `tilesight encode` gives of the same pictures, whatever else is in the batch
and whatever is wrong with it; what is wrong must be said. Runs in the project's root.
"""

import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import tritonclient.utils.shared_memory as shared_memory
from tritonclient.utils import serialize_byte_tensor

from serving import Protocol, Server, Tilesight, read_tensors, round_to_bf16

tritonserver, library, program = sys.argv[1:]
GOLDEN = os.path.abspath("tests/golden")
TINY, SMALL, ONE_CHANNEL = f"{GOLDEN}/hf_tiny", f"{GOLDEN}/small", f"{GOLDEN}/one_head"
# 3, 1 and 4 tiles.
PATHS = [f"{TINY}/image0.png", f"{TINY}/image1.png", f"{GOLDEN}/images/rocket.jpg"]
FILES = [open(path, "rb").read() for path in PATHS]
tilesight = Tilesight(program)


def config(parameters=None, text=""):
    entries = [f'{{ key: "{key}" value: {{ string_value: "{value}" }} }}' for key, value in (parameters or {}).items()]
    return f'backend: "tilesight"\n{text}\n' + (f"parameters [ {', '.join(entries)} ]\n" if entries else "")


def instances(kind, count=1):
    return f"instance_group [ {{ kind: {kind} count: {count} }} ]"


def tensor(kind, name, data_type, dims, more=""):
    return f'{kind} [ {{ name: "{name}" data_type: {data_type} dims: {dims} {more} }} ]'


def add_model(models, name, text, checkpoint=None):
    """A model of the repository: its configuration and, in its version's folder, a checkpoint."""
    version = f"{models}/{name}/1"
    os.makedirs(version)
    with open(f"{models}/{name}/config.pbtxt", "w") as file:
        file.write(text)
    for entry in os.listdir(checkpoint) if checkpoint else ():
        os.symlink(f"{checkpoint}/{entry}", f"{version}/{entry}")


IMAGE = tensor("input", "image", "TYPE_STRING", "[ 1 ]", "optional: true")
PIXELS = tensor("input", "pixels", "TYPE_FP32", "[ -1, 3, 28, 28 ]", "optional: true")
EMBEDDINGS = tensor("output", "embeddings", "TYPE_FP32", "[ -1, -1 ]")
HALVES = "\n".join([
    "max_batch_size: 8",
    tensor("input", "pixels", "TYPE_FP16", "[ 4, 3, -1, -1 ]"),
    tensor("input", "aspect_ratio", "TYPE_INT64", "[ 2 ]"),
    tensor("output", "embeddings", "TYPE_FP16", "[ 20, 32 ]"),
    instances("KIND_CPU", 2),
])

# Each refused for its reason, with these words.
WRONG = {
    "no-model": (config(), "no safetensors checkpoint here"),
    "no-such-model": (config({"model": "/nowhere"}), "/nowhere: no safetensors checkpoint here"),
    "misspelt": (config({"modle": TINY}), 'there is no parameter "modle"'),
    "no-such-semantics": (config({"model": TINY, "semantics": "other"}), "semantics other is not available"),
    "no-such-dtype": (config({"model": TINY, "dtype": "int8"}), "there are f32, bf16 and fp16"),
    "dtype-of-gpus": (config({"model": TINY, "dtype": "bf16"}), "the CPU computes in f32"),
    "no-such-preprocess": (config({"model": TINY, "preprocess": "x"}), "preprocess x is not available"),
    "no-number": (config({"model": TINY, "threads": "many"}), "threads must be a whole number"),
    "no-tiles": (config({"model": TINY, "max_batch_tiles": "0"}), "max_batch_tiles must be at least 1"),
    "no-such-rows": (config({"model": TINY, "rows": "some"}), "rows must be max or request"),
    "demo-preset": (config({"model": "demo", "preset": "11b"}), "the demo model has no preset"),
    "other-geometry": (config({"model": TINY, "preset": "11b"}), "446 of 511 tensors are missing"),
    "no-batches": (config({"model": TINY}, IMAGE), "max_batch_size must be at least 1"),
    "no-such-input": (
        config({"model": TINY}, "max_batch_size: 1\n" + IMAGE.replace('"image"', '"picture"')),
        "input picture: there is no such input",
    ),
    "image-type": (
        config({"model": TINY}, "max_batch_size: 1\n" + IMAGE.replace("STRING", "UINT8")),
        "input image: data_type must be TYPE_STRING, found TYPE_UINT8",
    ),
    "pixel-size": (
        config({"model": TINY}, "max_batch_size: 1\n" + PIXELS.replace("28, 28", "28, 29")),
        "input pixels: dims must be [-1, 3, 28, 28]",
    ),
    "width": (
        config({"model": TINY}, "max_batch_size: 1\n" + EMBEDDINGS.replace("[ -1, -1 ]", "[ -1, 33 ]")),
        "output embeddings: dims must be [20, 32]",
    ),
    "fixed-rows": (
        config({"model": TINY, "rows": "request"}, "max_batch_size: 1\n" + EMBEDDINGS.replace("[ -1, -1 ]", "[ 20, 32 ]")),
        "output embeddings: dims must be [-1, 32]",
    ),
    "reshaped": (
        config({"model": TINY}, "max_batch_size: 1\n" + IMAGE.replace("optional", "reshape: { shape: [ ] } optional")),
        "input image: reshape is not possible",
    ),
    "required-both": (
        config({"model": TINY}, "max_batch_size: 1\n" + IMAGE.replace("optional: true", "") + PIXELS),
        "must both be optional",
    ),
    "ratio-alone": (
        config({"model": TINY}, "max_batch_size: 1\n" + IMAGE + tensor("input", "aspect_ratio", "TYPE_INT64", "[ 2 ]")),
        "aspect_ratio belongs to pixels",
    ),
    "pictures-of-one-channel": (
        config({"model": ONE_CHANNEL}, "max_batch_size: 1\n" + IMAGE),
        "input image: there is no such input",
    ),
    "kind-model": (config({"model": TINY}, instances("KIND_MODEL")), "must be KIND_CPU or KIND_GPU"),
}


def make_repository(models):
    shutil.copytree("triton/model_repository/tilesight", f"{models}/tilesight")
    for entry in os.listdir(TINY):
        os.symlink(f"{TINY}/{entry}", f"{models}/tilesight/1/{entry}")
    # The configuration says almost nothing, and the server asks the backend.
    add_model(models, "completed", config({"rows": "request"}), SMALL)
    add_model(models, "halves", config({"model": "../../tilesight/1", "threads": "1"}, HALVES))
    add_model(models, "one-channel", config(), ONE_CHANNEL)
    add_model(models, "demo", config({"model": "demo"}))
    for name, (text, _) in WRONG.items():
        add_model(models, name, text)


def check_pictures(protocol):
    """Alone, together, and only what is asked for."""
    embeddings, ratios = tilesight.encode(TINY, PATHS)
    most, width = max(map(len, embeddings)), embeddings[0].shape[1]
    padded = [np.pad(one, ((0, most - len(one)), (0, 0))) for one in embeddings]

    def check(result, numbers):
        assert result.as_numpy("embeddings").tobytes() == np.stack([padded[n] for n in numbers]).tobytes()
        assert result.as_numpy("embeddings").shape == (len(numbers), most, width)
        assert np.array_equal(result.as_numpy("aspect_ratio"), ratios[numbers])
        assert np.array_equal(result.as_numpy("num_tiles"), ratios[numbers].prod(axis=1, keepdims=True))

    for numbers in ([0], [1], [2], [0, 1, 2], [2, 1, 1, 0, 2, 0, 1, 0]):
        check(protocol.infer("tilesight", [protocol.images([FILES[n] for n in numbers])]), numbers)
    for wanted in (["num_tiles"], ["aspect_ratio", "embeddings"]):
        result = protocol.infer("tilesight", [protocol.images(FILES)], wanted)
        assert sorted(output["name"] for output in as_json(result)["outputs"]) == sorted(wanted)
    exact = np.stack(padded)
    for dtype, expected in [("FP32", exact), ("FP16", exact.astype(np.float16)), ("BF16", round_to_bf16(exact))]:
        result = protocol.infer("tilesight", [protocol.images(FILES)], parameters={"dtype": dtype})
        assert np.array_equal(result.as_numpy("embeddings"), expected), dtype
    return padded


def as_json(result):
    response = result.get_response()
    return response if isinstance(response, dict) else result.get_response(as_json=True)


def check_refusals(protocol):
    images = protocol.images
    infer = lambda inputs, **options: lambda: protocol.infer("tilesight", inputs, **options)
    some = lambda shape: protocol.input("pixels", "FP32", np.zeros(shape, np.float32))
    ratios = lambda *pairs: protocol.input("aspect_ratio", "INT64", np.array(pairs))
    protocol.refuses("picture", infer([images([b"not a picture"])]))
    protocol.refuses("picture 1: ", infer([images([FILES[0], b"not a picture"])]))
    protocol.refuses("picture 1: ", infer([images([FILES[0], FILES[1][:200]])]))
    protocol.refuses("image", infer([images([b""])]))
    protocol.refuses("batch-size must be <= 8", infer([images([FILES[1]] * 9)]))
    protocol.refuses("one of the inputs", infer([images(FILES[:1]), some((1, 4, 3, 28, 28))]))
    protocol.refuses("belongs to pixels", infer([images(FILES[:1]), ratios([1, 1])]))
    protocol.refuses("one of the inputs", infer([ratios([1, 1])]))
    protocol.refuses("[1, 1, 4, 3, 28, 28]", infer([some((1, 4, 3, 28, 29)), ratios([1, 2])]))
    protocol.refuses("4 tiles an image, found 5", infer([some((1, 5, 3, 28, 28)), ratios([1, 2])]))
    protocol.refuses("aspect_ratio is required", infer([some((1, 4, 3, 28, 28))]))
    protocol.refuses("aspect ratio", infer([some((1, 4, 3, 28, 28)), ratios([7, 2])]))
    protocol.refuses("not finite", infer([protocol.input("pixels", "FP32", np.full((1, 4, 3, 28, 28), np.nan, np.float32)), ratios([1, 2])]))
    protocol.refuses("dtype must be", infer([images(FILES)], parameters={"dtype": "INT8"}))
    protocol.refuses("dtype must be", infer([images(FILES)], parameters={"dtype": 16}))


def check_pixels(protocol):
    """A picture's tiles give what the picture gives, in each type that holds them, whatever else is in the batch."""
    embeddings, ratios = tilesight.encode(SMALL, PATHS)
    metadata = protocol.client.get_model_metadata("completed", **({"as_json": True} if protocol.name == "grpc" else {}))
    shapes = {tensor["name"]: [int(size) for size in tensor["shape"]] for tensor in metadata["inputs"] + metadata["outputs"]}
    assert shapes["pixels"] == [-1, -1, 3, 112, 112] and shapes["image"] == [-1, 1], shapes
    assert shapes["embeddings"] == [-1, -1, 128] and shapes["num_tiles"] == [-1, 1], shapes
    for path, file, expected, ratio in zip(PATHS, FILES, embeddings, ratios):
        tiles, _ = tilesight.tiles(SMALL, path)
        result = protocol.pixels("completed", tiles[None], "FP32", [ratio])
        assert result.as_numpy("embeddings").tobytes() == expected.tobytes()
        assert result.as_numpy("num_tiles").tolist() == [[len(tiles)]]
        assert result.as_numpy("aspect_ratio").tolist() == [ratio.tolist()]
        result = protocol.infer("completed", [protocol.images([file])])
        assert result.as_numpy("embeddings").tobytes() == expected.tobytes() and len(result.as_numpy("embeddings")) == 1
    one = np.linspace(-1, 1, 3 * 112 * 112, dtype=np.float32).reshape(1, 1, 3, 112, 112)
    alone = protocol.pixels("completed", one, "FP32").as_numpy("embeddings")
    assert np.array_equal(alone, protocol.pixels("completed", one, "FP32", [[1, 1]]).as_numpy("embeddings"))

    # Two instances, in half precision both ways.
    halves = np.arange(2 * 4 * 3 * 28 * 28, dtype=np.float32).reshape(2, 4, 3, 28, 28) % 97 / 64 - 0.75
    wide = protocol.pixels("tilesight", halves, "FP32", [[1, 2], [2, 2]]).as_numpy("embeddings")
    for _ in range(4):
        result = protocol.pixels("halves", halves.astype(np.float16), "FP16", [[1, 2], [2, 2]])
        assert result.as_numpy("embeddings").dtype == np.float16
        assert np.array_equal(result.as_numpy("embeddings"), wide.astype(np.float16))

    case = read_tensors(f"{ONE_CHANNEL}/case0.safetensors")
    _, images_each, tiles, *_ = case["images"].shape
    expected = tilesight.run("encode", "--device", "cpu", "--model", ONE_CHANNEL, "--pixels", f"{ONE_CHANNEL}/case0.safetensors")
    images = case["images"].reshape(-1, *case["images"].shape[2:])
    ratio = case["aspect_ratio"].reshape(-1, 2) if "aspect_ratio" in case else None
    result = protocol.pixels("one-channel", images, "FP32", ratio).as_numpy("embeddings")
    rows = expected["embeddings"].reshape(len(images), -1, expected["embeddings"].shape[-1])
    assert np.array_equal(result[:, : rows.shape[1]], rows) and not result[:, rows.shape[1] :].any()


def check_crowd(server, padded):
    """Many at once: batches are made, bad requests among them fail alone, and statistics count it all."""
    before = server.statistics("tilesight")
    kinds = [number % 4 for number in range(240)]
    protocol = Protocol(server, "http")
    asked = [
        server.http.async_infer("tilesight", [protocol.images([FILES[kind] if kind < 3 else b"GIF89a, not read"])])
        for kind in kinds
    ]
    for kind, answer in zip(kinds, asked):
        if kind == 3:
            protocol.refuses("picture", answer.get_result)
        else:
            result = answer.get_result()
            assert result.as_numpy("embeddings").tobytes() == padded[kind].tobytes()
            # A client that keeps an answer keeps its memory.
            del result
    answers = queue.Queue()
    over_grpc = Protocol(server, "grpc")
    for kind in kinds:
        contents = FILES[kind] if kind < 3 else FILES[0][:100]
        inputs = [over_grpc.images([contents])]
        server.grpc.async_infer("tilesight", inputs, lambda result, error, kind=kind: answers.put((kind, result, error)))
    for _ in kinds:
        kind, result, error = answers.get(timeout=600)
        assert (error is not None) == (kind == 3), error
        assert error or result.as_numpy("embeddings").tobytes() == padded[kind].tobytes()

    # A request is counted behind its answer.
    for _ in range(600):
        after = server.statistics("tilesight")
        success, fail = (after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"] for name in ("success", "fail"))
        if (success, fail) == (360, 120):
            break
        time.sleep(0.1)
    assert (success, fail) == (360, 120), (success, fail)
    inferences, executions = (after[name] - before[name] for name in ("inference_count", "execution_count"))
    assert inferences == 360 and executions < inferences, (inferences, executions)
    assert any(batch["batch_size"] > 1 for batch in after["batch_stats"])
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert after["inference_stats"][name]["ns"] > before["inference_stats"][name]["ns"], name
    times = [after["inference_stats"][name]["ns"] for name in ("queue", "compute_input", "compute_infer", "compute_output")]
    assert sum(times) <= after["inference_stats"]["success"]["ns"], after
    return inferences, executions


def check_shared_memory(server, padded):
    """Pictures and embeddings in memory that client and server share."""
    protocol = Protocol(server, "grpc")
    elements = serialize_byte_tensor(np.array([[FILES[0]]], dtype=np.object_))
    size = len(FILES[0]) + 4
    keys = [f"/tilesight-{os.getpid()}-{name}" for name in ("in", "out")]
    region = shared_memory.create_shared_memory_region("in", keys[0], size)
    answer = shared_memory.create_shared_memory_region("out", keys[1], padded[0].nbytes)
    try:
        shared_memory.set_shared_memory_region(region, [elements])
        server.grpc.register_system_shared_memory("in", keys[0], size)
        server.grpc.register_system_shared_memory("out", keys[1], padded[0].nbytes)
        image = protocol.module.InferInput("image", [1, 1], "BYTES")
        image.set_shared_memory("in", size)
        output = protocol.module.InferRequestedOutput("embeddings")
        output.set_shared_memory("out", padded[0].nbytes)
        server.grpc.infer("tilesight", [image], outputs=[output])
        values = shared_memory.get_contents_as_numpy(answer, np.float32, padded[0].shape)
        assert values.tobytes() == padded[0].tobytes()
        server.grpc.unregister_system_shared_memory()
    finally:
        shared_memory.destroy_shared_memory_region(region)
        shared_memory.destroy_shared_memory_region(answer)


def settled(server, threads):
    """What the process holds when threads have ended, in their own time: when there are no more than so many, or else when
    there are as many as half a second before."""
    found = server.resident()
    for _ in range(600):
        before = found
        time.sleep(0.5)
        found = server.resident()
        if found[1] <= (before[1] if threads is None else threads):
            break
    return found


def check_reloads(server):
    """A model that is unloaded leaves nothing, and comes back as it was. The demo model has its weights in memory."""
    protocol = Protocol(server, "http")
    image = protocol.images([FILES[0]])
    [expected], _ = tilesight.encode(None, PATHS[:1])
    unloaded, loaded = [], []
    for _ in range(6):
        server.http.load_model("demo")
        result = protocol.infer("demo", [image]).as_numpy("embeddings")
        assert result[0, : len(expected)].tobytes() == expected.tobytes() and not result[0, len(expected) :].any()
        loaded.append(server.resident())
        server.http.unload_model("demo")
        for _ in range(600):
            if not server.http.is_model_ready("demo"):
                break
            time.sleep(0.1)
        protocol.refuses("demo", lambda: protocol.infer("demo", [image]))
        unloaded.append(settled(server, unloaded[0][1] if unloaded else None))
    model = loaded[0][0] - unloaded[0][0]
    grown = unloaded[-1][0] - unloaded[0][0]
    print(f"a demo model takes {model >> 20} MiB; after five more loads and unloads {grown >> 10} KiB are left behind")
    assert model > 16 << 20 and grown < 2 << 20, (loaded, unloaded)
    assert unloaded[-1][1] <= unloaded[0][1], (loaded, unloaded)


def check_wrong(server):
    protocol = Protocol(server, "http")
    for name, (_, words) in WRONG.items():
        protocol.refuses(words, lambda: server.http.load_model(name))


with tempfile.TemporaryDirectory() as work:
    models, backends = f"{work}/models", f"{work}/backends"
    os.makedirs(f"{backends}/tilesight")
    shutil.copy(library, f"{backends}/tilesight/libtriton_tilesight.so")
    make_repository(models)
    with Server(tritonserver, backends, models) as server:
        for name in ("tilesight", "completed", "halves", "one-channel"):
            server.http.load_model(name)
        for protocol in (Protocol(server, "http"), Protocol(server, "grpc")):
            padded = check_pictures(protocol)
            check_refusals(protocol)
            check_pixels(protocol)
        print(f"tritonclient, HTTP and gRPC: {len(FILES)} pictures and their tiles, to the bit what tilesight encode gives")
        inferences, executions = check_crowd(server, padded)
        print(f"{inferences} good and 120 bad requests at once: {executions} executions")
        check_shared_memory(server, padded)
        check_wrong(server)
        print(f"{len(WRONG)} wrong configurations refused, each with its reason")
        perf = [sys.executable, "tests/clients/perf.py", server.http_address, server.grpc_address, *PATHS]
        subprocess.run(perf, check=True)
    # The configuration that is shipped leaves nothing to add.
    with Server(tritonserver, backends, models, "--disable-auto-complete-config") as server:
        server.http.load_model("tilesight")
        protocol = Protocol(server, "http")
        assert np.array_equal(check_pictures(protocol), padded)
        protocol.refuses("max_batch_size must be at least 1", lambda: server.http.load_model("completed"))
    # The C library keeps what was freed for its threads, up to a limit that five loads do not reach: without that, what is
    # left is what was not freed.
    with Server(tritonserver, backends, models, MALLOC_ARENA_MAX="1", MALLOC_MMAP_THRESHOLD_="65536") as server:
        check_reloads(server)
