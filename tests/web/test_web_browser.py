"""The page in headless Chromium: a camera that shows drawn faces, and Python's landmarks of the same frames beside it."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from chromium import Chromium, find_chromium
from numpy.typing import NDArray

from ldeq.data import SquareBox, open_faces
from ldeq.engine import Pretrained
from ldeq.video.filters import make_filter
from ldeq.video.tracking import FaceState, Tracker, TrackingSettings
from ldeq.web import PageServer
from ldeq.web.demo import drawn_clips

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium")

FRAMES = 12

# What the page tells of its frames, from one that begins a track.
COLLECT = """
window.seen = [];
window.collecting = false;
document.addEventListener("ldeq-frame", ({ detail }) => {
  const { picture, dt, stills, rwr, smoothed } = detail;
  window.collecting ||= Boolean(rwr && rwr.reset === "start" && !rwr.lost);
  if (!window.collecting || window.seen.length === COUNT) return;
  let text = "";
  for (let i = 0; i < picture.data.length; i += 8192) text += String.fromCharCode(...picture.data.subarray(i, i + 8192));
  const list = (values) => values && Array.from(values);
  const answer = (a) => a && { points: list(a.points), square: a.square, reset: a.reset, lost: a.lost };
  const size = [picture.height, picture.width];
  window.seen.push({ dt, size, data: btoa(text), stills: answer(stills), rwr: answer(rwr), smoothed: list(smoothed) });
});
""".replace("COUNT", str(FRAMES))


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that Chromium's fake camera plays: the first drawn clip."""
    path = tmp_path_factory.mktemp("camera") / "faces.y4m"
    clip = next(drawn_clips())
    height, width = clip.settings.height, clip.settings.width
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{clip.settings.fps}:1 Ip A1:1 C420jpeg\n".encode())
        for frame in clip.frames():
            file.write(b"FRAME\n" + cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).tobytes())
    return path


