// Follows one face from frame to frame, as ldeq/video/tracking.py does in Python. With RwR (recurrence without recurrence) a
// frame's solve starts from the state of the last one and takes a few evaluations; without, each frame is solved from zeros.

import { boxOf, centreOf, cropPixels, followCrop, squareOfBox } from "./crop.js";

export class Tracker {
  // `model` has `about` (model.json), `injection(crop)` and `solve(term, z0, evaluations)`.
  constructor(model, { rwr }) {
    this.model = model;
    this.rwr = rwr;
    this.square = null;
    this.begun = 0; // counts starts and stops
  }

  // Starts anew at a tight box [x1, y1, x2, y2] about the face. A box that a hand drew is coarse: the first crop is then taken
  // anew `refine` times about the landmarks found in it.
  start(box, refine = 0) {
    this.begun += 1;
    this.square = squareOfBox(box, this.model.about.crop_scale);
    Object.assign(this, { refine, z: null, spread: 0, doubts: 0, frames: 0, checked: 0, suspect: false });
  }

  stop() {
    this.begun += 1;
    this.square = null;
  }

  get active() {
    return this.square !== null;
  }

  // One frame: {points, std, square, residual, evaluations, reset, lost}. `reset` says why the points are of a full solve and
  // not of the carried state, `lost` why there is no face any more; both are null as a rule. Null if the face was started anew or
  // stopped while the model computed.
  async step(picture, evaluations) {
    const { crop_scale: scale, tracking: t } = this.model.about;
    const begun = this.begun;
    let square = this.square;
    const carried = this.rwr && this.z !== null;
    if (this.frames === 0) square = await this.#refined(picture, square);
    let term = await this.#term(picture, square);
    const due = carried && (this.checked + 1 >= t.check_every || this.doubts > 0 || this.suspect);
    let cold = due || !carried ? await this.#full(term, square) : null;
    let warm = carried ? this.#placed(await this.model.solve(term, this.z, evaluations), square, evaluations) : null;
    if (this.frames > 0 && hasLeapt((warm ?? cold).points, square, t)) {
      square = squareOfBox(boxOf((warm ?? cold).points), scale);
      term = await this.#term(picture, square);
      const spent = (warm?.evaluations ?? 0) + (cold?.evaluations ?? 0);
      cold = await this.#full(term, square);
      cold.evaluations += spent;
      warm = null;
    }
    return begun === this.begun ? this.#conclude(warm, cold, square, picture) : null;
  }

  #term(picture, square) {
    return this.model.injection(cropPixels(picture, square, this.model.about.image_size));
  }

  async #full(term, square) {
    const count = this.model.about.evaluations;
    return this.#placed(await this.model.solve(term, null, count), square, count);
  }

  async #refined(picture, square) {
    for (let round = 0; round < this.refine; round++) {
      const { points } = await this.#full(await this.#term(picture, square), square);
      const box = boxOf(points);
      // What is no face can answer with a point; the crop stays, and the last round will say so.
      if (longest(box) >= this.model.about.tracking.smallest) square = squareOfBox(box, this.model.about.crop_scale);
    }
    return square;
  }

  // An answer in pixels of the picture.
  #placed({ landmarks, std, z, residual }, square, evaluations) {
    const ratio = square.side / this.model.about.image_size;
    return {
      points: Float64Array.from(landmarks, (v, i) => (v + 0.5) * ratio - 0.5 + (i % 2 ? square.y0 : square.x0)),
      std: Float64Array.from(std, (v) => v * ratio),
      z,
      residual,
      evaluations,
    };
  }

  #conclude(warm, cold, square, picture) {
    const { crop_scale: scale, tracking: t } = this.model.about;
    const size = square.side / scale;
    let answer = warm ?? cold;
    let reset = this.frames === 0 ? "start" : null;
    let lost = impossible(answer, size, picture, t);
    this.checked += 1;
    if (cold) {
      this.checked = 0;
      const unsettled = !(cold.residual <= t.settled);
      this.doubts = unsettled ? this.doubts + 1 : 0;
      // Nothing speaks for a face that does not settle at its start.
      if (unsettled && this.doubts >= (this.frames ? t.patience : 1)) lost ??= "the solve does not settle";
      if (warm && !unsettled && meanDistance(warm.points, cold.points) / size > t.drift) {
        answer = cold;
        reset = "the carried state had drifted off the face";
        lost = impossible(cold, size, picture, t);
      }
      this.spread = mean(cold.std) / square.side;
    }
    this.suspect = mean(answer.std) / square.side > t.spread * this.spread && this.checked >= t.suspect_every;
    if (lost) {
      this.stop();
    } else {
      this.z = answer.z;
      this.frames += 1;
      const target = squareOfBox(boxOf(answer.points), scale);
      // A crop that fits is worth more than a still one where nothing has been shown yet.
      const still = this.frames > 1 && reset === null;
      this.square = still ? followCrop(square, target, t.slack, t.side_slack) : target;
    }
    const evaluations = (warm?.evaluations ?? 0) + (cold?.evaluations ?? 0);
    return { points: answer.points, std: answer.std, square, residual: answer.residual, evaluations, reset, lost };
  }
}

function hasLeapt(points, square, t) {
  const box = boxOf(points);
  if (!points.every(Number.isFinite) || longest(box) < t.smallest) return false;
  const middle = centreOf(square);
  return Math.hypot((box[0] + box[2]) / 2 - middle.x, (box[1] + box[3]) / 2 - middle.y) > t.leap * square.side;
}

// Why these landmarks cannot be of the face that the crop was made for, or null. `size`: longer side of that face's box.
function impossible({ points, std }, size, picture, t) {
  if (!points.every(Number.isFinite) || !std.every(Number.isFinite)) return "the model answered with NaN";
  const [x1, y1, x2, y2] = boxOf(points);
  const side = longest([x1, y1, x2, y2]);
  if (side < t.smallest) return "the face is too small";
  if (!(side / size > t.extent[0] && side / size < t.extent[1])) return "its size changed at once";
  const width = Math.min(x2, picture.width - 0.5) - Math.max(x1, -0.5);
  const height = Math.min(y2, picture.height - 0.5) - Math.max(y1, -0.5);
  const inside = (Math.max(0, width) * Math.max(0, height)) / Math.max((x2 - x1) * (y2 - y1), 1e-6);
  return inside < t.inside ? "the face left the picture" : null;
}

function longest([x1, y1, x2, y2]) {
  return Math.max(x2 - x1, y2 - y1);
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function meanDistance(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i += 2) sum += Math.hypot(a[i] - b[i], a[i + 1] - b[i + 1]);
  return (2 * sum) / a.length;
}
