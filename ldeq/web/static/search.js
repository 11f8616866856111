// Finds a first box without a detector: guesses about the middle of the picture, or about a place that was clicked, one a frame,
// until one of them settles on a face.

import { boxOf } from "./crop.js";

// Where a face is expected: [x1, y1, x2, y2].
export function guideBox({ width, height }) {
  return squareBox(width / 2, 0.5 * height, 0.5 * Math.min(width, height));
}

// Guesses in their order; `last` is where a face was lost, or null.
export function guesses({ width, height }, last) {
  const shorter = Math.min(width, height);
  const boxes = [guideBox({ width, height })];
  for (const size of [0.35, 0.6, 0.25]) {
    for (const y of [0.5, 0.38]) {
      for (const x of [0.5, 0.36, 0.64]) boxes.push(squareBox(x * width, y * height, size * shorter));
    }
  }
  return last ? boxes.flatMap((box, i) => (i % 3 ? [box] : [last, box])) : boxes;
}

// Guesses about a place that was clicked: a face is there, and only its size is unknown.
export function guessesAt([x, y], { width, height }) {
  return [0.35, 0.5, 0.22, 0.7, 0.14].map((size) => squareBox(x, y, size * Math.min(width, height)));
}

// Whether an answer of a full solve is that of a face, 0 to 1; ldeq/confidence.py says what the numbers are. A model without them
// cannot tell, and whatever settles is taken for a face.
export function faceScore({ residual, points, std }, numbers) {
  if (!numbers) return 1;
  const { bias, residual: byResidual, spread: bySpread } = numbers;
  const [x1, y1, x2, y2] = boxOf(points);
  const spread = std.reduce((sum, value) => sum + value, 0) / std.length / Math.max(x2 - x1, y2 - y1, 1e-6);
  const x = bias + byResidual * Math.log(Math.max(residual, 1e-6)) + bySpread * Math.log(Math.max(spread, 1e-6));
  return Number.isFinite(x) ? 1 / (1 + Math.exp(-x)) : 0;
}

function squareBox(cx, cy, side) {
  return [cx - side / 2, cy - side / 2, cx + side / 2, cy + side / 2];
}