@dataclass
class Visit:
    """A browser on the page."""

    browser: Chromium
    server: PageServer

    def text(self, identity: str) -> str:
        return str(self.browser.evaluate(f"document.getElementById('{identity}').textContent"))

    def click(self, identity: str) -> None:
        self.browser.evaluate(f"document.getElementById('{identity}').click()")

    def choose_file(self, path: Path) -> None:
        document = self.browser.call("DOM.getDocument")["root"]["nodeId"]
        node = self.browser.call("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
        self.browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def status(self, start: str, timeout: float = 120) -> str:
        """Waits for a line of the status that begins like this."""
        expression = f"document.getElementById('status')?.textContent.startsWith({json.dumps(start)})"
        self.browser.wait_for(expression, timeout)
        return self.text("status")

    def requests(self) -> list[str]:
        return [e["params"]["request"]["url"] for e in self.browser.events if e["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[Any]:
        """Errors and warnings on the console, violations of the policy among them."""
        thrown = [e["params"] for e in self.browser.events if e["method"] == "Runtime.exceptionThrown"]
        logged = [e["params"]["entry"] for e in self.browser.events if e["method"] == "Log.entryAdded"]
        return thrown + [entry for entry in logged if entry["level"] in ("error", "warning")]


@pytest.fixture
def visit(whole_page: Path, camera: Path) -> Iterator[Callable[..., Visit]]:
    """Opens the page in a browser whose camera plays drawn faces."""
    browsers: list[Chromium] = []
    with PageServer(whole_page, 0) as server:
        server.read_names()
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def opened(script: str = "", start: bool = True) -> Visit:
            fake = [
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-video-capture={camera}",
            ]
            browser = Chromium(*fake)
            browsers.append(browser)
            # The drawn faces start by themselves where motion is welcome.
            motion = "no-preference" if start else "reduce"
            browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": motion}])
            browser.call("Page.addScriptToEvaluateOnNewDocument", source=script)
            browser.open(server.address)
            return Visit(browser, server)

        yield opened
        for browser in browsers:
            browser.close()
        server.shutdown()


def pictures(seen: list[dict[str, Any]]) -> list[NDArray[np.uint8]]:
    frames = []
    for each in seen:
        rgba = np.frombuffer(base64.b64decode(each["data"]), np.uint8).reshape(*each["size"], 4)
        assert (rgba[..., 3] == 255).all()
        frames.append(np.ascontiguousarray(rgba[..., :3]))
    return frames


def by_python(pretrained: Pretrained, seen: list[dict[str, Any]], rwr: bool) -> NDArray[np.float64]:
    """Landmarks of the frames that the page saw, from the square that it began with; filtered with RwR."""
    tracker = Tracker(pretrained.model, pretrained.crop_scale, TrackingSettings(rwr=rwr), pretrained.layout)
    smooth = make_filter("face-frame", pretrained.layout)
    state = FaceState(SquareBox(**seen[0]["rwr" if rwr else "stills"]["square"]))
    found = []
    for each, frame in zip(seen, pictures(seen), strict=True):
        (estimate,) = tracker.step([frame], [state])
        assert estimate.lost is None
        if rwr and estimate.reset:
            smooth.reset()
        found.append(smooth.step(estimate.points, estimate.std, each["dt"]) if rwr else estimate.points)
    return np.stack(found).astype(np.float64)


@pytest.mark.parametrize("source", ["camera", "drawn"])
def test_landmarks_in_the_browser_are_those_of_python(
    source: str, visit: Callable[..., Visit], pretrained: Pretrained, capsys: pytest.CaptureFixture[str]
) -> None:
    page = visit(COLLECT, start=False)
    page.status("Ready")
    page.click(source)
    page.browser.wait_for(f"window.seen.length === {FRAMES}", 240)
    seen = page.browser.evaluate("window.seen")
    assert all(each["rwr"]["lost"] is None and each["stills"]["lost"] is None for each in seen)
    assert all(each["rwr"]["reset"] is None for each in seen[1:])
    frames = pictures(seen)
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 20  # the face moves
    stills = np.array([each["stills"]["points"] for each in seen]).reshape(FRAMES, -1, 2)
    smoothed = np.array([each["smoothed"] for each in seen]).reshape(FRAMES, -1, 2)
    worst = {"stills": np.abs(stills - by_python(pretrained, seen, False)).max()}
    worst["rwr"] = np.abs(smoothed - by_python(pretrained, seen, True)).max()
    rate = page.text("rate")
    with capsys.disabled():
        print(f"\n{source}: {worst['stills']:.4f} px (stills), {worst['rwr']:.4f} px (RwR and filter), {rate} frames/s")
    assert max(worst.values()) < 0.5, worst
    assert np.abs(smoothed - stills).max() > 0.1  # the two sides are not the same thing
    assert page.complaints() == []


def test_nothing_leaves_the_machine(visit: Callable[..., Visit]) -> None:
    page = visit()
    page.status("Following a face in a drawn face.")
    elsewhere = [url for url in page.requests() if not url.startswith((page.server.address, "blob:", "data:", "about:"))]
    assert page.requests() and elsewhere == []
    assert page.complaints() == []
    # Another port of this very machine is another server.
    other = f"http://127.0.0.1:{page.server.port % 60_000 + 1}/"
    for attempt in (f"fetch('{other}')", f"import('{other}x.js')"):
        assert page.browser.evaluate(f"{attempt}.then(() => 'sent', () => 'refused')") == "refused"
    blocked = [str(c) for c in page.complaints() if "violates the following Content Security Policy" in str(c)]
    assert any("connect-src" in c for c in blocked) and any("script-src" in c for c in blocked)
    assert page.browser.evaluate("crossOriginIsolated") is True


def test_every_control_works_with_the_keyboard_and_has_a_name(visit: Callable[..., Visit]) -> None:
    page = visit()
    page.status("Following a face in a drawn face.")
    tree = page.browser.call("Accessibility.getFullAXTree")["nodes"]
    controls = {
        node["name"]["value"]: node["role"]["value"]
        for node in tree
        if node.get("role", {}).get("value") in ("button", "slider", "checkbox", "link") and not node["ignored"]
    }
    assert "" not in controls
    sliders = [name for name, role in controls.items() if role == "slider"]
    assert [name.split(" a")[0].split(" s")[0] for name in sliders] == ["Evaluations", "Filter"]
    assert {"Drawn face", "Camera", "Pause", "Choose the face"} <= controls.keys()
    order = []
    for _ in range(12):
        page.browser.press("Tab")
        order.append(page.browser.evaluate("document.activeElement.id"))
    wanted = ["drawn", "camera", "file", "choose", "pause", "evaluations", "strength", "lens"]
    start = order.index("drawn")
    assert (order[start:] + order[:start])[: len(wanted)] == wanted or order[start : start + len(wanted)] == wanted
    page.browser.evaluate("document.getElementById('evaluations').focus()")
    page.browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39)
    assert page.text("evaluations-value") == "2"


def test_a_face_is_chosen_with_keys(visit: Callable[..., Visit]) -> None:
    page = visit()
    page.status("Following a face in a drawn face.")
    page.browser.evaluate(
        "document.addEventListener('ldeq-frame', ({ detail }) => { window.reset = detail.rwr?.reset ?? window.reset; })"
    )
    page.click("choose")
    page.status("Arrow keys move the box", 10)
    assert page.browser.evaluate("document.activeElement.id") == "right"
    for key in ("ArrowLeft", "ArrowRight", "+", "-"):
        page.browser.press(key)
    page.browser.press("Enter")
    page.browser.wait_for("window.reset === 'start'")
    page.status("Following a face in a drawn face.")


def test_a_box_without_a_face_is_told(visit: Callable[..., Visit], tmp_path: Path) -> None:
    """A picture of noise: the guesses find nothing, and neither does a box that is drawn."""
    page = visit(start=False)
    page.status("Ready")
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), noise)
    page.choose_file(tmp_path / "noise.png")
    page.status("Put a face into the dashed box")
    x, y = page.browser.evaluate("(({ left, top }) => [left, top])(document.getElementById('left').getBoundingClientRect())")
    for kind, way in (("mousePressed", 100), ("mouseMoved", 200), ("mouseMoved", 260), ("mouseReleased", 260)):
        page.browser.call("Input.dispatchMouseEvent", type=kind, x=x + way, y=y + way, button="left", buttons=1, clickCount=1)
    said = page.status("No face in this box: ")
    assert said.endswith("Put a face into the dashed box, click on it, or draw a box around it.")


