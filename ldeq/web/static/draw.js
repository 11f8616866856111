// What lies over a picture: lines of the face, the box that is being chosen, and an eye enlarged.

import { boxOf } from "./crop.js";

// Fits a canvas to its size on the screen; returns its context, in which lengths are pixels of the picture.
export function overlayContext(canvas, width, height) {
  const ratio = (canvas.clientWidth * devicePixelRatio) / width;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { context, unit: devicePixelRatio / ratio };
}

// The lines of a face. `unit` is one pixel of the screen, in pixels of the picture.
export function drawFace(context, points, layout, colour, unit) {
  // The centre of the first pixel is (0, 0) for the model and (0.5, 0.5) for a canvas.
  const at = (k) => [points[2 * k] + 0.5, points[2 * k + 1] + 0.5];
  const path = new Path2D();
  for (const { indices, closed } of Object.values(layout.parts)) {
    indices.forEach((k, i) => (i ? path.lineTo(...at(k)) : path.moveTo(...at(k))));
    if (closed) path.closePath();
  }
  context.lineJoin = "round";
  for (const [style, width] of [["rgb(0 0 0 / 55%)", 3.5], [colour, 1.5]]) {
    context.strokeStyle = style;
    context.lineWidth = width * unit;
    context.stroke(path);
  }
  context.fillStyle = colour;
  for (let k = 0; k < layout.count; k++) {
    const [x, y] = at(k);
    context.fillRect(x - 1.5 * unit, y - 1.5 * unit, 3 * unit, 3 * unit);
  }
}

export function drawBox(context, [x1, y1, x2, y2], colour, unit) {
  for (const [style, width] of [["rgb(0 0 0 / 60%)", 5], [colour, 2.5]]) {
    context.strokeStyle = style;
    context.lineWidth = width * unit;
    context.setLineDash([8 * unit, 5 * unit]);
    context.strokeRect(x1 + 0.5, y1 + 0.5, x2 - x1, y2 - y1);
  }
  context.setLineDash([]);
}

// The square about an eye that the lens shows: of steady points, so that the lens itself does not tremble.
export function lensOf(points, layout) {
  const [x1, y1, x2, y2] = boxOf(points);
  const side = 0.34 * Math.max(x2 - x1, y2 - y1);
  const eye = layout.parts.left_eye?.indices ?? [layout.outer_eyes[0]];
  const middle = (axis) => eye.reduce((sum, k) => sum + points[2 * k + axis], 0) / eye.length + 0.5;
  return { x: middle(0) - side / 2, y: middle(1) - side / 2, side };
}

// Draws the lens into the lower left corner, the lower right one of a mirrored picture.
export function drawLens(context, picture, lens, mirrored, unit, paint) {
  const size = 0.36 * Math.min(picture.width, picture.height);
  const x = mirrored ? picture.width - size : 0;
  const y = picture.height - size;
  context.save();
  context.beginPath();
  context.rect(x, y, size, size);
  context.clip();
  context.fillStyle = "black";
  context.fill();
  const scale = size / lens.side;
  context.translate(x, y);
  context.scale(scale, scale);
  context.translate(-lens.x, -lens.y);
  context.drawImage(picture, 0, 0);
  paint(context, unit / scale);
  context.restore();
  context.strokeStyle = "white";
  context.lineWidth = 2 * unit;
  context.strokeRect(x + unit, y + unit, size - 2 * unit, size - 2 * unit);
}
