"""What a video of landmarks shows: faces with their numbers, and two pipelines side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..data import Layout, draw_landmarks, transform_points
from ..data.draw import BACKGROUND, Colour
from ..face import Face

Picture = NDArray[np.uint8]

LEFT_COLOUR: Colour = (255, 150, 64)
RIGHT_COLOUR: Colour = (72, 226, 160)
TEXT_COLOUR: Colour = (235, 238, 242)
DIM_COLOUR: Colour = (130, 136, 146)

# Height of a panel in pixels: small clips are enlarged until a landmark can be seen, large ones shrunk to a screen's half.
PANEL_HEIGHT = (400, 720)
GAP = 6

# Seconds that the trace looks back.
TRACE_SECONDS = 6.0


def draw_faces(image: Picture, faces: Sequence[Face], color: Colour = RIGHT_COLOUR, numbers: bool = True) -> Picture:
    """Faces on a picture, their numbers beside them where there are several.

    Args:
        image: `(H, W, 3)` RGB uint8; it is not changed.
        faces: as a stream returns them.
        color: of the lines.
        numbers: whether to write the numbers.

    Returns:
        `(H, W, 3)` RGB uint8.
    """
    for face in faces:
        image = draw_landmarks(image, face.points, face.layout, color=color)
        if numbers and len(faces) > 1:
            put_text(image, str(face.id), (round(face.box[0]), round(face.box[1]) - 24), size=18)
    return image


class FlickerMeter:
    """How much landmarks tremble where nobody knows the truth.

    The distance of each from the straight line between its neighbours in time, ||p_t - (p_{t-1} + p_{t+1}) / 2||, RMS over
    landmarks, in percent of the face's size sqrt(w h). Steady motion gives 0, white noise of deviation s in x and in y gives
    sqrt(3) s. Real acceleration counts as well: compare two pipelines on the same video, nothing else.
    """

    def __init__(self) -> None:
        self._last: dict[int, deque[NDArray[np.float32]]] = {}

    def step(self, faces: Sequence[Face]) -> float:
        """The mean over the faces of a frame; NaN before a face's third frame after a reset, and without a face."""
        values = []
        kept = {}
        for face in faces:
            number = -1 if face.id is None else face.id
            track = deque[NDArray[np.float32]](maxlen=3) if face.reset else self._last.get(number, deque(maxlen=3))
            track.append(face.points)
            kept[number] = track
            if len(track) == 3:
                before, now, after = track
                size = np.sqrt(np.prod(np.ptp(now, axis=0)))
                values.append(100 * float(np.sqrt((((before + after) / 2 - now) ** 2).sum(1).mean()) / size))
        self._last = kept
        return float(np.mean(values)) if values else float("nan")