def test_a_click_chooses_among_faces(visit: Callable[..., Visit], tmp_path: Path) -> None:
    """Two faces side by side, and nothing between them; then a click beside both."""
    faces = open_faces("synthetic:2#seed=3,size=256")
    picture = np.full((300, 700, 3), 90, np.uint8)
    picture[22:278, 20:276], picture[22:278, 424:680] = faces.read(0), faces.read(1)
    cv2.imwrite(str(tmp_path / "two.png"), picture[..., ::-1])
    page = visit(
        "addEventListener('ldeq-frame', ({ detail }) => { window.middle = detail.rwr && !detail.rwr.lost "
        "? detail.rwr.points.filter((_, i) => i % 2 === 0).reduce((a, b) => a + b) / 68 : null; }, true);",
        start=False,
    )
    page.status("Ready")
    page.choose_file(tmp_path / "two.png")
    page.status("Put a face into the dashed box")

    def click(x: float, y: float) -> None:
        area = "document.getElementById('left').getBoundingClientRect()"
        left, top, width = page.browser.evaluate(f"(({{ left, top, width }}) => [left, top, width])({area})")
        for kind in ("mousePressed", "mouseReleased"):
            where = {"x": left + x * width / 700, "y": top + y * width / 700}
            page.browser.call("Input.dispatchMouseEvent", type=kind, **where, button="left", buttons=1, clickCount=1)

    for index, left in ((1, 424), (0, 20)):
        points = faces.record(index).points
        click(left + float(points[:, 0].mean()), 22 + float(points[:, 1].mean()))
        page.browser.wait_for(f"window.middle > {left} && window.middle < {left + 256}", 60)
        page.status("Following a face in two.png.")
    click(350, 20)
    page.browser.wait_for("window.middle === null", 60)


def test_a_picture_is_opened_and_what_is_no_picture_is_told(
    visit: Callable[..., Visit], whole_page: Path, tmp_path: Path
) -> None:
    page = visit(start=False)
    page.status("Ready")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    page.choose_file(tmp_path / "broken.mp4")
    assert (
        page.status("Cannot open broken.mp4: ") == "Cannot open broken.mp4: this browser cannot play it. Choose another source."
    )
    page.choose_file(whole_page / "demo" / "0" / "000.jpg")
    page.status("Following a face in 000.jpg.")


@pytest.mark.skipif("LDEQ_SCREENSHOTS" not in os.environ, reason="LDEQ_SCREENSHOTS names no folder for pictures of the page")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_pictures_of_the_page(scheme: str, width: int, visit: Callable[..., Visit]) -> None:
    page = visit(start=False)
    page.status("Ready")
    page.browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.browser.call("Emulation.setDeviceMetricsOverride", width=width, height=1000, deviceScaleFactor=1, mobile=False)
    page.click("drawn")
    page.status("Following a face")
    page.browser.wait_for("parseInt(document.getElementById('rate').textContent) >= 0")
    folder = Path(os.environ["LDEQ_SCREENSHOTS"])
    page.browser.screenshot(folder / f"web-{scheme}-{width}.png")
    assert page.browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
