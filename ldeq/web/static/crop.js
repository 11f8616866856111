// Squares of a picture, as ldeq's crops have them: coordinates are indices, the centre of the first pixel is (0, 0).
// A square is {x0, y0, side}; its left edge is x0 - 0.5. Points are one array, x and y in turn.

// A picture is not averaged down below about this many pixels a side.
const FEWEST_BLOCKS = 8;

export function squareAbout(cx, cy, side) {
  return { x0: cx - (side - 1) / 2, y0: cy - (side - 1) / 2, side };
}

export function centreOf(square) {
  return { x: square.x0 + (square.side - 1) / 2, y: square.y0 + (square.side - 1) / 2 };
}

// The crop of a face whose landmarks lie in a tight box [x1, y1, x2, y2].
export function squareOfBox([x1, y1, x2, y2], scale) {
  return squareAbout((x1 + x2) / 2, (y1 + y2) / 2, Math.max(x2 - x1, y2 - y1) * scale);
}

// The tight box of points.
export function boxOf(points) {
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < points.length; i++) {
    const axis = i % 2;
    box[axis] = Math.min(box[axis], points[i]);
    box[axis + 2] = Math.max(box[axis + 2], points[i]);
  }
  return box;
}

// The next crop: `current`, dragged so far that `target` is within the slack of it. What trembles by less moves nothing.
export function followCrop(current, target, slack, sideSlack) {
  const from = centreOf(current);
  const to = centreOf(target);
  const distance = Math.hypot(to.x - from.x, to.y - from.y);
  const share = distance > 0 ? Math.max(0, 1 - (slack * current.side) / distance) : 0;
  const ratio = Math.log(target.side / current.side);
  const beyond = Math.sign(ratio) * Math.max(0, Math.abs(ratio) - Math.log1p(sideSlack));
  return squareAbout(from.x + share * (to.x - from.x), from.y + share * (to.y - from.y), current.side * Math.exp(beyond));
}

// Pixels of a square, shrunk or enlarged to size x size: RGB bytes, rows first, black outside the picture.
// `picture` is ImageData or the like: {width, height, data} with four bytes a pixel.
export function cropPixels(picture, square, size) {
  const longest = Math.max(picture.width, picture.height);
  const factor = Math.max(1, Math.min(Math.floor(square.side / size), Math.floor(longest / FEWEST_BLOCKS)));
  if (factor === 1) return bilinear(picture, square, size);
  const { reduced, x0, y0 } = shrunk(picture, square, factor);
  const inside = {
    x0: (square.x0 - x0) / factor,
    y0: (square.y0 - y0) / factor,
    side: square.side / factor,
  };
  return bilinear(reduced, inside, size);
}

// The part of a picture about a square, each pixel the mean of factor x factor pixels, so that fine texture does not alias.
function shrunk(picture, square, factor) {
  const firstBlock = (edge) => Math.floor(edge) - factor;
  let x0 = firstBlock(square.x0 - 0.5);
  let y0 = firstBlock(square.y0 - 0.5);
  const x1 = Math.ceil(square.x0 - 0.5 + square.side) + factor + 1;
  const y1 = Math.ceil(square.y0 - 0.5 + square.side) + factor + 1;
  x0 += Math.max(0, Math.floor(-x0 / factor)) * factor;
  y0 += Math.max(0, Math.floor(-y0 / factor)) * factor;
  const width = Math.max(1, Math.ceil((Math.min(x1, picture.width) - x0) / factor));
  const height = Math.max(1, Math.ceil((Math.min(y1, picture.height) - y0) / factor));
  const data = new Uint8ClampedArray(4 * width * height);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const sums = [0, 0, 0];
      for (let y = Math.max(0, y0 + row * factor); y < Math.min(picture.height, y0 + (row + 1) * factor); y++) {
        for (let x = Math.max(0, x0 + column * factor); x < Math.min(picture.width, x0 + (column + 1) * factor); x++) {
          const at = 4 * (y * picture.width + x);
          for (let c = 0; c < 3; c++) sums[c] += picture.data[at + c];
        }
      }
      sums.forEach((sum, c) => (data[4 * (row * width + column) + c] = Math.floor(sum / (factor * factor) + 0.5)));
    }
  }
  return { reduced: { width, height, data }, x0, y0 };
}

// Where crop pixels lie in the picture, in steps of 1/32. OpenCV rounds like this, each column and its start for themselves,
// each row as a whole; and the model in Python sees OpenCV's crops.
function columnPlaces(start, side, size) {
  const ratio = side / size;
  const offset = Math.round((0.5 * ratio + start - 0.5) * 1024) + 16;
  return Int32Array.from({ length: size }, (_, i) => (offset + Math.round(ratio * i * 1024)) >> 5);
}

function rowPlaces(start, side, size) {
  const ratio = side / size;
  return Int32Array.from({ length: size }, (_, j) => (Math.round((ratio * (j + 0.5) + start - 0.5) * 1024) + 16) >> 5);
}

function bilinear(picture, square, size) {
  const { width, height, data } = picture;
  const columns = columnPlaces(square.x0, square.side, size);
  const rows = rowPlaces(square.y0, square.side, size);
  const out = new Uint8Array(3 * size * size);
  const pixel = (x, y) => (x >= 0 && y >= 0 && x < width && y < height ? 4 * (y * width + x) : -1);
  for (let j = 0, to = 0; j < size; j++) {
    const y = rows[j] >> 5;
    const b = rows[j] & 31;
    for (let i = 0; i < size; i++) {
      const x = columns[i] >> 5;
      const a = columns[i] & 31;
      const corners = [pixel(x, y), pixel(x + 1, y), pixel(x, y + 1), pixel(x + 1, y + 1)];
      const weights = [(32 - a) * (32 - b), a * (32 - b), (32 - a) * b, a * b];
      for (let c = 0; c < 3; c++, to++) {
        let sum = 512;
        for (let n = 0; n < 4; n++) if (corners[n] >= 0) sum += weights[n] * data[corners[n] + c];
        out[to] = sum >> 10;
      }
    }
  }
  return out;
}
