"""The pages in a real browser, against a running server.

    page.py BROWSER ADDRESS FOLDER PICTURE JPEG

Chooses, drops and pastes the pictures, and holds what is drawn against the server's own answer: the canvas, the grid,
the times, and the colours of the embeddings, which numpy computes again. Screenshots go to FOLDER.
"""

import base64
import json
import pathlib
import sys
import urllib.error
import urllib.request
import zlib

import numpy as np
from answer import Answer, colors_of, require_colors
from browser import Browser

program, address, folder, picture, jpeg = sys.argv[1:]
origin = f"http://{address}"
pathlib.Path(folder).mkdir(parents=True, exist_ok=True)

READY = "'ready' in document.querySelector('#components canvas').dataset"
FAILED = "!document.querySelector('#failure').hidden"
# Exif that says: turn it by 90 degrees. The encoder does not look, so neither must the page.
EXIF = b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"


def read(path):
    with open(path, "rb") as file:
        return file.read()


def transparent_png(side):
    """A square of which nothing is to be seen."""

    def chunk(kind, data):
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    head = side.to_bytes(4) * 2 + bytes([8, 6, 0, 0, 0])
    rows = zlib.compress((b"\0" + bytes(4 * side)) * side)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def number(text):
    value, unit = text.split()[:2]
    return float(value) * {"ms": 1, "s": 1000}[unit]


def check_shown(browser, answer):
    """What is drawn is what the answer says."""
    browser.wait_for(READY)
    height, width = answer.down * answer.tile, answer.across * answer.tile
    count = answer.down * answer.across
    for figure in ["picture", "components"]:
        shown = browser.evaluate(
            f"""(() => {{
              const canvas = document.querySelector("#{figure} .canvas"), svg = canvas.querySelector("svg");
              const box = canvas.getBoundingClientRect(), image = canvas.querySelector("img");
              return {{
                ratio: box.width / box.height, wide: box.width,
                lines: [...svg.querySelectorAll("line")].map((line) =>
                  ["x1", "y1", "x2", "y2"].map((name) => parseFloat(line.getAttribute(name)))),
                labels: [...svg.querySelectorAll("text")].map((label) => label.textContent),
                image: [image.style.width, image.style.height].map(parseFloat),
              }};
            }})()"""
        )
        # The border is a pixel on each side.
        assert abs(shown["ratio"] - width / height) < 0.02 * width / height and shown["wide"] > 100, shown
        down = [[0, 100 * k / answer.down, 100, 100 * k / answer.down] for k in range(1, answer.down)]
        across = [[100 * k / answer.across, 0, 100 * k / answer.across, 100] for k in range(1, answer.across)]
        assert len(shown["lines"]) == len(down + across) and np.allclose(shown["lines"], down + across), shown
        assert shown["labels"] == [str(k + 1) for k in range(count)], shown
        assert np.allclose(shown["image"], [100 * answer.width / width, 100 * answer.height / height], atol=1e-3), shown
    words = browser.evaluate("document.querySelector('#picture .what').textContent")
    assert f"resized to {answer.width} × {answer.height}" in words, words
    assert f"{count} tile" in words and f"{answer.down} down and {answer.across} across" in words, words
    check_timing(browser)
    check_colors(browser, answer)


def check_timing(browser):
    shown = browser.evaluate(
        """({
          total: Number(document.querySelector("#total").dataset.ms), totalText: document.querySelector("#total").value,
          stages: [...document.querySelectorAll("#stages li")].map((line) =>
            [line.querySelector("b").textContent, Number(line.querySelector("data").value), line.querySelector("data").textContent]),
          bars: [...document.querySelectorAll("#bar i")].map((bar) => Number(bar.style.flexGrow)),
        })"""
    )
    names = [name for name, _, _ in shown["stages"]]
    assert names[-2:] == ["between", "transfer"] and {"receive", "decode", "preprocess", "queue"} < set(names), names
    times = [ms for _, ms, _ in shown["stages"]]
    assert np.allclose(shown["bars"], times, rtol=1e-4), shown
    computed = [ms for name, ms in zip(names, times) if name in ["compute", "gpu"]]
    assert len(computed) == 1 and computed[0] > 0 and min(times) >= 0, shown
    meanings = browser.evaluate("[...document.querySelectorAll('#stages small')].map((small) => small.textContent)")
    assert all(meanings), f"a stage is not explained: {meanings} of {names}"
    # A browser's clock has steps of a tenth of a millisecond; the server's stages are within what it saw.
    assert abs(sum(times) - shown["total"]) < 0.5, shown
    for text, ms in [(text, ms) for _, ms, text in shown["stages"]] + [(shown["totalText"], shown["total"])]:
        assert abs(number(text) - ms) <= 0.5 + 0.01 * ms, (text, ms)


