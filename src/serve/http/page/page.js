// The page: a picture goes to POST /v1/encode, and everything that is shown is in the answer.

import { geometryOf, readFile, refusal, serverTiming } from "./answer.js";
import { followPatches, layOut, paint, showAlone } from "./figures.js";

const byId = (id) => document.getElementById(id);
const figures = [byId("picture"), byId("components")];
const images = figures.map((figure) => figure.querySelector("img"));
const components = figures[1].querySelector("canvas");

const HINT = byId("patch").textContent;
const POLL_MS = 3000;
const MEANINGS = {
  receive: "the picture arrives",
  decode: "the file becomes pixels",
  preprocess: "resized and cut into tiles",
  queue: "waiting for its turn",
  compute: "the encoder, with all of its batch",
  h2d: "the batch goes to the GPU",
  gpu: "the encoder, with all of its batch",
  d2h: "the embeddings come back",
  serialise: "the answer is made",
  between: "the way there and back, and the browser",
};

// What belongs to the picture that is shown; the next one ends it.
let current = null;

async function show(file) {
  end(current);
  const mine = (current = { abort: new AbortController(), url: URL.createObjectURL(file), worker: null });
  byId("failure").hidden = true;
  byId("figures").hidden = byId("timing").hidden = true;
  delete components.dataset.ready;
  preview(mine);
  const ticking = tick(mine);
  try {
    const answer = await encode(file, mine.abort.signal);
    if (mine !== current) return;
    document.body.classList.remove("first");
    byId("figures").hidden = byId("timing").hidden = false;
    showGeometry(answer.file);
    showTiming(answer);
    showModel(answer.file.metadata);
    await showComponents(mine, answer);
  } catch (error) {
    if (mine !== current) return;
    end(mine);
    current = null;
    byId("figures").hidden = byId("progress").hidden = true;
    byId("failure").textContent = error.message;
    byId("failure").hidden = false;
  } finally {
    clearInterval(ticking);
    if (mine === current) byId("progress").hidden = true;
  }
}

function end(shown) {
  shown?.abort.abort();
  shown?.worker?.terminate();
  if (shown) URL.revokeObjectURL(shown.url);
}

/// The picture as soon as the browser has read it; its tiles are not known before the answer.
function preview(mine) {
  images[0].onload = () => {
    if (mine !== current || !byId("timing").hidden) return;
    document.body.classList.remove("first");
    byId("figures").hidden = false;
    figures[1].hidden = true;
    showAlone(figures[0], images[0].naturalWidth / images[0].naturalHeight);
    figures[0].querySelector(".what").textContent = "";
  };
  for (const image of images) image.src = mine.url;
}

function tick(mine) {
  const begin = performance.now();
  const say = () => {
    if (mine !== current) return;
    const seconds = ((performance.now() - begin) / 1000).toFixed(1);
    byId("progress").textContent = `${mine.worker ? "Finding the components" : "Encoding"} … ${seconds} s`;
  };
  say();
  byId("progress").hidden = false;
  return setInterval(say, 100);
}

/// The answer, and when its first and its last byte were here.
async function encode(file, signal) {
  const begin = performance.now();
  let response, buffer, first;
  try {
    response = await fetch("v1/encode?dtype=bf16", { method: "POST", body: file, signal });
    first = performance.now();
    buffer = response.ok ? await response.arrayBuffer() : null;
  } catch (error) {
    throw new Error(`The server cannot be reached, or has gone: ${error.message}`);
  }
  const last = performance.now();
  if (!buffer) throw new Error(await refusal(response));
  return {
    file: readFile(buffer),
    buffer,
    stages: serverTiming(response.headers.get("server-timing")),
    firstByte: first - begin,
    transfer: last - first,
  };
}

function showGeometry(file) {
  const geometry = geometryOf(file);
  const { down, across, tile, width, height, pictureWidth, pictureHeight } = geometry;
  figures[1].hidden = false;
  for (const figure of figures) layOut(figure, geometry);
  // Pillow's way lays a picture over white; torchtune's takes the colours beneath transparency, which no browser shows.
  for (const image of images) image.style.backgroundColor = file.metadata.preprocess === "pil" ? "white" : "";
  followPatches(figures, geometry, (patch) => {
    byId("patch").textContent = patch
      ? `Tile ${patch.tile + 1}, patch ${patch.column + 1} in row ${patch.row + 1}: row ${patch.token} of the embeddings.`
      : HINT;
  });
  const count = down * across;
  const fill = width === across * tile && height === down * tile ? "which it fills" : "the rest is padding";
  figures[0].querySelector(".what").textContent =
    `${pictureWidth} × ${pictureHeight} pixels, resized to ${width} × ${height}, on a canvas of ${across * tile} × ` +
    `${down * tile}, ${fill}: ${count} ${count === 1 ? "tile" : "tiles"}, ${down} down and ${across} across.`;
}

function showTiming({ buffer, stages, firstByte, transfer }) {
  const inServer = stages.reduce((sum, { ms }) => sum + ms, 0);
  // Of less than a megabyte a browser's clock cannot tell.
  const speed = buffer.byteLength > 1e6 ? `, ${(buffer.byteLength / 1e3 / Math.max(transfer, 0.1)).toFixed(0)} MB/s` : "";
  const parts = [
    ...stages,
    { name: "between", ms: Math.max(0, firstByte - inServer) },
    { name: "transfer", ms: transfer, meaning: `${bytes(buffer.byteLength)} of embeddings${speed}` },
  ];
  byId("total").value = `${milliseconds(firstByte + transfer)} round trip`;
  byId("total").dataset.ms = firstByte + transfer;
  byId("bar").replaceChildren(...parts.map(({ name, ms }) => {
    const segment = element("i", "");
    segment.dataset.stage = name;
    segment.style.flexGrow = ms;
    return segment;
  }));
  byId("stages").replaceChildren(...parts.map(({ name, ms, meaning }) => {
    const line = element("li", "");
    line.dataset.stage = name;
    line.append(element("b", name), Object.assign(element("data", milliseconds(ms)), { value: ms }));
    line.append(element("small", meaning ?? MEANINGS[name] ?? ""));
    return line;
  }));
}

