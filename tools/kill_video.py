"""Kills `ldeq video` with SIGKILL at random moments and looks at what is left on the disk.

python tools/kill_video.py --kills 100 --record tests/video/kill_record.json

Each run follows a drawn face of 160 x 120 pixels with the shipped model and writes the film, JSON and CSV, over whole files of
an earlier run in every second run. The kills are spread over the run from its first written frame on; a quarter of them fall
while the files are ended. After each kill:

- the film plays to within a second of the last frame that was done;
- JSON and CSV hold every frame that was done;
- a file in its own place is the earlier one, byte for byte, or a whole new one.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from nursery import Nursery, tell

from ldeq.data import open_faces

FPS = 10
SECONDS = 4
FRAMES = FPS * SECONDS
SHORT = 15  # frames of the film of the earlier run
SUFFIXES = (".mp4", ".mov", ".mkv")

# Tells each frame that is done, by a byte in a file: what was written to a file stays when its process is killed.
WORK = """
import contextlib, io, json, os
from ldeq.cli import main
from ldeq.cli.following import Run

def work(line):
    told, *arguments = json.loads(line)
    file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    step = Run.step

    def telling(self, frame):
        step(self, frame)
        os.write(file, b".")

    Run.step = telling
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(arguments) == 0
"""


def draw_film(path: Path, frames: int, start: int = 0) -> str:
    """A drawn face that moves on a circle, with sound; returns the box of the first frame."""
    faces = open_faces("synthetic:1#seed=5,size=120")
    face, points = faces.read(0), faces.record(0).points
    picture = cv2.copyMakeBorder(face, 0, 0, 20, 20, cv2.BORDER_REPLICATE)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        tone = container.add_stream("aac", rate=16_000, layout="mono")
        for t in range(frames):
            move = np.array([[1.0, 0.0, 8 * np.cos((t + start) / 9) - 8], [0.0, 1.0, 8 * np.sin((t + start) / 9)]])
            moved = cast("NDArray[np.uint8]", cv2.warpAffine(picture, move, (160, 120), borderMode=cv2.BORDER_REPLICATE))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(stream.encode(None))
        for i in range(16_000 * frames // FPS // 1024):
            wave = np.sin(np.arange(i * 1024, (i + 1) * 1024) * 0.2).astype(np.float32)
            sound = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 16_000, i * 1024
            container.mux(tone.encode(sound))
        container.mux(tone.encode(None))
    (x1, y1), (x2, y2) = (points.min(0) + [20, 0]).tolist(), (points.max(0) + [20, 0]).tolist()
    return f"{max(x1, 0):.0f},{max(y1, 0):.0f},{min(x2, 159):.0f},{min(y2, 119):.0f}"


class Scene:
    """A film, and the places of what a run writes."""

    def __init__(self, base: Path, suffix: str, compare: bool) -> None:
        self.base, self.suffix, self.compare = base, suffix, compare
        self.film, self.told, self.out = base / "in.mp4", base / "told", base / "out"
        self.places = [self.out / f"a{suffix}", self.out / "a.json", self.out / "a.csv"]
        if not self.film.exists():
            (base / "box").write_text(draw_film(self.film, FRAMES))

    def line(self, film: Path | None = None) -> str:
        video, table, rows = map(str, self.places)
        arguments = ["video", str(film or self.film), "-o", video, "--json", table, "--csv", rows]
        arguments += ["--box", (self.base / "box").read_text(), "--views", "1", "--device", "cpu"]
        return json.dumps([str(self.told), *arguments, *(["--compare"] if self.compare else [])])

    def done(self) -> int:
        """Frames that the run has told of."""
        return self.told.stat().st_size if self.told.exists() else 0

    def clean(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        self.told.unlink(missing_ok=True)


def last_time(path: Path) -> float:
    """When the last frame that can be decoded is shown, in seconds; a frame before the first if there is none."""
    last = -1.0 / FPS
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                last = frame.time or 0.0
    except av.error.FFmpegError:
        return last
    return last


def frames_of_json(path: Path) -> list[tuple[int, int]]:
    """Number of each frame, and of the faces in it, in a document that may have no end."""
    found = []
    for line in path.read_text().splitlines()[1:]:
        with contextlib.suppress(json.JSONDecodeError):  # the document's end, or a last line that is half written
            frame = json.loads(line.rstrip(","))
            found.append((frame["frame"], len(frame["faces"])))
    return found


def rows_of_csv(path: Path) -> list[int]:
    """Numbers of the frames that have whole rows."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    return [int(row[0]) for row in rows[1:] if len(row) == len(rows[0])]


