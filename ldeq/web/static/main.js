// The page: wires sources, the two ways of following a face, and the controls.
//
// Each frame is told to the document as an event "ldeq-frame", whose detail holds {picture, dt, stills, rwr, smoothed, jumped}:
// the frame as ImageData, the answers of both trackers (solve.js) and the filtered points. Pages that embed this one, and its
// tests, listen to it.

import { BoxChooser } from "./box.js";
import { boxOf } from "./crop.js";
import { drawBox, drawFace, drawLens, lensOf, overlayContext } from "./draw.js";
import { FaceFrame } from "./filter.js";
import { Model } from "./model.js";
import { faceScore, guesses, guessesAt, guideBox } from "./search.js";
import { Tracker } from "./solve.js";
import { DrawnSource, openFile, VideoSource } from "./sources.js";
import { FlickerMeter, Trace } from "./trace.js";

const LARGEST = 1280; // pixels of the longer side of what is worked on
const HINT = "Put a face into the dashed box, click on it, or draw a box around it.";

const find = (id) => document.getElementById(id);
const stages = [find("left"), find("right")];
const frame = document.createElement("canvas");
const reader = frame.getContext("2d", { willReadFrequently: true });

const state = { source: null, run: 0, paused: false, drawn: 0, box: null, last: null, search: [], time: 0, choosing: null };
const trace = new Trace();
const meters = [new FlickerMeter(), new FlickerMeter()];
const speed = { frames: [], left: 0, right: 0 }; // milliseconds
let model, stills, rwr, filter, wakeUp;

const chooser = new BoxChooser(stages, {
  size: () => frame,
  mirrored: () => Boolean(state.source?.mirrored),
  chosen: (box) => {
    say("Looking at the box.");
    startAt(box, model.about.tracking.refine);
    wakeUp?.();
  },
  pointed: (place) => {
    say("Looking where you clicked.");
    stills.stop();
    rwr.stop();
    Object.assign(state, { last: null, search: guessesAt(place, frame), pointed: true });
    restartMeasures();
    wakeUp?.();
  },
  changed: (box) => {
    state.choosing = box;
    if (state.shown) show(state.shown);
  },
});

function say(text) {
  if (find("status").textContent !== text) find("status").textContent = text;
}

function startAt(box, refine) {
  stills.start(box, refine);
  rwr.start(box, refine);
  restartMeasures();
  state.search = [];
  state.asked = refine > 0;
}

function restartMeasures() {
  filter.reset();
  meters.forEach((meter) => meter.reset());
}

// Opens a source and follows its face until another one is opened.
async function use(opening, what) {
  const run = ++state.run;
  state.source?.close();
  state.source = null;
  say(`Opening ${what}.`);
  let source;
  try {
    source = await opening();
  } catch (error) {
    if (run === state.run) say(`Cannot open ${what}: ${reasonOf(error)}. Choose another source.`);
    return;
  }
  if (run !== state.run) {
    source.close();
    return;
  }
  state.source = source;
  setPaused(false);
  const scale = Math.min(1, LARGEST / Math.max(source.width, source.height));
  frame.width = Math.round(source.width * scale);
  frame.height = Math.round(source.height * scale);
  for (const stage of stages) {
    stage.classList.toggle("mirrored", Boolean(source.mirrored));
    stage.style.aspectRatio = `${frame.width} / ${frame.height}`;
    stage.style.width = `min(100%, ${(70 * frame.width) / frame.height}vh)`;
    [stage.firstElementChild.width, stage.firstElementChild.height] = [frame.width, frame.height];
  }
  Object.assign(state, { last: null, search: [], shown: null });
  trace.clear();
  stills.stop();
  rwr.stop();
  if (source.box) startAt(source.box.map((value) => value * scale), 0);
  else say(HINT);
  try {
    await follow(source, run);
  } catch (error) {
    say(`Stopped: ${reasonOf(error)}.`);
    throw error;
  }
}