class Comparison:
    """Two pipelines on the same frames, side by side: each with its landmarks and an eye enlarged, below them their flicker.

    Attributes:
        width: of the pictures it draws.
        height: the same.
        flicker: means of both meters over the frames in which both have a value.
    """

    def __init__(self, width: int, height: int, layout: Layout, titles: tuple[str, str]) -> None:
        """
        Args:
            width: of the frames in pixels.
            height: the same.
            layout: of the landmarks.
            titles: of the left and the right side.
        """
        self.layout, self.titles = layout, titles
        panel = min(max(height, PANEL_HEIGHT[0]), PANEL_HEIGHT[1])
        self._scale = panel / height
        self._panel = (max(2, round(width * self._scale)), panel)
        self._trace_height = max(96, panel // 4)
        self.width = 2 * self._panel[0] + GAP
        self.height = panel + GAP + self._trace_height
        self._meters = (FlickerMeter(), FlickerMeter())
        self._trace: deque[tuple[float, float, float]] = deque()
        self._eye: tuple[float, float, float] | None = None
        self._top = 0.5
        self._sum, self._count = np.zeros(2), 0

    @property
    def flicker(self) -> tuple[float, float]:
        """Means of both sides so far, in percent of the face's size, over the frames that both have; NaN without one.

        A side that loses the face in the hard frames would look steadier otherwise, for it is not judged in them.
        """
        left, right = (self._sum / self._count).tolist() if self._count else (float("nan"), float("nan"))
        return left, right

    def draw(self, image: Picture, left: Sequence[Face], right: Sequence[Face], time: float) -> Picture:
        """One picture of the comparison, `(height, width, 3)` RGB uint8.

        Args:
            image: the frame.
            left: its faces by the one pipeline.
            right: its faces by the other.
            time: of the frame in seconds.
        """
        values = [meter.step(faces) for meter, faces in zip(self._meters, (left, right), strict=True)]
        if np.isfinite(values).all():
            self._sum += values
            self._count += 1
        self._trace.append((time, values[0], values[1]))
        while self._trace[0][0] < time - TRACE_SECONDS:
            self._trace.popleft()

        canvas = np.empty((self.height, self.width, 3), np.uint8)
        canvas[:] = BACKGROUND
        width, height = self._panel
        matrix = resize_matrix(self._scale)
        mode = cv2.INTER_CUBIC if self._scale > 1 else cv2.INTER_AREA
        large: Picture = image
        if self._scale != 1:
            large = np.asarray(cv2.resize(image, self._panel, interpolation=mode), np.uint8)
        eye = self._look(right or left)
        for side, (faces, color) in enumerate(((left, LEFT_COLOUR), (right, RIGHT_COLOUR))):
            moved = [Face.of(transform_points(matrix, f.points), f.std, f.layout, f.id, f.reset) for f in faces]
            panel = draw_faces(large, moved, color)
            if panel is large:
                panel = large.copy()
            if eye is not None and faces:
                self._inset(panel, image, faces, eye, color)
            put_text(panel, self.titles[side], (12, 10), size=max(16, height // 26), color=color)
            x = side * (width + GAP)
            canvas[:height, x : x + width] = panel
        self._draw_trace(canvas[height + GAP :], time)
        return canvas

    def _look(self, faces: Sequence[Face]) -> tuple[float, float, float] | None:
        """Centre and side of the enlarged region, the same on both sides and slow, so that it shows the landmarks' tremor."""
        if not faces:
            return None
        face = max(faces, key=lambda f: f.box[2] - f.box[0])
        # A layout of one's own may have no eye: then the first landmark of its normaliser.
        eye = self.layout.parts.get("left_eye")
        shown = list(eye.indices) if eye is not None else [self.layout.outer_eyes[0]]
        cx, cy = face.points[shown].mean(0).tolist()
        side = max(0.55 * float(self.layout.inter_ocular(face.points)), 0.2 * (face.box[3] - face.box[1]))
        x, y, s = self._eye or (cx, cy, side)
        if face.reset or np.hypot(cx - x, cy - y) > 0.3 * side:
            x, y, s = cx, cy, side
        self._eye = (x + 0.08 * (cx - x), y + 0.08 * (cy - y), s + 0.08 * (side - s))
        return self._eye

    def _inset(
        self, panel: Picture, image: Picture, faces: Sequence[Face], eye: tuple[float, float, float], color: Colour
    ) -> None:
        size = round(0.3 * self._panel[1])
        x, y, side = eye
        ratio = size / side
        matrix = np.array([[ratio, 0, size / 2 - ratio * x], [0, ratio, size / 2 - ratio * y]])
        view: Picture = np.asarray(cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_CUBIC), np.uint8)
        for face in faces:
            points = transform_points(matrix, face.points)
            for name, part in self.layout.parts.items():
                chain = np.rint(points[list(part.indices)] * 16).astype(np.int32)
                if "eye" in name or "brow" in name:
                    cv2.polylines(view, [chain], part.closed, color, 1, cv2.LINE_AA, 4)
            for point in np.rint(points * 16).astype(np.int32):
                cv2.circle(view, (int(point[0]), int(point[1])), 3 * 16, (255, 255, 255), cv2.FILLED, cv2.LINE_AA, 4)
        margin = 10
        bottom, right = self._panel[1] - margin, self._panel[0] - margin
        # On the side of the picture where the face is not.
        if x * self._scale > self._panel[0] / 2:
            right = margin + size
        if bottom > size and right > size:
            panel[bottom - size : bottom, right - size : right] = view
            cv2.rectangle(panel, (right - size, bottom - size), (right - 1, bottom - 1), color, 2)

    def _draw_trace(self, area: Picture, time: float) -> None:
        height, width = area.shape[:2]
        left, top, bottom = 14, 34, height - 10
        times = np.array([row[0] for row in self._trace])
        values = np.array([row[1:] for row in self._trace], np.float64)
        peak = np.nanmax(values) if np.isfinite(values).any() else 0.0
        # The scale grows at once and shrinks slowly: one that follows every value cannot be read.
        self._top = max(1.05 * float(peak), 0.98 * self._top, 0.2)
        for share in (0.0, 0.5, 1.0):
            y = round(bottom - share * (bottom - top))
            cv2.line(area, (left, y), (width - left, y), (48, 52, 60), 1)
        x = left + (width - 2 * left) * (1 + (times - time) / TRACE_SECONDS)
        for side, color in enumerate((LEFT_COLOUR, RIGHT_COLOUR)):
            good = np.isfinite(values[:, side])
            y = bottom - values[:, side] / self._top * (bottom - top)
            for stretch in np.split(np.arange(len(x)), np.flatnonzero(~good)):
                line = stretch[good[stretch]]
                if len(line) > 1:
                    chain = np.rint(np.stack((x[line], y[line]), 1) * 16).astype(np.int32)
                    cv2.polylines(area, [chain], False, color, 2, cv2.LINE_AA, 4)
        put_text(area, f"flicker, % of the face's size (scale to {self._top:.1f})", (left, 8), size=14, color=DIM_COLOUR)
        means = [f"{v:.2f}" if np.isfinite(v) else "-" for v in self.flicker]
        put_text(area, f"mean {means[0]}", (width - 260, 8), size=14, color=LEFT_COLOUR)
        put_text(area, f"mean {means[1]}", (width - 120, 8), size=14, color=RIGHT_COLOUR)


def resize_matrix(scale: float) -> NDArray[np.float64]:
    """The map from index to index of a picture resized by a factor, `(2, 3)`: edges meet edges."""
    shift = 0.5 * scale - 0.5
    return np.array([[scale, 0.0, shift], [0.0, scale, shift]])


def put_text(image: Picture, text: str, corner: tuple[int, int], size: int, color: Colour = TEXT_COLOUR) -> None:
    """Writes a line of text onto a picture, dark around, cut off at the edges.

    Args:
        image: `(H, W, 3)` RGB uint8, changed in place.
        text: one line.
        corner: x and y of its top left.
        size: of the letters in pixels.
        color: RGB.
    """
    ink, rim = _text_masks(text, size)
    x, y = corner
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + ink.shape[1], image.shape[1]), min(y + ink.shape[0], image.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    place = image[y0:y1, x0:x1].astype(np.float32)
    inside = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
    place *= 1 - 0.7 * rim[inside][..., None]
    place += ink[inside][..., None] * (np.asarray(color, np.float32) - place)
    image[y0:y1, x0:x1] = place.astype(np.uint8)


@lru_cache(maxsize=64)
def _text_masks(text: str, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    font = _font(size)
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("L", (round(right - left) + 8, round(bottom - top) + 8))
    ImageDraw.Draw(picture).text((4 - left, 4 - top), text, fill=255, font=font)
    ink = (np.asarray(picture) / 255).astype(np.float32)
    rim = np.minimum(cv2.GaussianBlur(cv2.dilate(ink, np.ones((3, 3))), (0, 0), 1.5) * 1.5, 1.0)
    return ink, rim.astype(np.float32)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