def pixels(browser, source):
    """[height, width, 4] of a canvas or an image."""
    # Drawn once more, for the browser grumbles about a canvas that is read again and again.
    height, width, data = browser.evaluate(
        f"""(async () => {{
          const source = await {source};
          const copy = new OffscreenCanvas(source.width, source.height).getContext("2d", {{ willReadFrequently: true }});
          copy.drawImage(source, 0, 0);
          let text = "";
          for (const value of copy.getImageData(0, 0, source.width, source.height).data) text += String.fromCharCode(value);
          return [source.height, source.width, btoa(text)];
        }})()"""
    )
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4).astype(float)


def check_colors(browser, answer):
    found = pixels(browser, "document.querySelector('#components canvas')")
    expected, shares = colors_of(answer.patches())
    assert (found[..., 3] == 255).all()
    require_colors(found[..., :3], expected)
    words = browser.evaluate("document.querySelector('#components .what').textContent")
    for share in shares:
        assert f"{100 * share:.{1 if share < 0.0995 else 0}f} %" in words, (shares, words)


def check_pointer(browser, answer):
    """A patch in the middle of the last tile is framed in both figures, and its row is the embeddings'."""
    row, column = (answer.down - 1) * answer.side + answer.side // 2, (answer.across - 1) * answer.side + answer.side // 2
    place = browser.evaluate(
        "(() => { const svg = document.querySelector('#components svg'); svg.scrollIntoView({ block: 'center' });"
        "const { x, y, width, height } = svg.getBoundingClientRect(); return [x, y, width, height]; })()"
    )
    x = place[0] + place[2] * (column + 0.5) / (answer.across * answer.side)
    y = place[1] + place[3] * (row + 0.5) / (answer.down * answer.side)
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tile = answer.down * answer.across - 1
    token = tile * answer.tokens + 1 + answer.side // 2 * answer.side + answer.side // 2
    browser.wait_for(f"document.querySelector('#patch').textContent.includes('row {token} of the embeddings')")
    frames = "document.querySelectorAll('svg rect[visibility=visible]').length"
    assert browser.evaluate(frames) == 2
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert browser.evaluate(frames) == 0


def check_narrow(browser, name):
    """Nothing is wider than a phone."""
    for scheme in ["light", "dark"]:
        browser.prefer(scheme)
        browser.resize(360, 740, touch=True)
        width = browser.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, f"{name} is {width} pixels wide on a phone"
        browser.screenshot(f"{folder}/{name}-phone-{scheme}.png")
    browser.prefer("light")
    browser.resize(1280, 900)


def drop(browser, path):
    """As a file manager does it."""
    data = {"items": [], "files": [str(pathlib.Path(path).resolve())], "dragOperationsMask": 1}
    for kind in ["dragEnter", "dragOver", "drop"]:
        browser.call("Input.dispatchDragEvent", type=kind, x=600, y=400, data=data)


def forget(browser):
    browser.evaluate("delete document.querySelector('#components canvas').dataset.ready")


