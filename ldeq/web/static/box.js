// A box about the face, drawn with a pointer on either picture, or moved with the keyboard.

const STEP = 0.02; // of the longer side of the picture, for a key

export class BoxChooser {
  // `stages` are the two pictures' elements; `chosen(box)` is called with [x1, y1, x2, y2] in pixels of the picture,
  // `pointed([x, y])` with a place that was clicked, and `changed(box)` while a box is being made, with null once it is not.
  constructor(stages, { size, mirrored, chosen, pointed, changed }) {
    Object.assign(this, { stages, size, mirrored, chosen, pointed, changed, box: null, corner: null });
    for (const stage of stages) {
      stage.addEventListener("pointerdown", (event) => this.#down(stage, event));
      stage.addEventListener("pointermove", (event) => this.#move(stage, event));
      stage.addEventListener("pointerup", () => this.#up());
      stage.addEventListener("pointercancel", () => this.cancel());
      stage.addEventListener("keydown", (event) => this.#key(event));
    }
  }

  // Shows a box that the keys move.
  begin(box) {
    this.box = box;
    this.changed(box);
    this.stages[1].focus();
  }

  cancel() {
    this.box = this.corner = null;
    this.changed(null);
  }

  #accept() {
    const box = this.box;
    this.cancel();
    this.chosen(box);
  }

  #place(stage, event) {
    const area = stage.getBoundingClientRect();
    const { width, height } = this.size();
    const share = (event.clientX - area.left) / area.width;
    return [(this.mirrored() ? 1 - share : share) * width, ((event.clientY - area.top) / area.height) * height];
  }

  #down(stage, event) {
    if (event.button !== 0 || !this.size().width) return;
    stage.setPointerCapture(event.pointerId);
    this.corner = this.#place(stage, event);
  }

  #move(stage, event) {
    if (!this.corner) return;
    const [x, y] = this.#place(stage, event);
    const [cx, cy] = this.corner;
    this.box = [Math.min(x, cx), Math.min(y, cy), Math.max(x, cx), Math.max(y, cy)];
    this.changed(this.box);
  }

  #up() {
    if (!this.corner) return;
    const place = this.corner;
    this.corner = null;
    const { width, height } = this.size();
    // A click without a way is no box.
    const large = this.box && Math.max(this.box[2] - this.box[0], this.box[3] - this.box[1]) > STEP * Math.max(width, height);
    if (large) this.#accept();
    else {
      this.cancel();
      this.pointed(place);
    }
  }

  #key(event) {
    if (!this.box || this.corner) return;
    const step = STEP * Math.max(this.size().width, this.size().height);
    const right = this.mirrored() ? -step : step;
    const moves = {
      ArrowLeft: [-right, 0, -right, 0],
      ArrowRight: [right, 0, right, 0],
      ArrowUp: [0, -step, 0, -step],
      ArrowDown: [0, step, 0, step],
      "+": [-step, -step, step, step],
      "=": [-step, -step, step, step],
      "-": [step, step, -step, -step],
    };
    if (event.key === "Enter") this.#accept();
    else if (event.key === "Escape") this.cancel();
    else if (moves[event.key]) {
      const box = this.box.map((value, i) => value + moves[event.key][i]);
      if (box[2] - box[0] > step && box[3] - box[1] > step) this.box = box;
      this.changed(this.box);
    } else return;
    event.preventDefault();
  }
}