async function follow(source, run) {
  for (;;) {
    while (state.paused && run === state.run) await new Promise((resolve) => (wakeUp = resolve));
    const next = await source.next();
    if (!next || run !== state.run) return;
    reader.drawImage(next.image, 0, 0, frame.width, frame.height);
    const picture = reader.getImageData(0, 0, frame.width, frame.height);
    if (!state.shown) {
      showPictures(); // before the first solve
      show({});
    }
    if (next.jumped && rwr.active) restartAtLast();
    state.time += next.dt;
    const seen = await look(picture, next.dt);
    if (run !== state.run) return;
    report(seen, next);
    document.dispatchEvent(new CustomEvent("ldeq-frame", { detail: { picture, ...next, ...seen } }));
  }
}

function restartAtLast() {
  const box = state.last;
  stills.stop();
  rwr.stop();
  if (box) startAt(box, model.about.tracking.refine);
}

// Both answers to a frame, and the filtered points.
async function look(picture, dt) {
  if (!rwr.active && !stills.active) await guess(picture);
  const begin = performance.now();
  const left = stills.active ? await stills.step(picture, model.about.evaluations) : null;
  const middle = performance.now();
  const right = rwr.active ? await rwr.step(picture, Number(find("evaluations").value)) : null;
  let smoothed = null;
  if (right && !right.lost) {
    filter.settings = { ...model.about.filter, noise: model.about.filter.noise * Number(find("strength").value) };
    if (right.reset) filter.reset();
    smoothed = filter.step(right.points, right.std, dt);
    state.last = boxOf(right.points);
  }
  const end = performance.now();
  if (left) speed.left = averaged(speed.left, middle - begin);
  if (right) speed.right = averaged(speed.right, end - middle);
  // One that is lost goes on where the other one is.
  if (left?.lost && smoothed) stills.start(boxOf(right.points), 0);
  if (right?.lost && left && !left.lost) rwr.start(boxOf(left.points), 0);
  return { stills: left, rwr: right, smoothed };
}

function averaged(mean, value) {
  return mean ? mean + 0.1 * (value - mean) : value;
}

// Tries one guess of where a face may be.
async function guess(picture) {
  if (!state.search.length) state.search = guesses(frame, state.last);
  const search = state.search;
  const box = search.shift();
  const probe = new Tracker(model, { rwr: false });
  probe.start(box, model.about.tracking.refine);
  const answer = await probe.step(picture, model.about.evaluations);
  if (search !== state.search) return; // somebody has chosen a face meanwhile
  if (!answer.lost && faceScore(answer, model.about.score) >= 0.5 && !rwr.active) startAt(boxOf(answer.points), 0);
  else if (state.pointed && !state.search.length) say(`No face where you clicked. ${HINT}`);
  if (!state.search.length) state.pointed = false;
}

function report(seen, { dt }) {
  const ok = (answer) => answer && !answer.lost;
  meters.forEach((meter, i) => ok([seen.stills, seen.rwr][i]) || meter.reset());
  const flicker = [
    ok(seen.stills) ? meters[0].step(seen.stills.points) : NaN,
    seen.smoothed ? meters[1].step(seen.smoothed) : NaN,
  ];
  trace.add(state.time, flicker);
  tell(seen, ok);
  const now = performance.now();
  speed.frames = speed.frames.filter((time) => time > now - 2000);
  speed.frames.push(now);
  showPictures();
  show(seen);
  numbers(now);
}

// Says whether a face is followed; not while somebody chooses one, and reads what the keys do.
function tell(seen, ok) {
  if (state.choosing) return;
  const lost = seen.rwr?.lost && !ok(seen.stills) ? seen.rwr.lost : null;
  if (lost) say(state.asked ? `No face in this box: ${lost}. ${HINT}` : `Lost the face: ${lost}. ${HINT}`);
  else if (ok(seen.rwr)) {
    state.asked = false;
    say(`Following a face in ${state.source.title}.`);
  }
}

let told = 0;
function numbers(now) {
  if (now - told < 250) return;
  told = now;
  const span = now - speed.frames[0];
  find("rate").textContent = span > 0 ? (((speed.frames.length - 1) / span) * 1000).toFixed(0) : "–";
  find("left-time").textContent = speed.left.toFixed(0);
  find("right-time").textContent = speed.right.toFixed(0);
  const means = trace.means();
  ["left-flicker", "right-flicker"].forEach((id, i) => {
    find(id).textContent = Number.isFinite(means[i]) ? `${means[i].toFixed(2)} %` : "–";
  });
}

