// How a face moves beyond a similarity: smooth fields for its pose, and openings of mouth and eyes. They are made from the
// face's own first shape, in its frame: x along the outer eye corners, y down the face. ldeq/video/filters/face_modes.py is
// the same in Python.

const EYES = ["left_eye", "right_eye"];
const LIPS = ["outer_lip", "inner_lip"];

// Fields of displacement, each an array of x and y in turn whose largest step is 1. The first `bends` belong to the pose,
// the others open and close mouth and eyes.
export function faceModes(layout, shape) {
  const count = layout.count;
  const field = (at) => {
    const out = new Float64Array(2 * count);
    for (let k = 0; k < count; k++) [out[2 * k], out[2 * k + 1]] = at(k, shape[2 * k], shape[2 * k + 1]);
    return out;
  };
  const fields = [field((k, x, y) => [x, -y]), field((k, x, y) => [y, x])];
  for (const quadratic of [(x) => x * x, (x, y) => x * y, (x, y) => y * y]) {
    fields.push(field((k, x, y) => [quadratic(x, y), 0]), field((k, x, y) => [0, quadratic(x, y)]));
  }
  const bends = fields.length;
  for (const name of EYES.filter((part) => part in layout.parts)) {
    for (const lid of lids(shape, layout.parts[name].indices, count)) fields.push(field((k) => [0, lid[k]]));
  }
  const lines = LIPS.filter((part) => part in layout.parts).map((part) => layout.parts[part].indices);
  if (lines.length) fields.push(...mouthFields(layout, shape, lines, field));
  return { fields: fields.map(scaledToOne), bends };
}

function mouthFields(layout, shape, lines, field) {
  const count = layout.count;
  const member = new Uint8Array(count);
  lines.flat().forEach((k) => (member[k] = 1));
  // Each closed line has its own corners; both move as one pair of lips.
  const upper = new Float64Array(count);
  const lower = new Float64Array(count);
  for (const line of lines) {
    const halves = lids(shape, line, count);
    for (let k = 0; k < count; k++) {
      upper[k] += halves[0][k];
      lower[k] += halves[1][k];
    }
  }
  let centre = 0;
  let members = 0;
  for (let k = 0; k < count; k++) {
    if (member[k]) {
      centre += shape[2 * k];
      members++;
    }
  }
  centre /= members;
  const fields = [
    field((k) => [0, upper[k]]),
    field((k) => [0, lower[k]]),
    field((k, x) => [member[k] ? x - centre : 0, 0]),
    field((k) => [0, member[k]]),
  ];
  if ("contour" in layout.parts) {
    const jaw = jawField(layout.parts.contour.indices, count);
    fields.push(field((k) => [0, jaw[k]]));
  }
  return fields;
}

// Parabolas of height 1 on the upper and on the lower half of a closed line, 0 at its corners.
function lids(shape, line, count) {
  const xs = line.map((k) => shape[2 * k]);
  const ys = line.map((k) => shape[2 * k + 1]);
  const left = Math.min(...xs);
  const right = Math.max(...xs);
  const corners = Math.floor(line.length / 2);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  // The line may start at either corner or run the other way round; the mean height settles which half is the upper one.
  const firstIsUpper = mean(ys.slice(0, corners)) <= mean(ys.slice(corners));
  const fields = [new Float64Array(count), new Float64Array(count)];
  line.forEach((k, i) => {
    const s = (xs[i] - left) / Math.max(right - left, 1e-9);
    fields[i < corners === firstIsUpper ? 0 : 1][k] = 4 * s * (1 - s);
  });
  return fields;
}

// cos^2 along the contour, 1 at the chin and 0 a quarter of the line away from its ends.
function jawField(contour, count) {
  const n = contour.length;
  const field = new Float64Array(count);
  contour.forEach((k, i) => {
    const t = Math.min(1, Math.max(-1, (i - (n - 1) / 2) / (n / 4)));
    field[k] = Math.cos((Math.PI / 2) * t) ** 2;
  });
  return field;
}

function scaledToOne(field) {
  let largest = 1e-9;
  for (let i = 0; i < field.length; i += 2) largest = Math.max(largest, Math.hypot(field[i], field[i + 1]));
  return field.map((value) => value / largest);
}
