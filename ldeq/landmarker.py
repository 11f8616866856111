"""Landmarks for people: load a model, give it a picture, get points in the picture's pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .confidence import check_min_score
from .data import SquareBox, crop_box, read_image
from .detection import Detector, make_detector
from .engine.device import resolve_device
from .engine.settings import SettingsError
from .engine.weights import Pretrained, load_pretrained
from .errors import ArgumentError
from .face import Face
from .inputs import InputError, checked_boxes, picture_from
from .models.inference.engine import ENGINES, choose_engine
from .models.inference.onnxruntime_engine import onnxruntime_missing
from .spelling import did_you_mean
from .threads import ThreadChoice, apply_threads, choose_threads
from .video.filters import filter_from_text
from .video.stream import DETECTED_REFINE, SAME_TRACK, PointFilter, Stream, overlap
from .video.tracking import FaceState, Tracker, TrackingSettings
from .waiting import threads_sleep

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

    Image = str | Path | NDArray[np.uint8] | torch.Tensor | PillowImage


class Landmarker:
    """Finds faces and their landmarks.

    ```python
    lm = Landmarker.load("small-68")
    for face in lm("face.jpg"):
        face.points         # (68, 2)
    ```
    """

    def __init__(self, pretrained: Pretrained, threads: ThreadChoice | None = None, detector: str | Detector = "auto") -> None:
        """
        Args:
            pretrained: the model.
            threads: what was chosen for this process, None if torch's own setting stands.
            detector: as in `load`.
        """
        if not isinstance(pretrained, Pretrained):
            raise ArgumentError(f"Landmarker takes a loaded model; write Landmarker.load({pretrained!r:.60})")
        self.threads = threads
        self._chosen = detector
        self.pretrained = pretrained
        self.model = pretrained.model
        self.layout = pretrained.layout

    def __repr__(self) -> str:
        device = next(self.model.parameters()).device
        return f"Landmarker({self.pretrained.name!r}, {self.layout.name}, on {device} by {self.model.engine})"

    @classmethod
    def load(
        cls,
        name: str | Path = "small-68",
        device: str = "auto",
        *,
        threads: int | Literal["auto"] | None = None,
        engine: str = "auto",
        detector: str | Detector = "auto",
    ) -> Landmarker:
        """
        Args:
            name: a shipped model, or the path of a ``.safetensors`` file written by ldeq.
            device: ``"auto"`` takes a GPU where there is one, else ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
            threads: for a model on the CPU, how many torch computes with, in the whole process: a number, or ``"auto"`` for
                what the container may use and nobody else keeps busy (`ldeq.threads`). None leaves torch's setting alone.
            engine: what evaluates the network on a CPU: ``"torch"``, or ``"onnxruntime"`` (the extra ``onnxruntime``).
                ``"auto"`` takes onnxruntime if it is installed. Landmarks agree to 1e-4 of the crop; the solver is the same.
            detector: what finds faces where no boxes are given: ``"centerface"`` (the extra ``detection``), ``"haar"``,
                ``"yunet:FILE"``, a function from picture to boxes, or ``"auto"``, the best one that is installed
                (`ldeq doctor` tells which). It is loaded when it is needed.

        Raises:
            CheckpointError: if there is no such model or the file is damaged.
            DetectorError: if the detector that was named cannot be used.
            SettingsError: if the device does not exist, or the engine is unknown, not installed or not for that device.
            InputError: if the number of threads is none.
        """
        if not (threads in (None, "auto") or (isinstance(threads, int) and threads >= 1)):
            raise InputError(f'threads must be "auto", a number from 1 on, or None, got {threads!r}')
        place, choice = resolve_device(device), None
        chosen = checked_engine(engine, place)
        if threads is not None and place.type == "cpu":
            count = 0 if threads == "auto" else int(threads)
            choice = ThreadChoice(count, "asked for", count, fixed=True) if count else threads_for(chosen)
            apply_threads(choice)
        landmarker = cls(load_pretrained(name, place), choice, detector if detector == "auto" else make_detector(detector))
        landmarker.model.engine = chosen
        return landmarker

    @property
    def detector(self) -> Detector:
        """What finds faces where no boxes are given."""
        self._chosen = make_detector(self._chosen)
        return self._chosen

    def __call__(
        self,
        image: Image,
        boxes: ArrayLike | None = None,
        *,
        cropped: bool = False,
        refine: int | None = None,
        min_score: float | None = None,
    ) -> list[Face]:
        """Landmarks of every face.

        Args:
            image: a path, an RGB picture `(H, W, 3)` uint8, a Pillow image, or a tensor `(3, H, W)` of uint8 or of floats from
                0 to 1.
            boxes: `(N, 4)`, x1 y1 x2 y2 in pixels, tight around the landmarks (jaw to brows); no detector runs then.
            cropped: the picture is one face, cropped as for training; no detector runs then.
            refine: how often the crop is taken anew around the landmarks found. By default twice behind the detector, whose
                boxes are coarse, and not at all for boxes and crops that were given.
            min_score: `Face.score` below which a face is left out; 0 keeps all. By default what the model's calibration says
                for faces that the detector found, and 0 for boxes and crops that were given. A model without a calibration
                has no score, and nothing is left out.

        Returns:
            One `Face` a box, in the order of the boxes; detected faces largest first, each once. Empty if none is found. What
            is in a box that was given need not be a face: `Face.score` says how much it looks like one.

        Raises:
            ImageError: if the file cannot be read.
            InputError: for a picture or boxes of another shape, or boxes far outside the picture.
        """
        return self.batch([image], None if boxes is None else [boxes], cropped=cropped, refine=refine, min_score=min_score)[0]

    def batch(
        self,
        images: Sequence[Image],
        boxes: Sequence[ArrayLike] | None = None,
        *,
        cropped: bool = False,
        refine: int | None = None,
        min_score: float | None = None,
    ) -> list[list[Face]]:
        """Landmarks of every face of several pictures, which the model sees together.

        Args:
            images: pictures of any sizes, each as in a call for one.
            boxes: for each picture its `(N, 4)` boxes.
            cropped: each picture is one face, cropped as for training.
            refine: as in a call for one.
            min_score: as in a call for one.

        Returns:
            For each picture its faces.

        Raises:
            ImageError: if a file cannot be read.
            InputError: for a picture or boxes of another shape, boxes far outside their picture, or not as many lists of boxes
                as pictures.
        """
        if boxes is not None and cropped:
            raise ArgumentError("give boxes or cropped=True, not both")
        if boxes is not None and len(boxes) != len(images):
            raise InputError(f"boxes must hold one list for each of the {len(images)} pictures, got {len(boxes)}")
        if refine is not None and (isinstance(refine, bool) or not hasattr(refine, "__index__") or refine < 0):
            raise ArgumentError(f"refine must be a number of times, 0 or more, got {refine!r:.60}")
        check_min_score(min_score)
        detected, calibration = boxes is None and not cropped, self.pretrained.calibration
        if refine is None:
            refine = DETECTED_REFINE if detected else 0
        if min_score is None:
            min_score = calibration.min_score if detected and calibration else 0.0
        pictures = [_pixels(image) for image in images]
        frames: list[NDArray[np.uint8]] = []
        states: list[FaceState] = []
        owners: list[int] = []
        for owner, pixels in enumerate(pictures):
            for square in self._squares(pixels, None if boxes is None else boxes[owner], cropped):
                frames.append(pixels)
                states.append(FaceState(square, refine))
                owners.append(owner)
        faces: list[list[Face]] = [[] for _ in pictures]
        if states:
            frame_alone = self._tracker(TrackingSettings(rwr=False))
            for owner, e in zip(owners, frame_alone.step(frames, states), strict=True):
                if e.score is None or e.score >= min_score:
                    faces[owner].append(Face.of(e.points, e.std, self.layout, score=e.score, deviation=e.deviation))
        return [each_once(found) for found in faces] if detected else faces

    def _tracker(self, settings: TrackingSettings) -> Tracker:
        return Tracker(self.model, self.pretrained.crop_scale, settings, self.layout, self.pretrained.calibration)

    def _squares(self, pixels: NDArray[np.uint8], boxes: ArrayLike | None, cropped: bool) -> list[SquareBox]:
        """The crops of a picture."""
        if cropped:
            height, width = pixels.shape[:2]
            return [SquareBox.about((width - 1) / 2, (height - 1) / 2, float(max(height, width)))]
        tight = self.detector(pixels) if boxes is None else checked_boxes(boxes, pixels.shape)
        return [crop_box("box", box=b, scale=self.pretrained.crop_scale) for b in tight]

    def stream(
        self,
        rwr: bool = True,
        iters: int = 1,
        smooth: str | Callable[[], PointFilter] | None = None,
        *,
        boxes: ArrayLike | None = None,
        detector: str | Detector | None = None,
        detect_every: int = 0,
        max_faces: int | None = None,
        min_score: float | None = None,
        fps: float = 30.0,
        tracking: TrackingSettings | None = None,
    ) -> Stream:
        """Landmarks of a video, frame by frame, without flicker.

        ```python
        with lm.stream(rwr=True) as s:
            for frame in frames:
                for face in s(frame):
                    face.id, face.points
        ```

        Args:
            rwr: recurrence without recurrence, each frame from the last one's state; off solves each frame alone.
            iters: cell evaluations a frame with RwR. Fewer remember more.
            smooth: a causal filter for each face: a name of `ldeq.video.filters`, with settings if wanted, as in
                ``"one-euro,min_cutoff=5,mouth.beta=60"``; a function that makes one; None for none.
            boxes: `(N, 4)` tight boxes of the faces in the first frame, instead of the detector.
            detector: as in `load`; the landmarker's own if None.
            detect_every: frames between two searches for faces that came in; 0 searches only where there is no face.
            max_faces: the largest so many are followed; None for all.
            min_score: `Face.score` of a full solve below which there is no face, to be counted as `tracking` says; None for
                what the model's calibration says, 0 for no limit.
            fps: frames a second of frames that come without a time.
            tracking: every other setting of the tracker, in place of `rwr` and `iters`.

        Raises:
            DetectorError: if the detector cannot be used.
            ValueError: for an unknown filter or an argument out of range.
        """
        how = tracking or TrackingSettings(rwr=rwr, iters=iters)
        tracker = self._tracker(how if min_score is None else replace(how, min_score=min_score))
        if isinstance(smooth, str):
            name = smooth
            if not filter_from_text(name, self.layout).causal:
                raise ArgumentError(
                    f"the {name} filter looks at later frames, which a stream does not have; choose a causal one"
                )
            smooth = lambda: filter_from_text(name, self.layout)  # noqa: E731
        elif smooth is not None and not callable(smooth):
            raise ArgumentError(f"smooth must be the name of a filter, a function that makes one, or None, got {smooth!r:.60}")
        return Stream(
            tracker,
            self.layout,
            self.detector if detector is None else make_detector(detector),
            smooth=smooth,
            boxes=None if boxes is None else checked_boxes(boxes),
            detect_every=detect_every,
            max_faces=max_faces,
            fps=fps,
        )


def each_once(faces: list[Face]) -> list[Face]:
    """The faces without those that lie on a better one: of two that share most of their boxes, the higher score is kept."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -1.0 if face.score is None else -face.score):
        if all(overlap(face.box, other.box) <= SAME_TRACK for other in kept):
            kept.append(face)
    return [face for face in faces if any(face is one for one in kept)]


def threads_for(engine: str) -> ThreadChoice:
    """The number of threads for inference on the CPU by an engine in this process."""
    return choose_threads(gives_way=engine == "onnxruntime" and threads_sleep(os.environ))


def checked_engine(engine: str, device: torch.device) -> str:
    """The engine that a name stands for.

    Args:
        engine: a name of `ENGINES`, or ``"auto"``.
        device: where the model is.

    Raises:
        SettingsError: if there is no such engine, or it is not installed, or does not serve the device.
    """
    if engine == "auto":
        return choose_engine(device)[0]
    if engine not in ENGINES:
        raise SettingsError(
            f"unknown engine {engine!r}{did_you_mean(engine, ('auto', *ENGINES))}; choose auto, {' or '.join(ENGINES)}"
        )
    if engine == "onnxruntime":
        if device.type != "cpu":
            raise SettingsError(f"engine 'onnxruntime' runs on the CPU, and the device is {device}; choose device='cpu'")
        if missing := onnxruntime_missing():
            raise SettingsError(f"engine 'onnxruntime' cannot run: {missing}")
    return engine


def _pixels(image: Image) -> NDArray[np.uint8]:
    if isinstance(image, str | Path):
        return read_image(image, exif=True)
    return picture_from(image)