def judge(scene: Scene, earlier: dict[Path, bytes]) -> list[str]:
    """What is wrong with what a killed run left, a sentence each."""
    done, wrong = scene.done(), []
    video, table, rows = scene.places
    partial = {
        video: video.with_name(f"{video.stem}.partial{video.suffix}"),
        table: table.with_name(f"{table.name}.partial"),
        rows: rows.with_name(f"{rows.name}.partial"),
    }
    new = {}
    for place in scene.places:
        # Different films, so that no new file is equal to an earlier one.
        in_place = place.exists() and place.read_bytes() != earlier.get(place)
        if place in earlier and not place.exists():
            wrong.append(f"{place.name} of an earlier run is gone")
        if in_place and partial[place].exists():
            wrong.append(f"{place.name} is new, and {partial[place].name} is there, too")
        new[place] = place if in_place else partial[place]
        if not new[place].exists():
            wrong.append(f"nothing is left of {place.name} after {done} frames")
    if wrong:
        return wrong
    lost = (done - 1) / FPS - last_time(new[video])
    if lost > (1.0 if new[video] != video else 0.5 / FPS):
        wrong.append(f"{new[video].name} plays to {lost:.2f} s before the last frame of {done}")
    if new[video] == video and last_time(video) < (FRAMES - 1.5) / FPS:
        wrong.append(f"{video.name} is in its place and not whole")
    if new[table] == table:
        document = json.loads(table.read_text())
        if not document["complete"] or len(document["frames"]) != FRAMES:
            wrong.append(f"{table.name} is in its place and not whole")
    told = frames_of_json(new[table])[: FRAMES if new[rows] == rows else done]
    if [frame for frame, _ in told] != list(range(len(told))) or len(told) < done:
        wrong.append(f"{new[table].name} lacks frames of {done}")
    if new[rows] == rows and len(told) < FRAMES:
        wrong.append(f"{rows.name} is in its place and not whole")
    expected = [frame for frame, faces in told for _ in range(faces)]
    if rows_of_csv(new[rows])[: len(expected)] != expected:
        wrong.append(f"{new[rows].name} lacks rows of {done} frames")
    return wrong


def spread_over(rng: random.Random, number: int, ending: float) -> tuple[int, float]:
    """When to kill: after how many frames, and how many seconds later."""
    if number % 4 == 3:
        return FRAMES, rng.uniform(0.0, ending)
    return rng.randint(1, FRAMES - 1), rng.uniform(0.0, 0.01)


def run_whole(nursery: Nursery, scene: Scene, film: Path | None = None) -> float:
    """Runs to the end, and returns the seconds between its last frame and its end."""
    nursery.start(scene.line(film))
    total = FRAMES if film is None else SHORT
    while scene.done() < total:
        time.sleep(0.0005)
    begin = time.monotonic()
    assert nursery.wait() == 0, "a run that nobody killed failed"
    return time.monotonic() - begin


def kill_and_judge(
    kills: int, seed: int, base: Path, most_seconds: float = float("inf"), progress: Callable[[str], None] | None = None
) -> dict[str, int]:
    """Kills run after run.

    Args:
        kills: how many.
        seed: of the moments.
        base: an empty folder.
        most_seconds: after which no further run is begun.
        progress: called with a line after every kill.

    Returns:
        counts: ``kills``, ``while_ending`` after the last frame, ``beside_earlier`` whole files, ``in_place``: kills after at
        least one new file had taken its place, and ``too_late``: runs that had ended before the signal came.

    Raises:
        AssertionError: if something is lost, or a run ends otherwise than by a kill.
    """
    rng, nursery, begin = random.Random(seed), Nursery(WORK), time.monotonic()
    counts = {"kills": 0, "while_ending": 0, "beside_earlier": 0, "in_place": 0, "too_late": 0}
    endings: dict[tuple[str, bool], float] = {}
    whole: dict[tuple[str, bool], dict[Path, bytes]] = {}
    base.mkdir(parents=True, exist_ok=True)
    draw_film(base / "short.mp4", SHORT, start=7)
    try:
        while counts["kills"] < kills and time.monotonic() - begin < most_seconds:
            number = counts["kills"]
            compare = number % 10 == 9
            scene = Scene(base, SUFFIXES[number % 3], compare)
            kind = (scene.suffix, compare)
            if kind not in whole:
                scene.clean()
                endings[kind] = run_whole(nursery, scene)
                scene.clean()
                run_whole(nursery, scene, base / "short.mp4")
                whole[kind] = {place: place.read_bytes() for place in scene.places}
            scene.clean()
            earlier = whole[kind] if rng.random() < 0.5 else {}
            scene.out.mkdir()
            for place, content in earlier.items():
                place.write_bytes(content)
            frames, later = spread_over(rng, number, endings[kind])
            child = nursery.start(scene.line())
            while scene.done() < frames:
                time.sleep(0.0005)
            time.sleep(later)
            with contextlib.suppress(ProcessLookupError):  # it has just come to its end
                os.kill(child, signal.SIGKILL)
            status = nursery.wait()
            assert status in (0, -signal.SIGKILL), f"ldeq video ended with {status}"
            wrong = judge(scene, earlier)
            assert wrong == [], f"seed {seed}, kill {number}, {scene.suffix}, {scene.done()} frames: {wrong}"
            if frames == FRAMES:
                # How long a run takes to end changes with the machine's load: half of these kills shall come in time.
                endings[kind] *= 0.8 if status == 0 else 1.25
            if status == 0:
                counts["too_late"] += 1
                continue
            counts["kills"] += 1
            if progress is not None:
                progress(f"{counts['kills']} of {kills} kills, {counts['too_late']} more came too late")
            counts["while_ending"] += scene.done() == FRAMES
            counts["beside_earlier"] += bool(earlier)
            counts["in_place"] += any(p.exists() and p.read_bytes() != earlier.get(p) for p in scene.places)
    finally:
        nursery.close()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no further run is begun")
    parser.add_argument("--record", type=Path, help="where the counts go, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ldeq-kills-") as folder:
        counts = kill_and_judge(options.kills, options.seed, Path(folder), 60 * options.minutes, tell)
    text = json.dumps({"seed": options.seed, **counts})
    print(text)
    if options.record:
        options.record.write_text(text + "\n")


if __name__ == "__main__":
    main()
