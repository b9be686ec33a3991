// What the server answers: a safetensors file, and the times in its headers.

/// A safetensors file's metadata, and where each tensor lies.
export function readFile(buffer) {
  const headerLength = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, headerLength)));
  const { __metadata__: metadata, ...tensors } = header;
  const tensor = (name) => {
    const { dtype, shape, data_offsets: [begin, end] } = tensors[name];
    return { dtype, shape, offset: 8 + headerLength + begin, bytes: end - begin };
  };
  const integers = (name) => {
    const { offset, bytes } = tensor(name);
    const view = new DataView(buffer, offset, bytes);
    return Array.from({ length: bytes / 8 }, (_, k) => Number(view.getBigInt64(8 * k, true)));
  };
  return { metadata, tensor, integers };
}

/// Where the picture, its tiles and their patches lie: everything as the server says it.
export function geometryOf(file) {
  const { metadata } = file;
  const [down, across] = file.integers("aspect_ratio");
  const tile = Number(metadata.tile_size);
  // A tile's tokens are the class token and a square of patches.
  const patches = Math.sqrt(Number(metadata.tokens_per_tile) - 1);
  const [pictureHeight, pictureWidth] = JSON.parse(metadata.picture_size);
  const [height, width] = JSON.parse(metadata.resized);
  return { down, across, tile, patches, pictureHeight, pictureWidth, height, width };
}

/// Stages and milliseconds of a Server-Timing header, in its order.
export function serverTiming(header) {
  return (header ?? "").split(",").flatMap((entry) => {
    const [name, ...parameters] = entry.split(";").map((part) => part.trim());
    const duration = parameters.find((parameter) => parameter.startsWith("dur="));
    return duration ? [{ name, ms: Number(duration.slice(4)) }] : [];
  });
}

/// What a refusal says: the server's own words, where it has any.
export async function refusal(response) {
  const text = await response.text();
  let words = text;
  try {
    words = JSON.parse(text).error ?? text;
  } catch {
    // Something between here and the server may answer in its own way.
  }
  const wait = response.headers.get("retry-after");
  return `${response.status}: ${words || response.statusText}${wait ? ` (again in ${wait} s)` : ""}`;
}