def main(browser):
    browser.resize(1280, 900)
    browser.open(f"{origin}/")
    browser.wait_for("document.querySelector('#state').textContent === 'ready'")
    browser.wait_for("document.querySelector('#facts').textContent.includes('Width of an embedding')")
    browser.screenshot(f"{folder}/first.png")

    answer = Answer(origin, read(picture))
    browser.choose("#file", picture)
    check_shown(browser, answer)
    check_pointer(browser, answer)
    facts = browser.evaluate("document.querySelector('#facts').innerText")
    for fact in [f"{answer.tile} × {answer.tile} pixels", answer.metadata["semantics"], answer.metadata["computed_in"]]:
        assert fact in facts, (fact, facts)
    browser.screenshot(f"{folder}/chosen.png")
    check_narrow(browser, "page")

    # The keys: the dialogue, the grid, and the components over the picture.
    browser.call("Page.setInterceptFileChooserDialog", enabled=True)
    browser.press("o")
    browser.wait_until_told("Page.fileChooserOpened")
    browser.call("Page.setInterceptFileChooserDialog", enabled=False)
    browser.evaluate("document.querySelector('#file').focus()")
    ring = browser.evaluate("getComputedStyle(document.querySelector('#pick label')).outlineStyle")
    assert ring == "solid", f"the button does not show that it has the focus: {ring}"
    shown = "getComputedStyle(document.querySelector('#picture svg g')).display"
    assert browser.evaluate(shown) != "none"
    browser.press("g")
    assert browser.evaluate(shown) == "none"
    browser.press("g")
    browser.press("v")
    assert browser.evaluate("document.querySelector('#components img').checkVisibility()")
    assert browser.evaluate("getComputedStyle(document.querySelector('#components canvas')).opacity") < "1"
    browser.press("v")
    assert not browser.evaluate("document.querySelector('#components img').checkVisibility()")

    # Something that is no picture: the server's own words, and the next picture is shown again.
    assert not browser.console, browser.console
    broken = pathlib.Path(folder, "broken.png")
    broken.write_bytes(b"no picture")
    browser.choose("#file", broken)
    browser.wait_for(FAILED)
    words = browser.evaluate("document.querySelector('#failure').textContent")
    try:
        Answer(origin, broken.read_bytes())
        raise AssertionError("the server took what is no picture")
    except urllib.error.HTTPError as error:
        assert words == f"{error.code}: {json.loads(error.read())['error']}" and error.code == 415, words
    assert not browser.evaluate("document.querySelector('#figures').checkVisibility()")
    browser.screenshot(f"{folder}/failed.png")
    # The browser itself notes every status from 400 on.
    assert len(browser.console) == 1 and "415" in browser.console.pop(), browser.console

    forget(browser)
    drop(browser, jpeg)
    jpeg_answer = Answer(origin, read(jpeg))
    check_shown(browser, jpeg_answer)
    assert not browser.evaluate(FAILED)
    browser.screenshot(f"{folder}/dropped.png")

    turned = read(jpeg)[:2] + EXIF + read(jpeg)[2:]
    as_it_is = draw(browser)
    forget(browser)
    browser.evaluate(
        f"""(() => {{
          const clipboardData = new DataTransfer();
          const bytes = Uint8Array.from(atob("{base64.b64encode(turned).decode()}"), (letter) => letter.charCodeAt());
          clipboardData.items.add(new File([bytes], "pasted.jpg", {{ type: "image/jpeg" }}));
          document.dispatchEvent(new ClipboardEvent("paste", {{ clipboardData }}));
        }})()"""
    )
    check_shown(browser, jpeg_answer)
    # Two paintings of the same differ in a few pixels by a level.
    difference = np.abs(draw(browser) - as_it_is).mean()
    assert difference < 0.5, f"the picture is turned, which the encoder does not see ({difference})"

    # One tile; transparency is white, where the encoder's pictures are Pillow's.
    if answer.metadata["preprocess"] == "pil":
        forget(browser)
        clear = pathlib.Path(folder, "clear.png")
        clear.write_bytes(transparent_png(answer.tile))
        browser.choose("#file", clear)
        check_shown(browser, Answer(origin, clear.read_bytes()))
        browser.press("g")
        # Within the border.
        assert (draw(browser)[2:-2, 2:-2] == 255).all()
        browser.press("g")

    check_components(browser)
    check_channels(browser)

    browser.open(f"{origin}/docs")
    browser.wait_for("!document.querySelector('[aria-busy]')")
    text = browser.evaluate("document.body.innerText")
    with urllib.request.urlopen(f"{origin}/openapi.json") as response:
        for path in json.load(response)["paths"]:
            assert path in text, f"{path} is not on the page"
    check_narrow(browser, "docs")
    browser.screenshot(f"{folder}/docs.png")

    assert not browser.console, browser.console
    elsewhere = [url for url in browser.requests if not url.startswith((f"{origin}/", f"blob:{origin}/", "data:"))]
    assert browser.requests and not elsewhere, elsewhere


def draw(browser):
    """The picture's figure as the browser shows it, [height, width, 4]."""
    browser.evaluate("document.querySelector('#picture img').decode()")
    box = browser.evaluate(
        "(() => { scrollTo(0, 0); const { x, y, width, height } = document.querySelector('#picture .canvas')"
        ".getBoundingClientRect(); return { x, y, width, height, scale: 1 }; })()"
    )
    shot = browser.call("Page.captureScreenshot", clip=box)["data"]
    return pixels(browser, f"(async () => {{ const image = new Image(); image.src = 'data:image/png;base64,{shot}';"
                           " await image.decode(); return image; })()")


