// The filter in the face's own frame: pose lightly, shape strongly, mouth and eyes without lag. A frame's landmarks are split
// into a similarity, smooth fields, openings of mouth and eyes, and what is left; each part runs through Kalman filters.
// ldeq/video/filters/face_frame.py is the same in Python and says why.

import { faceModes } from "./modes.js";
import { applySimilarity, fitSimilarity, undoSimilarity } from "./similarity.js";
import { smoothingGain, Walk } from "./walk.js";

export class FaceFrame {
  // `settings` as model.json has them under "filter", `layout` as under "layout".
  constructor(settings, layout) {
    this.settings = settings;
    this.layout = layout;
    this.rigid = Float64Array.from(layout.rigid, Number);
    this.process = layout.lively.map((lively) => (lively ? settings.lively_process : settings.detail_process));
    this.started = false;
  }

  reset() {
    this.started = false;
  }

  // One frame: points in pixels, x and y in turn; the deviation of each in pixels; seconds since the last frame.
  step(points, std, dt) {
    if (this.started) return this.#next(points, std, dt);
    this.#first(points, std);
    this.started = true;
    return Float64Array.from(points);
  }

  #first(points, std) {
    const [left, right] = this.layout.outer_eyes;
    const angle = Math.atan2(points[2 * right + 1] - points[2 * left + 1], points[2 * right] - points[2 * left]);
    const [x, y, radius] = this.#middle(points);
    const pose = { x, y, logScale: Math.log(Math.max(radius, 1e-12)), angle };
    this.reference = undoSimilarity(pose, points);
    this.modes = faceModes(this.layout, this.reference);
    this.usual = null;
    const scale = Math.exp(pose.logScale);
    const variance = this.#variance(std, scale, 0);
    const poseVariance = this.#poseVariance(variance);
    this.shift = new Walk([x, y], poseVariance * scale ** 2, 2);
    this.turn = new Walk([pose.logScale, angle], poseVariance);
    this.coefficients = new Walk(new Float64Array(this.modes.fields.length), this.#modeVariance(variance));
    this.detail = new Walk(new Float64Array(points.length), variance, 2);
  }

  #next(points, std, dt) {
    const s = this.settings;
    // The scale of the last frame turns pixels into radii: the newest is not filtered yet.
    const scale = Math.exp(this.turn.x[0]);
    const variance = this.#variance(std, scale, dt);
    const speedGain = smoothingGain(s.speed_cutoff, dt);
    const { pose, innovation, precision } = this.#measured(points, variance);
    const change = solveWeighted(this.modes.fields, precision, innovation);

    const poseVariance = this.#poseVariance(variance);
    const light = { share: s.pose_speed, speedGain, trend: s.trend };
    this.shift.step([pose.x, pose.y], poseVariance * scale ** 2, dt, { ...light, process: s.pose_process * scale });
    const angle = this.turn.x[1] + wrapped(pose.angle - this.turn.x[1]);
    this.turn.step([pose.logScale, angle], poseVariance, dt, { ...light, process: s.pose_process });

