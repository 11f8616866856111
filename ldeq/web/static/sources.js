// Where frames come from. A source has `next()`, which resolves with {image, dt, jumped} once there is a new frame and with
// null once there will be none, and `close()`. `dt` is in seconds; `jumped` says that the frame does not follow the last one.

const TYPICAL = 1 / 30;

// Frames that arrive together were not taken together: speeds over less time than this are noise.
const SHORTEST = 1 / 240;

// The drawn faces of the page, forth and back without an end.
export class DrawnSource {
  static async open(number) {
    const { clips } = await (await fetch("./demo/demo.json")).json();
    const clip = clips[number % clips.length];
    const images = await Promise.all(
      clip.frames.map(async (name) => createImageBitmap(await (await fetch(`./demo/${name}`)).blob())),
    );
    return new DrawnSource(clip, images);
  }

  constructor(clip, images) {
    Object.assign(this, { images, box: clip.box, dt: 1 / clip.fps, shown: 0, due: 0, title: "a drawn face" });
    [this.width, this.height] = [images[0].width, images[0].height];
  }

  async next() {
    this.due = Math.max(this.due + 1000 * this.dt, performance.now());
    await until(this.due);
    if (!this.images) return null;
    const period = 2 * (this.images.length - 1);
    const place = this.shown++ % period;
    return { image: this.images[Math.min(place, period - place)], dt: this.dt, jumped: false };
  }

  close() {
    this.images = null;
  }
}

// A picture, which stays.
export class PictureSource {
  static async open(file) {
    return new PictureSource(await createImageBitmap(file), file.name);
  }

  constructor(image, title) {
    Object.assign(this, { image, title, dt: 1 / 10, width: image.width, height: image.height });
  }

  async next() {
    await until(performance.now() + 1000 * this.dt);
    return this.image && { image: this.image, dt: this.dt, jumped: false };
  }

  close() {
    this.image = null;
  }
}

// A video element: a file, or a camera.
export class VideoSource {
  static async file(file) {
    const video = element();
    video.src = URL.createObjectURL(file);
    video.loop = true;
    await playing(video, "this browser cannot play it");
    return new VideoSource(video, file.name, () => URL.revokeObjectURL(video.src));
  }

  static async camera() {
    if (!navigator.mediaDevices) throw new Error("a browser gives a camera only to pages from 127.0.0.1 or over https");
    const size = { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" };
    const stream = await navigator.mediaDevices.getUserMedia({ video: size, audio: false });
    const video = element();
    video.srcObject = stream;
    await playing(video, "the camera gives no picture");
    const source = new VideoSource(video, "the camera", () => stream.getTracks().forEach((track) => track.stop()));
    source.mirrored = true;
    return source;
  }

  constructor(video, title, release) {
    Object.assign(this, { video, title, release, time: null, open: true });
    [this.width, this.height] = [video.videoWidth, video.videoHeight];
  }

  async next() {
    const time = await this.#frame();
    if (!this.open) return null;
    const step = this.time === null ? TYPICAL : time - this.time;
    this.time = time;
    const live = Boolean(this.video.srcObject);
    return { image: this.video, dt: step > 0 ? Math.max(step, SHORTEST) : TYPICAL, jumped: step <= 0 && !live };
  }

  // Resolves with the time of the next frame in seconds: when a camera took it, or where it lies in a file.
  #frame() {
    const live = Boolean(this.video.srcObject);
    return new Promise((resolve) => {
      this.wake = () => resolve(0);
      if (this.video.requestVideoFrameCallback) {
        const timeOf = (now, frame) => (live ? (frame.captureTime ?? now) / 1000 : frame.mediaTime);
        this.video.requestVideoFrameCallback((now, frame) => resolve(timeOf(now, frame)));
      } else {
        requestAnimationFrame((now) => resolve(live ? now / 1000 : this.video.currentTime));
      }
    });
  }

  pause() {
    this.video.pause();
  }

  resume() {
    this.time = null;
    return this.video.play();
  }

  close() {
    this.open = false;
    this.video.pause();
    this.release();
    this.wake?.();
  }
}

// The source of a file that was chosen or dropped.
export function openFile(file) {
  return file.type.startsWith("image/") ? PictureSource.open(file) : VideoSource.file(file);
}

function element() {
  const video = document.createElement("video");
  video.muted = true;
  video.playsInline = true;
  return video;
}

async function playing(video, problem) {
  await new Promise((resolve, reject) => {
    video.onloadeddata = resolve;
    video.onerror = () => reject(new Error(problem));
  });
  await video.play();
}

function until(time) {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, time - performance.now())));
}
