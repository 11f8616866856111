// Kalman filters of random walks: x(t) = x(t-1) + trend v dt + w, var w = process^2 dt + (share |v| dt)^2; y = x + noise.

export function smoothingGain(cutoff, dt) {
  return 1 / (1 + 1 / (2 * Math.PI * cutoff * dt));
}

// `width` entries in a row share a variance and a speed: 2 for the x and y of a point. What a setting or a variance gives is
// one number for all, or one for each group of entries.
export class Walk {
  constructor(first, variance, width = 1) {
    this.x = Float64Array.from(first);
    this.width = width;
    const groups = first.length / width;
    this.p = Float64Array.from({ length: groups }, (_, g) => of(variance, g));
    this.seen = new Float64Array(first.length);
    this.v = new Float64Array(first.length);
    this.left = new Float64Array(first.length);
  }

  step(y, variance, dt, { process, share, speedGain, trend = 0, gate = Infinity }) {
    const n = this.width;
    for (let g = 0; g < this.p.length; g++) {
      const s = of(share, g);
      let p = this.p[g] + of(process, g) ** 2 * dt;
      let [square, again, speed] = [0, 0, 0];
      const innovations = [];
      for (let i = g * n; i < (g + 1) * n; i++) {
        this.seen[i] += speedGain * ((y[i] - this.x[i]) / dt - this.seen[i]);
        speed += this.seen[i] ** 2;
        const innovation = y[i] - (trend ? this.x[i] + this.v[i] * dt : this.x[i]);
        innovations.push(innovation);
        square += innovation ** 2 / n;
        again += (innovation - this.left[i]) ** 2 / n;
      }
      p += (s * dt) ** 2 * speed;
      const total = Math.max(p + of(variance, g), 1e-30);
      // What was left of the last measurement and comes again is no outlier: a gate that took a fast motion for one would
      // shut the more the farther the face got away.
      const outlying = Math.min(square, again) / (of(gate, g) ** 2 * total);
      const gain = p / Math.max(p + of(variance, g) * (1 + outlying), 1e-30);
      this.p[g] = (1 - gain) * p;
      innovations.forEach((innovation, j) => {
        const i = g * n + j;
        this.x[i] = (trend ? this.x[i] + this.v[i] * dt : this.x[i]) + gain * innovation;
        if (trend) this.v[i] += (((trend * gain * gain) / (2 - gain)) * innovation) / dt;
        this.left[i] = y[i] - this.x[i];
      });
    }
    return this.x;
  }
}

function of(value, group) {
  return typeof value === "number" ? value : value[group];
}
