#!/usr/bin/env python3
"""How the time of an encode grows with its work: tiles of an image, images of a batch, rows of a tile.

    cargo build --release
    benches/growth.py --json growth.json --svg growth.svg
    benches/growth.py --device cuda --layers 32 8 --batches 1 2 4 8 16 --json growth.json --svg growth.svg

Makes a random model of the 11B geometry with as many layers as --layers says (of the transformer, of the gated layers), runs
`tilesight profile` on each shape, and draws the seconds of whole encodes over their FLOPs. Time that grows as the work does
lies on one line, drawn through the fastest shape: what lies above it is slower a FLOP.

Shapes take turns, one round of each after the other, so that a machine that changes its speed does so for all of them. The
standard library is all it needs.
"""
import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
GRIDS = {1: "1x1", 2: "2x1", 3: "3x1", 4: "2x2"}
NAMES = {"tiles": "tiles of an image", "batch": "images of one tile", "side": "side of one tile, pixels"}
COLOURS = {"tiles": "#4f7fd6", "batch": "#df9134", "side": "#57a57c"}


def config(layers):
    return {"patch_size": 14, "num_heads": 16, "clip_embed_dim": 1280, "clip_num_layers": layers[0],
            "clip_hidden_states": [min(3, layers[0] - 1)], "num_layers_projection": layers[1], "decoder_embed_dim": 4096,
            "tile_size": 560, "max_num_tiles": 4, "in_channels": 3}


def shapes(options):
    """Kind, number, and the arguments that say so."""
    for tiles in range(1, 5):
        yield "tiles", tiles, ["--tiles", GRIDS[tiles]]
    for images in options.batches:
        yield "batch", images, ["--tiles", ",".join(["1x1"] * images)]
    for side in options.sides:
        yield "side", side, ["--tiles", "1x1", "--tile-size", str(side)]


def measure(options, folder):
    """A row for each shape: FLOPs and the seconds of each round."""
    model = folder / "model"
    model.mkdir()
    parameters = folder / "config.json"
    parameters.write_text(json.dumps(config(options.layers)))
    random = [options.tilesight, "random", "--config", parameters, "--seed", "7", "--output", model]
    subprocess.run([str(word) for word in random], check=True, stdout=subprocess.DEVNULL)
    rows = {}
    for round_ in range(options.rounds):
        for kind, number, arguments in shapes(options):
            report = folder / "profile.json"
            command = [options.tilesight, "profile", "--model", model, "--device", options.device, "--rounds",
                       options.repeat, "--json", report, *arguments]
            subprocess.run([str(word) for word in command], check=True, capture_output=True)
            found = json.loads(report.read_text())
            row = rows.setdefault((kind, number), {
                "kind": kind, "number": number, "flops": sum(step["flops"] for step in found["steps"]), "seconds": []})
            row["seconds"] += found["encode_seconds"]
            print(f"round {round_ + 1} of {options.rounds}: {NAMES[kind]} {number}: "
                  f"{statistics.median(found['encode_seconds']):.3f} s", file=sys.stderr)
    return list(rows.values()), found


def summary(row):
    median = statistics.median(row["seconds"])
    return {**row, "median": median, "least": min(row["seconds"]), "most": max(row["seconds"]),
            "gflop_per_s": row["flops"] / median / 1e9}