/// Sends the embeddings to a worker and paints what comes back.
async function showComponents(mine, { file, buffer }) {
  const { offset, shape: [rows, width] } = file.tensor("embeddings");
  const geometry = geometryOf(file);
  const what = figures[1].querySelector(".what");
  what.textContent = `${rows} rows of ${width} numbers.`;
  components.getContext("2d").clearRect(0, 0, components.width, components.height);
  mine.worker = new Worker("page/components.js");
  const found = await new Promise((resolve, reject) => {
    mine.worker.onmessage = ({ data }) => resolve(data);
    mine.worker.onerror = () => resolve({ error: "this browser has not the memory, or cannot" });
    mine.abort.signal.onabort = () => reject(new Error("another picture has come"));
    mine.worker.postMessage({ buffer, offset, rows, width, tokens: Number(file.metadata.tokens_per_tile) }, [buffer]);
  });
  if (found.error) {
    what.textContent += ` Their components cannot be found: ${found.error}.`;
    return;
  }
  paint(components, geometry, found.colors);
  const shares = found.shares.map((share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`);
  what.textContent =
    `${rows} rows of ${width} numbers. Red, green and blue are the first ${shares.length} principal components of the ` +
    `patches, ${shares.join(", ")} of the variance; found here in ${milliseconds(found.ms)}.`;
  components.dataset.ready = "";
}

/// What the model is; the protocol tells some, the first answer the rest.
async function showModel(metadata) {
  const model = await fetch("v2/models/tilesight").then((answer) => answer.json(), () => null);
  // Then the state says that the server cannot be reached.
  if (!model) return;
  const [, , channels, side] = model.inputs.find(({ name }) => name === "pixels").shape;
  const width = model.outputs.find(({ name }) => name === "embeddings").shape[1];
  const facts = {
    "Tile": `${side} × ${side} pixels`,
    "Channels": channels,
    "Width of an embedding": width,
    "Tokens of a tile": metadata?.tokens_per_tile,
    "Tiles at most": metadata?.max_num_tiles,
    "Semantics": metadata?.semantics,
    "Pictures cut as by": metadata?.preprocess,
    "Computed in": metadata?.computed_in,
    "Version": metadata?.tilesight_version,
  };
  const known = Object.entries(facts).filter(([, fact]) => fact !== undefined);
  byId("facts").replaceChildren(...known.map(([name, fact]) => {
    const pair = element("div", "");
    pair.append(element("dt", name), element("dd", fact));
    return pair;
  }));
  if (channels !== 3) {
    byId("file").disabled = byId("shell").hidden = true;
    byId("ways").textContent =
      `This encoder takes ${channels} ${channels === 1 ? "channel" : "channels"}, and pictures have three. ` +
      "Pixel tensors can be encoded, by POST /v2/models/tilesight/infer.";
  }
}

/// Ready or not, asked again and again while somebody looks.
async function watch() {
  if (!document.hidden) {
    const status = await fetch("health/ready").then(({ status }) => status, () => 0);
    const [state, words] = { 200: ["ready", "ready"], 503: ["waiting", "not ready"] }[status] ?? ["gone", "cannot be reached"];
    byId("state").dataset.state = state;
    if (byId("state").textContent !== words) byId("state").textContent = words;
  }
  setTimeout(watch, POLL_MS);
}

function element(name, text) {
  return Object.assign(document.createElement(name), { textContent: text });
}

function milliseconds(ms) {
  return ms >= 10_000 ? `${(ms / 1000).toFixed(1)} s` : `${ms.toFixed(ms < 10 ? 2 : ms < 100 ? 1 : 0)} ms`;
}

function bytes(count) {
  return count >= 1e6 ? `${(count / 1e6).toFixed(1)} MB` : `${(count / 1e3).toFixed(1)} kB`;
}

function take(list) {
  const file = [...(list ?? [])].find((item) => item instanceof File);
  if (file && !byId("file").disabled) show(file);
}

byId("pick").onsubmit = (event) => event.preventDefault();
byId("file").onchange = ({ target }) => {
  take(target.files);
  // So that the same picture can be chosen again.
  target.value = "";
};
document.ondragover = (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
};
document.ondragleave = ({ relatedTarget }) => relatedTarget ?? document.body.classList.remove("dragging");
document.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  take(event.dataTransfer.files);
};
document.onpaste = ({ clipboardData }) => take(clipboardData.files);
document.onkeydown = ({ key, ctrlKey, metaKey, altKey }) => {
  if (ctrlKey || metaKey || altKey) return;
  ({ o: byId("file"), g: byId("tiles"), v: byId("over") })[key]?.click();
};
byId("tiles").onchange = ({ target }) => {
  for (const figure of figures) figure.querySelector("svg").classList.toggle("bare", !target.checked);
};
byId("over").onchange = ({ target }) => {
  images[1].hidden = !target.checked;
  figures[1].classList.toggle("over", target.checked);
};
byId("shell").textContent =
  `curl --data-binary @photo.jpg ${new URL("v1/encode", location.href)} --output embeddings.safetensors`;
document.body.classList.add("first");
watch();
showModel();
