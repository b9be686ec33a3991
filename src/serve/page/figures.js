// Draws the canvas with its tiles, and the components at their places on it.

const SVG = "http://www.w3.org/2000/svg";

/// The sizes of a canvas, in pixels and in patches.
function sizes({ down, across, tile, patches }) {
  return { height: down * tile, width: across * tile, rows: down * patches, columns: across * patches };
}

/// Gives a figure the canvas' shape, the picture its place in the top left corner, and the tiles their grid.
export function layOut(figure, geometry) {
  const { height, width } = sizes(geometry);
  const canvas = figure.querySelector(".canvas");
  canvas.style.setProperty("--ratio", width / height);
  const picture = canvas.querySelector("img");
  picture.style.width = `${(100 * geometry.width) / width}%`;
  picture.style.height = `${(100 * geometry.height) / height}%`;
  const svg = canvas.querySelector("svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const grid = document.createElementNS(SVG, "g");
  const add = (name, attributes, text) => {
    const element = document.createElementNS(SVG, name);
    Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
    element.textContent = text ?? "";
    grid.append(element);
  };
  for (let row = 1; row < geometry.down; row++) {
    add("line", { x1: 0, x2: width, y1: row * geometry.tile, y2: row * geometry.tile });
  }
  for (let column = 1; column < geometry.across; column++) {
    add("line", { x1: column * geometry.tile, x2: column * geometry.tile, y1: 0, y2: height });
  }
  // As large on the screen whatever the tile's size.
  const size = Math.max(height, width) / 28;
  for (let index = 0; index < geometry.down * geometry.across; index++) {
    const x = (index % geometry.across) * geometry.tile + size / 2;
    const y = Math.floor(index / geometry.across) * geometry.tile + 1.25 * size;
    add("text", { x, y, "font-size": size }, index + 1);
  }
  svg.replaceChildren(grid);
}

/// Undoes it: a picture alone, its size not known to anyone yet.
export function showAlone(figure, ratio) {
  const canvas = figure.querySelector(".canvas");
  canvas.style.setProperty("--ratio", ratio);
  canvas.querySelector("img").removeAttribute("style");
  canvas.querySelector("svg").replaceChildren();
}

/// Paints the colours of the patches, given tile by tile, where the patches lie: a pixel each.
export function paint(canvas, geometry, colors) {
  const { rows, columns } = sizes(geometry);
  const { across, patches } = geometry;
  [canvas.width, canvas.height] = [columns, rows];
  const image = new ImageData(columns, rows);
  for (let index = 0; index < rows * columns; index++) {
    const [tile, patch] = [Math.floor(index / patches ** 2), index % patches ** 2];
    const row = Math.floor(tile / across) * patches + Math.floor(patch / patches);
    const column = (tile % across) * patches + (patch % patches);
    const pixel = 4 * (row * columns + column);
    image.data.set(colors.subarray(3 * index, 3 * index + 3), pixel);
    image.data[pixel + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/// Frames the patch under the pointer in all figures, and tells which it is; tells null when there is none.
export function followPointer(figures, geometry, tell) {
  const frames = figures.map((figure) => {
    const svg = figure.querySelector("svg");
    const frame = document.createElementNS(SVG, "rect");
    frame.setAttribute("visibility", "hidden");
    svg.append(frame);
    return { svg, frame };
  });
  const { rows, columns } = sizes(geometry);
  const { across, patches, tile } = geometry;
  const side = tile / patches;
  for (const { svg } of frames) {
    svg.onpointermove = svg.onpointerdown = (event) => {
      const box = svg.getBoundingClientRect();
      const at = (offset, length, count) => Math.min(count - 1, Math.max(0, Math.floor((offset / length) * count)));
      const column = at(event.clientX - box.left, box.width, columns);
      const row = at(event.clientY - box.top, box.height, rows);
      for (const { frame } of frames) {
        const place = { x: column * side, y: row * side, width: side, height: side, visibility: "visible" };
        Object.entries(place).forEach(([key, value]) => frame.setAttribute(key, value));
      }
      const number = Math.floor(row / patches) * across + Math.floor(column / patches);
      const inTile = [row % patches, column % patches];
      tell({ tile: number, row: inTile[0], column: inTile[1], token: number * (patches ** 2 + 1) + 1 + inTile[0] * patches + inTile[1] });
    };
    svg.onpointerleave = () => {
      frames.forEach(({ frame }) => frame.setAttribute("visibility", "hidden"));
      tell(null);
    };
  }
}
