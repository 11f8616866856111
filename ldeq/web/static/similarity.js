// Similarities x -> shift + exp(logScale) R(angle) x, as {x, y, logScale, angle}. Points are one array, x and y in turn.

export function applySimilarity(s, points) {
  const a = Math.exp(s.logScale) * Math.cos(s.angle);
  const b = Math.exp(s.logScale) * Math.sin(s.angle);
  return mapped(points, (x, y) => [a * x - b * y + s.x, b * x + a * y + s.y]);
}

export function undoSimilarity(s, points) {
  const a = Math.exp(s.logScale) * Math.cos(s.angle);
  const b = Math.exp(s.logScale) * Math.sin(s.angle);
  const n = a * a + b * b;
  return mapped(points, (x, y) => [(a * (x - s.x) + b * (y - s.y)) / n, (a * (y - s.y) - b * (x - s.x)) / n]);
}

function mapped(points, map) {
  const out = new Float64Array(points.length);
  for (let i = 0; i < points.length; i += 2) [out[i], out[i + 1]] = map(points[i], points[i + 1]);
  return out;
}

// The similarity that takes `reference` to `points` with the least squares, weighted: Procrustes in the plane, in closed form.
export function fitSimilarity(reference, points, weights) {
  let total = 0;
  const mean = [0, 0, 0, 0];
  weights.forEach((w, k) => {
    total += w;
    mean[0] += w * reference[2 * k];
    mean[1] += w * reference[2 * k + 1];
    mean[2] += w * points[2 * k];
    mean[3] += w * points[2 * k + 1];
  });
  const [rx, ry, px, py] = mean.map((sum) => sum / total);
  let real = 0;
  let imaginary = 0;
  let size = 0;
  weights.forEach((w, k) => {
    const x = reference[2 * k] - rx;
    const y = reference[2 * k + 1] - ry;
    const u = points[2 * k] - px;
    const v = points[2 * k + 1] - py;
    real += (w / total) * (x * u + y * v);
    imaginary += (w / total) * (x * v - y * u);
    size += (w / total) * (x * x + y * y);
  });
  const a = real / Math.max(size, 1e-30);
  const b = imaginary / Math.max(size, 1e-30);
  return {
    x: px - (a * rx - b * ry),
    y: py - (a * ry + b * rx),
    // Points that coincide have no size; any scale above zero keeps the numbers finite.
    logScale: Math.log(Math.max(Math.hypot(a, b), 1e-12)),
    angle: Math.atan2(b, a),
  };
}