def components(browser, source, rows, width, tokens):
    """What the worker finds in bf16 values, a JavaScript expression that fills `values`; and how it kept the page busy."""
    return browser.evaluate(
        f"""(async () => {{
          const [rows, width, tokens] = [{rows}, {width}, {tokens}];
          const buffer = new ArrayBuffer(2 * rows * width), values = new Uint16Array(buffer);
          {source};
          let [worst, last] = [0, performance.now()];
          const beat = setInterval(() => {{
            worst = Math.max(worst, performance.now() - last);
            last = performance.now();
          }}, 5);
          const worker = new Worker("page/components.js");
          const answer = await new Promise((resolve) => {{
            worker.onmessage = ({{ data }}) => resolve(data);
            worker.postMessage({{ buffer, offset: 0, rows, width, tokens }}, [buffer]);
          }});
          clearInterval(beat);
          return {{ ...answer, colors: [...(answer.colors ?? [])], worst }};
        }})()"""
    )


def check_components(browser):
    # Enough patches for the hundredths at both ends to be cut off.
    rows, width, tokens = 2 * 257, 48, 257
    noise = np.random.default_rng(5).standard_normal((rows, width)) * np.geomspace(1, 0.1, width) + 3
    bits = noise.astype("<f4").view("<u4") >> 16
    given = base64.b64encode(bits.astype("<u2").tobytes()).decode()
    source = f"new Uint8Array(buffer).set(Uint8Array.from(atob('{given}'), (letter) => letter.charCodeAt()))"
    found = components(browser, source, rows, width, tokens)
    kept = (bits << 16).view("<f4").astype(float).reshape(2, tokens, width)[:, 1:]
    expected, shares = colors_of(kept)
    assert ((expected == 0) | (expected == 255)).sum() > 6
    require_colors(np.array(found["colors"], float).reshape(expected.shape), expected)
    assert np.allclose(found["shares"], shares, rtol=1e-6), (found["shares"], shares)

    same = components(browser, "values.fill(0x3f80)", 10, 4, 5)
    assert same["colors"] == [128] * 24, same
    broken = components(browser, "values.fill(0x7fc0)", 10, 4, 5)
    assert "not finite" in broken["error"], broken

    # As many numbers as the largest canvas of the published encoder has; the page stays alive.
    source = """for (let row = 0, k = 0; row < rows; row++) {
      const [first, second, float] = [3 * Math.sin(row), 2 * Math.cos(3 * row), new Float32Array(1)];
      const bits = new Uint32Array(float.buffer);
      for (let column = 0; column < width; column++, k++) {
        float[0] = first * (column % 2) + second * (column % 3) + (Math.imul(k, 2654435761) >>> 16) / 65536;
        values[k] = bits[0] >>> 16;
      }
    }"""
    found = components(browser, source, 6404, 4096, 1601)
    assert "error" not in found and len(found["colors"]) == 3 * 6400, found
    assert found["worst"] < found["ms"] / 2, f"the page stood still: {found['worst']} of {found['ms']} ms"
    print(f"components of 6400 x 4096: {found['ms'] / 1000:.1f} s")


def check_channels(browser):
    """An encoder of one channel takes no pictures, and the page says so."""
    told = browser.call(
        "Page.addScriptToEvaluateOnNewDocument",
        source="""const ask = window.fetch;
          window.fetch = async (...request) => {
            const answer = await ask(...request);
            if (request[0] !== "v2/models/tilesight") return answer;
            const model = await answer.json();
            model.inputs.find(({ name }) => name === "pixels").shape[2] = 1;
            return Response.json(model);
          };""",
    )["identifier"]
    browser.open(f"{origin}/?one-channel")
    browser.wait_for("document.querySelector('#file').disabled")
    button = "getComputedStyle(document.querySelector('#pick label')).cursor"
    assert browser.evaluate(button) == "not-allowed", browser.evaluate(button)
    assert "takes 1 channel, and pictures have three" in browser.evaluate("document.querySelector('#ways').textContent")
    asked = len(browser.requests)
    drop(browser, picture)
    browser.evaluate("new Promise((resolve) => setTimeout(resolve, 100))")
    assert not [url for url in browser.requests[asked:] if "encode" in url]
    browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=told)


if __name__ == "__main__":
    browser = Browser(program)
    try:
        main(browser)
    finally:
        browser.close()
    print("browser: the pages show what the server answers")