    const spread = this.#spread(change);
    const detail = this.detail.x.map((value, i) => value + innovation[i] - spread[i]);
    const coefficients = this.coefficients.x.map((value, m) => value + change[m]);
    const each = (bend, opening) => this.modes.fields.map((_, m) => (m < this.modes.bends ? bend : opening));
    this.coefficients.step(coefficients, this.#modeVariance(variance), dt, {
      process: each(s.bend_process, s.opening_process),
      share: each(s.bend_speed, s.opening_speed),
      gate: each(s.bend_gate, s.opening_gate),
      speedGain,
    });
    this.detail.step(detail, variance, dt, {
      process: this.process,
      share: s.detail_speed,
      gate: s.detail_gate,
      speedGain,
    });
    const shape = this.#shape();
    const smoothed = applySimilarity(this.#pose(), shape);
    this.#gauge(shape);
    return smoothed;
  }

  // The pose of a frame, and what is new in it: measured against the filtered shape, where weights that come and go (a hand
  // before the face) move nothing by themselves. Landmarks that move unlike the others count less.
  #measured(points, variance) {
    const s = this.settings;
    const shape = this.#shape();
    let precision = variance.map((value) => (s.noise ? 1 / value : 1));
    const measure = () => {
      const pose = fitSimilarity(shape, points, precision.map((value, k) => value * this.rigid[k]));
      const innovation = undoSimilarity(pose, points).map((value, i) => value - shape[i]);
      return { pose, innovation };
    };
    const { innovation } = measure();
    const squares = precision.map((_, k) => innovation[2 * k] ** 2 + innovation[2 * k + 1] ** 2);
    const usual = Math.max(s.consensus ** 2 * median(squares), 1e-30);
    precision = precision.map((value, k) => value / (1 + squares[k] / usual));
    return { ...measure(), precision };
  }

  #shape() {
    const spread = this.#spread(this.coefficients.x);
    return this.reference.map((value, i) => value + spread[i] + this.detail.x[i]);
  }

  #pose() {
    return { x: this.shift.x[0], y: this.shift.x[1], logScale: this.turn.x[0], angle: this.turn.x[1] };
  }

  #spread(coefficients) {
    const out = new Float64Array(this.reference.length);
    this.modes.fields.forEach((field, m) => {
      for (let i = 0; i < out.length; i++) out[i] += coefficients[m] * field[i];
    });
    return out;
  }

  // Hands what the shape has of a similarity over to the pose, so that the shape stays upright and of size 1.
  #gauge(shape) {
    const drift = fitSimilarity(this.reference, shape, this.rigid);
    const upright = undoSimilarity(drift, shape);
    for (let i = 0; i < shape.length; i++) this.detail.x[i] += upright[i] - shape[i];
    const scale = Math.exp(this.turn.x[0]);
    const cos = scale * Math.cos(this.turn.x[1]);
    const sin = scale * Math.sin(this.turn.x[1]);
    this.shift.x[0] += cos * drift.x - sin * drift.y;
    this.shift.x[1] += sin * drift.x + cos * drift.y;
    this.turn.x[0] += drift.logScale;
    this.turn.x[1] += drift.angle;
  }

  // Mean of the rigid landmarks and their RMS distance from it.
  #middle(points) {
    let [x, y, count, square] = [0, 0, 0, 0];
    this.rigid.forEach((rigid, k) => {
      x += rigid * points[2 * k];
      y += rigid * points[2 * k + 1];
      count += rigid;
    });
    [x, y] = [x / count, y / count];
    this.rigid.forEach((rigid, k) => {
      square += rigid * ((points[2 * k] - x) ** 2 + (points[2 * k + 1] - y) ** 2);
    });
    return [x, y, Math.sqrt(square / count)];
  }

  // Measurement variance of each landmark, in squared radii. Heatmaps that are wider than usual count as noisier still.
  #variance(std, scale, dt) {
    const s = this.settings;
    const logs = Float64Array.from(std, (value) => Math.log(Math.max(value / scale, s.std_floor)));
    this.usual ??= logs.slice();
    return logs.map((log, k) => {
      const above = log - this.usual[k];
      // Upward four times slower: a hand before the face must not become usual while it passes.
      this.usual[k] += (above > 0 ? 0.25 : 1) * (dt / (s.usual + dt)) * above;
      return s.noise ** 2 * Math.exp(2 * (log + s.caution * Math.max(above, 0)));
    });
  }

  // The harmonic mean over the rigid landmarks, since those that are seen tell the pose of all.
  #poseVariance(variance) {
    let [sum, count] = [0, 0];
    this.rigid.forEach((rigid, k) => {
      sum += rigid / Math.max(variance[k], 1e-30);
      count += rigid;
    });
    return 1 / Math.max(sum / count, 1e-30);
  }

  // Of each mode: the harmonic mean of the landmarks' variances, weighted by its field.
  #modeVariance(variance) {
    return this.modes.fields.map((field) => {
      let [precision, total] = [0, 0];
      variance.forEach((value, k) => {
        const power = field[2 * k] ** 2 + field[2 * k + 1] ** 2;
        precision += power / Math.max(value, 1e-30);
        total += power;
      });
      return 1 / Math.max(precision / Math.max(total, 1e-30), 1e-30);
    });
  }
}

// The amount of each field that explains a displacement best, by weighted least squares.
export function solveWeighted(fields, weights, target) {
  const n = fields.length;
  const rows = fields.map((field, m) => {
    const weighted = field.map((value, i) => value * weights[i >> 1]);
    const row = fields.map((other) => dot(weighted, other));
    row.push(dot(weighted, target));
    return row;
  });
  // Fields that nearly coincide (a closed mouth) share their motion instead of cancelling each other.
  const ridge = 1e-6 * rows.reduce((sum, row, m) => sum + row[m], 0) + 1e-30;
  rows.forEach((row, m) => (row[m] += ridge));
  return eliminated(rows, n);
}

// Gaussian elimination with pivots; each row holds its right-hand side last.
function eliminated(rows, n) {
  for (let m = 0; m < n; m++) {
    let pivot = m;
    for (let r = m + 1; r < n; r++) if (Math.abs(rows[r][m]) > Math.abs(rows[pivot][m])) pivot = r;
    [rows[m], rows[pivot]] = [rows[pivot], rows[m]];
    for (let r = m + 1; r < n; r++) {
      const factor = rows[r][m] / rows[m][m];
      for (let c = m; c <= n; c++) rows[r][c] -= factor * rows[m][c];
    }
  }
  const x = new Float64Array(n);
  for (let m = n - 1; m >= 0; m--) {
    let sum = rows[m][n];
    for (let c = m + 1; c < n; c++) sum -= rows[m][c] * x[c];
    x[m] = sum / rows[m][m];
  }
  return x;
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

function median(values) {
  const sorted = Float64Array.from(values).sort();
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function wrapped(angle) {
  const turn = 2 * Math.PI;
  return ((((angle + Math.PI) % turn) + turn) % turn) - Math.PI;
}