function showPictures() {
  for (const stage of stages) stage.firstElementChild.getContext("2d").drawImage(frame, 0, 0);
}

// Draws what lies over the pictures that are shown. The next frame may be in the works already.
function show(seen) {
  state.shown = seen;
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const points = [seen.stills && !seen.stills.lost ? seen.stills.points : null, seen.smoothed];
  const steady = seen.smoothed ?? points[0];
  const guide = state.choosing ?? (points[0] || points[1] || rwr.active ? null : guideBox(frame));
  stages.forEach((stage, i) => {
    const [picture, overlay] = stage.children;
    const { context, unit } = overlayContext(overlay, frame.width, frame.height);
    const bright = colour(["--left-bright", "--right-bright"][i]);
    const paint = (target, pixel) => points[i] && drawFace(target, points[i], model.about.layout, bright, pixel);
    paint(context, unit);
    if (steady && find("lens").checked) {
      const lens = lensOf(steady, model.about.layout);
      drawLens(context, picture, lens, Boolean(state.source?.mirrored), unit, paint);
    }
    if (guide) drawBox(context, guide, "white", unit);
  });
  trace.draw(find("trace"), [colour("--left"), colour("--right")], { text: colour("--dim"), line: colour("--line") });
}

function setPaused(paused) {
  state.paused = paused;
  find("pause").textContent = paused ? "Play" : "Pause";
  if (paused) state.source?.pause?.();
  else {
    state.source?.resume?.();
    wakeUp?.();
  }
}

function reasonOf(error) {
  const known = {
    NotAllowedError: "the browser was not allowed to use it",
    NotFoundError: "there is none",
    NotReadableError: "another program holds it",
  };
  return known[error.name] ?? error.message.replace(/\.$/, "");
}

function slider(id, text) {
  const input = find(id);
  const update = () => (find(`${id}-value`).textContent = text(Number(input.value)));
  input.addEventListener("input", update);
  update();
}

function openDropped(file) {
  if (file) use(() => openFile(file), file.name);
}

function connect() {
  find("drawn").addEventListener("click", () => use(() => DrawnSource.open(state.drawn++), "a drawn face"));
  find("camera").addEventListener("click", () => use(() => VideoSource.camera(), "the camera"));
  find("file").addEventListener("change", (event) => {
    openDropped(event.target.files[0]);
    event.target.value = ""; // the same file may be chosen again
  });
  find("pause").addEventListener("click", () => setPaused(!state.paused));
  find("choose").addEventListener("click", () => {
    if (!state.source) return say("Choose a source first.");
    chooser.begin(state.last ?? guideBox(frame));
    return say("Arrow keys move the box, plus and minus resize it, Enter follows the face in it, Escape leaves.");
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    openDropped(event.dataTransfer.files[0]);
  });
  find("lens").addEventListener("change", () => state.shown && show(state.shown));
  addEventListener("resize", () => state.shown && show(state.shown));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => state.shown && show(state.shown));
  slider("evaluations", (value) => `${value}`);
  slider("strength", (value) => `${value.toFixed(1)} ×`);
}

async function begin() {
  try {
    model = await Model.load();
  } catch (error) {
    say(`The model cannot be loaded: ${reasonOf(error)}. Make the page anew with ldeq web, and serve it with --serve.`);
    throw error;
  }
  stills = new Tracker(model, { rwr: false });
  rwr = new Tracker(model, { rwr: true });
  filter = new FaceFrame(model.about.filter, model.about.layout);
  find("model").textContent = `${model.about.model} (${model.about.layout.count} landmarks, ${model.about.licence})`;
  find("full").textContent = `${model.about.evaluations} evaluations`;
  find("threads").textContent = model.threads === 1 ? "1 thread" : `${model.threads} threads`;
  connect();
  for (const control of document.querySelectorAll("[data-waits]")) control.disabled = false;
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) say("Ready. Choose a source.");
  else find("drawn").click();
}

begin();