def svg(rows, title):
    """Seconds over FLOPs, both logarithmic."""
    width, height, left, right, top, bottom = 760, 440, 70, 20, 40, 50
    xs = [row["flops"] for row in rows]
    ys = [value for row in rows for value in (row["least"], row["most"])]
    x0, x1, y0, y1 = min(xs) / 1.4, max(xs) * 1.4, min(ys) / 1.5, max(ys) * 1.5

    def x(value):
        return left + (math.log(value) - math.log(x0)) / (math.log(x1) - math.log(x0)) * (width - left - right)

    def y(value):
        return height - bottom - (math.log(value) - math.log(y0)) / (math.log(y1) - math.log(y0)) * (height - top - bottom)

    def ticks(low, high):
        marks = [factor * 10.0 ** power for power in range(-12, 18) for factor in (1, 2, 5)]
        return [mark for mark in marks if low <= mark <= high]

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="#fbfaf7"/>', f'<text x="{left}" y="20">{title}</text>']
    for mark in ticks(x0, x1):
        out.append(f'<line x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{top}" y2="{height - bottom}" stroke="#dedcd5"/>'
                   f'<text x="{x(mark):.1f}" y="{height - bottom + 16}" text-anchor="middle">{mark / 1e12:g}</text>')
    for mark in ticks(y0, y1):
        out.append(f'<line x1="{left}" x2="{width - right}" y1="{y(mark):.1f}" y2="{y(mark):.1f}" stroke="#dedcd5"/>'
                   f'<text x="{left - 6}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:g} s</text>')
    out.append(f'<text x="{width - right}" y="{height - 12}" text-anchor="end">TFLOP of an encode</text>')
    rate = max(row["flops"] / row["median"] for row in rows)
    ends = [max(x0, y0 * rate), min(x1, y1 * rate)]
    out.append(f'<line x1="{x(ends[0]):.1f}" y1="{y(ends[0] / rate):.1f}" x2="{x(ends[1]):.1f}" '
               f'y2="{y(ends[1] / rate):.1f}" stroke="#62656d" stroke-dasharray="5 4"/>'
               f'<text x="{x(ends[1]) - 6:.1f}" y="{y(ends[1] / rate) + 18:.1f}" text-anchor="end" fill="#62656d">'
               f'{rate / 1e9:.0f} GFLOP/s</text>')
    for place, (kind, name) in enumerate(NAMES.items()):
        out.append(f'<circle cx="{left + 16}" cy="{top + 16 + 18 * place}" r="5" fill="{COLOURS[kind]}"/>'
                   f'<text x="{left + 28}" y="{top + 20 + 18 * place}">{name}</text>')
    for row in rows:
        colour = COLOURS[row["kind"]]
        out.append(f'<line x1="{x(row["flops"]):.1f}" x2="{x(row["flops"]):.1f}" y1="{y(row["least"]):.1f}" '
                   f'y2="{y(row["most"]):.1f}" stroke="{colour}"/>'
                   f'<circle cx="{x(row["flops"]):.1f}" cy="{y(row["median"]):.1f}" r="5" fill="{colour}" fill-opacity=".8">'
                   f'<title>{NAMES[row["kind"]]} {row["number"]}: {row["median"]:.3f} s</title></circle>'
                   f'<text x="{x(row["flops"]) + 8:.1f}" y="{y(row["median"]) + 14:.1f}">{row["number"]}</text>')
    return "".join(out) + "</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tilesight", default=ROOT / "target/release/tilesight", type=pathlib.Path)
    parser.add_argument("--device", default="cpu", help="as tilesight takes it (cpu)")
    parser.add_argument("--layers", nargs=2, type=int, default=[4, 1], metavar=("N", "M"),
                        help="layers of the transformer, and gated ones (4 1: an eighth of the model's)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8], help="images of a batch (1 2 4 8)")
    parser.add_argument("--sides", nargs="+", type=int, default=[224, 336, 448, 560], help="of a tile (224 336 448 560)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of all shapes (3)")
    parser.add_argument("--repeat", type=int, default=1, help="encodes of a shape in its turn, after one more (1)")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--svg", type=pathlib.Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, found = measure(options, pathlib.Path(folder))
    rows = [summary(row) for row in rows]
    for row in rows:
        print(f"{NAMES[row['kind']]:>26} {row['number']:>4}  {row['flops'] / 1e12:7.3f} TFLOP  {row['median']:8.3f} s "
              f"({row['least']:.3f} to {row['most']:.3f})  {row['gflop_per_s']:8.1f} GFLOP/s")
    report = {"version": found["version"], "device": found["device"], "dtype": found["dtype"], "threads": found["threads"],
              "layers": options.layers, "rounds": options.rounds, "repeat": options.repeat, "rows": rows}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.svg:
        layers = f"{options.layers[0]} + {options.layers[1]} layers of the 11B geometry"
        options.svg.write_text(svg(rows, f"{layers}, {found['dtype']}, {found['device']}, {found['threads']} threads"))


if __name__ == "__main__":
    main()
