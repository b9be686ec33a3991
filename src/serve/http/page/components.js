// A worker: the first three principal components of the patches of all tiles, as colours.
//
// The covariance of 4096 columns is never formed. Lanczos' method asks only for its products with a vector, one pass
// over the values each, and about thirty of them find the three.

const NUM_COMPONENTS = 3;
const MAX_STEPS = 120;
const STEPS_BETWEEN_LOOKS = 4;
// A component is found when what is left of it is this small beside its own variance. Colours have 256 levels.
const TOLERANCE = 1e-6;

onmessage = ({ data }) => {
  const begin = performance.now();
  try {
    const values = centered(patchesOf(data), data.width);
    const found = principalComponents(values, data.width);
    const colors = colorsOf(values, data.width, found.vectors);
    const ms = performance.now() - begin;
    postMessage({ colors, shares: found.shares, ms }, [colors.buffer]);
  } catch (error) {
    postMessage({ error: error.message });
  }
};

/// The rows of patches, without each tile's class token, which is its first. The upper half of an f32 is a bf16.
function patchesOf({ buffer, offset, rows, width, tokens }) {
  const halves = new Uint16Array(buffer, offset, rows * width);
  const values = new Float32Array((rows / tokens) * (tokens - 1) * width);
  const bits = new Uint32Array(values.buffer);
  let next = 0;
  for (let row = 0; row < rows; row++) {
    if (row % tokens === 0) continue;
    for (let k = row * width; k < (row + 1) * width; k++) bits[next++] = halves[k] << 16;
  }
  return values;
}

/// Takes the mean of each column away, in place.
function centered(values, width) {
  const means = new Float64Array(width);
  const rows = values.length / width;
  for (let row = 0, k = 0; row < rows; row++) for (let column = 0; column < width; column++) means[column] += values[k++];
  for (let row = 0, k = 0; row < rows; row++) for (let column = 0; column < width; column++) values[k++] -= means[column] / rows;
  if (!means.every(Number.isFinite)) throw new Error("the embeddings hold values that are not finite");
  return values;
}

/// Directions of the largest variance, and their shares of the whole.
function principalComponents(values, width) {
  let total = 0;
  for (let k = 0; k < values.length; k++) total += values[k] * values[k];
  const basis = [];
  const [diagonal, beside] = [[], []];
  let eigen = { vectors: [], values: [] };
  let vector = normalized(seededNoise(width));
  while (vector && basis.length < Math.min(MAX_STEPS, width)) {
    basis.push(vector);
    const next = timesCovariance(values, width, vector);
    diagonal.push(dot(next, vector));
    // Twice, for once leaves what rounding brought in.
    for (let pass = 0; pass < 2; pass++) for (const known of basis) addScaled(next, known, -dot(next, known));
    const length = Math.sqrt(dot(next, next));
    const ended = !(length > 1e-9 * total);
    if (ended || basis.length % STEPS_BETWEEN_LOOKS === 0 || basis.length === Math.min(MAX_STEPS, width)) {
      eigen = eigenOf(diagonal, beside);
      const left = (k) => length * Math.abs(eigen.vectors[k].at(-1)) <= TOLERANCE * eigen.values[k];
      if (ended || (basis.length > NUM_COMPONENTS && [...Array(NUM_COMPONENTS).keys()].every(left))) break;
    }
    beside.push(length);
    vector = normalized(next);
  }
  const vectors = eigen.vectors.slice(0, NUM_COMPONENTS).map((weights) => {
    const vector = new Float64Array(width);
    weights.forEach((weight, k) => addScaled(vector, basis[k], weight));
    // A direction has two signs; this one has its largest entry positive.
    const largest = vector.reduce((most, entry) => (Math.abs(entry) > Math.abs(most) ? entry : most), 0);
    return largest < 0 ? vector.map((entry) => -entry) : vector;
  });
  return { vectors, shares: eigen.values.slice(0, NUM_COMPONENTS).map((value) => (total ? value / total : 0)) };
}

/// Xᵀ(X·vector).
function timesCovariance(values, width, vector) {
  const result = new Float64Array(width);
  for (let begin = 0; begin < values.length; begin += width) {
    let along = 0;
    for (let k = 0; k < width; k++) along += values[begin + k] * vector[k];
    for (let k = 0; k < width; k++) result[k] += along * values[begin + k];
  }
  return result;
}

/// Eigenvalues and eigenvectors of a symmetric tridiagonal matrix, the largest first, by Jacobi's rotations.
function eigenOf(diagonal, beside) {
  const n = diagonal.length;
  const zeros = () => Array.from({ length: n }, () => new Float64Array(n));
  const [matrix, vectors] = [zeros(), zeros()];
  for (let k = 0; k < n; k++) {
    matrix[k][k] = diagonal[k];
    vectors[k][k] = 1;
    if (k + 1 < n) matrix[k][k + 1] = matrix[k + 1][k] = beside[k];
  }
  const scale = Math.max(...diagonal.map(Math.abs), ...beside, Number.MIN_VALUE);
  let rotated = true;
  while (rotated) {
    rotated = false;
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        if (Math.abs(matrix[p][q]) <= 1e-15 * scale) continue;
        rotated = true;
        const theta = (matrix[q][q] - matrix[p][p]) / (2 * matrix[p][q]);
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(theta, 1));
        const [c, s] = [1 / Math.hypot(t, 1), t / Math.hypot(t, 1)];
        for (let k = 0; k < n; k++) [matrix[k][p], matrix[k][q]] = [c * matrix[k][p] - s * matrix[k][q], s * matrix[k][p] + c * matrix[k][q]];
        for (const rows of [matrix, vectors]) {
          const [first, second] = [rows[p], rows[q]];
          for (let k = 0; k < n; k++) [first[k], second[k]] = [c * first[k] - s * second[k], s * first[k] + c * second[k]];
        }
      }
    }
  }
  const order = [...Array(n).keys()].sort((a, b) => matrix[b][b] - matrix[a][a]);
  return { values: order.map((k) => matrix[k][k]), vectors: order.map((k) => vectors[k]) };
}

/// Red, green and blue of each row: where it lies between the first and the last hundredth of all rows.
function colorsOf(values, width, vectors) {
  const rows = values.length / width;
  const colors = new Uint8ClampedArray(3 * rows).fill(128);
  vectors.forEach((vector, component) => {
    const scores = Float64Array.from({ length: rows }, (_, row) => dot(values.subarray(row * width, (row + 1) * width), vector));
    const sorted = scores.slice().sort();
    const low = sorted[Math.floor(0.01 * (rows - 1))];
    const high = sorted[Math.ceil(0.99 * (rows - 1))];
    if (high > low) scores.forEach((score, row) => (colors[3 * row + component] = (255 * (score - low)) / (high - low)));
  });
  return colors;
}

function dot(a, b) {
  let sum = 0;
  for (let k = 0; k < a.length; k++) sum += a[k] * b[k];
  return sum;
}

function addScaled(to, from, scale) {
  for (let k = 0; k < to.length; k++) to[k] += scale * from[k];
}

function normalized(vector) {
  const length = Math.sqrt(dot(vector, vector));
  return vector.map((entry) => entry / length);
}

/// The same numbers between −0.5 and 0.5 every time (a linear congruential generator's upper bits).
function seededNoise(length) {
  let state = 1;
  return Float64Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32 - 0.5;
  });
}
