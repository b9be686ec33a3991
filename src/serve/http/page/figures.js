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
  const grid = document.createElementNS(SVG, "g");
  const add = (name, attributes, text) => {
    const element = document.createElementNS(SVG, name);
    Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
    element.textContent = text ?? "";
    grid.append(element);
  };
  // In percent, so that widths and letters are the screen's, whatever a tile's size.
  const percent = (part, whole) => `${(100 * part) / whole}%`;
  const [downTo, acrossTo] = [(row) => percent(row, geometry.down), (column) => percent(column, geometry.across)];
  for (let row = 1; row < geometry.down; row++) add("line", { x1: 0, x2: "100%", y1: downTo(row), y2: downTo(row) });
  for (let column = 1; column < geometry.across; column++) {
    add("line", { x1: acrossTo(column), x2: acrossTo(column), y1: 0, y2: "100%" });
  }
  for (let index = 0; index < geometry.down * geometry.across; index++) {
    const place = { x: acrossTo(index % geometry.across), y: downTo(Math.floor(index / geometry.across)) };
    add("text", { ...place, dx: 7, dy: 19 }, index + 1);
  }
  canvas.querySelector("svg").replaceChildren(grid);
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

/// Frames a patch in all figures, the one under the pointer or where the arrow keys lead, and tells which it is; tells
/// null when there is none.
export function followPatches(figures, geometry, tell) {
  const frames = figures.map((figure) => {
    const frame = document.createElementNS(SVG, "rect");
    frame.setAttribute("visibility", "hidden");
    figure.querySelector("svg").append(frame);
    return frame;
  });
  const { rows, columns } = sizes(geometry);
  const { across, patches } = geometry;
  const [width, height] = [100 / columns, 100 / rows];
  let [row, column] = [0, 0];
  const go = (toRow, toColumn) => {
    row = Math.min(rows - 1, Math.max(0, toRow));
    column = Math.min(columns - 1, Math.max(0, toColumn));
    for (const frame of frames) {
      const place = { x: column * width, y: row * height, width, height };
      Object.entries(place).forEach(([key, value]) => frame.setAttribute(key, `${value}%`));
      frame.setAttribute("visibility", "visible");
    }
    const tile = Math.floor(row / patches) * across + Math.floor(column / patches);
    const [inRow, inColumn] = [row % patches, column % patches];
    // The class token stands before the patches of each tile.
    const token = tile * (patches ** 2 + 1) + 1 + inRow * patches + inColumn;
    tell({ tile, row: inRow, column: inColumn, token });
  };
  for (const figure of figures) {
    const canvas = figure.querySelector(".canvas");
    canvas.onpointermove = canvas.onpointerdown = ({ clientX, clientY }) => {
      const box = canvas.querySelector("svg").getBoundingClientRect();
      const at = (offset, length, count) => Math.floor((offset / length) * count);
      go(at(clientY - box.top, box.height, rows), at(clientX - box.left, box.width, columns));
    };
    canvas.onkeydown = (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      go(row + step[0], column + step[1]);
    };
    canvas.onpointerleave = canvas.onblur = () => {
      frames.forEach((frame) => frame.setAttribute("visibility", "hidden"));
      tell(null);
    };
  }
}
