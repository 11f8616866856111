// Flicker: how far landmarks lie from the straight line between their neighbours in time, RMS over the landmarks, in percent
// of the face's size sqrt(w h). Steady motion gives 0. ldeq/video/drawing.py measures the same.

import { boxOf } from "./crop.js";

export class FlickerMeter {
  constructor() {
    this.reset();
  }

  reset() {
    this.track = [];
  }

  // Takes the points of a frame; NaN before the third one.
  step(points) {
    this.track.push(Float64Array.from(points));
    if (this.track.length < 3) return NaN;
    const [before, now, after] = this.track;
    this.track.shift();
    let sum = 0;
    for (let i = 0; i < now.length; i++) sum += ((before[i] + after[i]) / 2 - now[i]) ** 2;
    const [x1, y1, x2, y2] = boxOf(now);
    return (100 * Math.sqrt((2 * sum) / now.length)) / Math.sqrt((x2 - x1) * (y2 - y1));
  }
}

// The last seconds of several meters, and a plot of them.
export class Trace {
  constructor(seconds = 6) {
    this.seconds = seconds;
    this.clear();
  }

  clear() {
    this.rows = [];
  }

  // `time` in seconds, one value for each line.
  add(time, values) {
    if (this.rows.length && time < this.rows.at(-1).time) this.clear();
    this.rows.push({ time, values });
    while (this.rows[0].time < time - this.seconds) this.rows.shift();
  }

  // The mean of each line over the time that is kept; NaN without a value.
  means() {
    const count = this.rows[0]?.values.length ?? 0;
    return Array.from({ length: count }, (_, line) => {
      const values = this.rows.map((row) => row.values[line]).filter(Number.isFinite);
      return values.reduce((sum, value) => sum + value, 0) / values.length;
    });
  }

  // Draws the lines, each in its colour, over a scale that fits them.
  draw(canvas, colours, grey) {
    const scale = devicePixelRatio;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    const values = this.rows.flatMap((row) => row.values).filter(Number.isFinite);
    const top = niceTop(Math.max(0.5, ...values));
    const left = 52;
    const y = (value) => height - 6 - (value / top) * (height - 18);
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const value of [0, top / 2, top]) {
      context.fillStyle = grey.text;
      context.fillText(`${+value.toPrecision(2)} %`, left - 6, y(value));
      context.fillStyle = grey.line;
      context.fillRect(left, Math.round(y(value)), width - left, 1);
    }
    if (!this.rows.length) return;
    const end = this.rows.at(-1).time;
    const x = (time) => width - ((end - time) / this.seconds) * (width - left);
    colours.forEach((colour, line) => {
      context.strokeStyle = colour;
      context.lineWidth = 2;
      context.lineJoin = "round";
      context.beginPath();
      let drawing = false;
      for (const row of this.rows) {
        const value = row.values[line];
        if (!Number.isFinite(value)) drawing = false;
        else if (drawing) context.lineTo(x(row.time), y(value));
        else {
          context.moveTo(x(row.time), y(value));
          drawing = true;
        }
      }
      context.stroke();
    });
  }
}

// 1, 2 or 5 times a power of ten, at least `value`.
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * ([1, 2, 5, 10].find((step) => step * power >= value) ?? 10);
}
