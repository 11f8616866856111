"""Streams: identities, cuts, losses, filters, memory."""

from __future__ import annotations

import gc
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import drawn, moving, shifted, tight
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ldeq import LDEQ, Face, Landmarker, LDEQConfig
from ldeq.data import IBUG68
from ldeq.detection import DetectorError, detect_faces, make_detector, yunet_boxes
from ldeq.engine.weights import Pretrained
from ldeq.inputs import InputError
from ldeq.models.ldeq import LDEQOutput
from ldeq.solvers import Solution
from ldeq.video.cuts import CUT, DOUBT, CutDetector
from ldeq.video.drawing import FlickerMeter
from ldeq.video.stream import checked_points, overlap
from ldeq.video.tracking import TrackingSettings

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def lm() -> Landmarker:
    return Landmarker.load("small-68", "cpu")


def nobody(image: Picture) -> NDArray[np.float64]:
    return np.zeros((0, 4))


def always(*boxes: ArrayLike) -> object:
    return lambda image: np.asarray(boxes, np.float64)


def test_a_stream_keeps_the_number_and_says_when_it_starts(lm: Landmarker) -> None:
    box = tight(drawn(3)[1])
    with lm.stream(boxes=[box], detector=nobody) as stream:
        found = [stream(frame) for frame in moving(3, 6)]
    assert [[f.id for f in faces] for faces in found] == [[0]] * 6
    assert [faces[0].reset for faces in found] == ["start"] + [None] * 5
    face: Face = found[-1][0]
    assert face.points.shape == (68, 2)
    assert face.points.dtype == np.float32
    assert face.box == (*face.points.min(0).tolist(), *face.points.max(0).tolist())


def test_a_cut_resets_and_motion_does_not(lm: Landmarker) -> None:
    first, second = list(moving(3, 6)), list(moving(5, 6))
    boxes = {3: tight(drawn(3)[1]), 5: tight(drawn(5)[1])}
    calls = []

    def detector(image: Picture) -> NDArray[np.float64]:
        calls.append(len(seen))
        return np.array([boxes[3 if len(seen) < 6 else 5]])

    seen: list[list[Face]] = []
    with lm.stream(detector=detector) as stream:
        for frame in first + second:
            seen.append(stream(frame))
    assert [f[0].reset for f in seen] == ["start"] + [None] * 5 + ["cut"] + [None] * 5
    assert [f[0].id for f in seen] == [0] * 6 + [1] * 6
    assert calls == [0, 6]
    # The state of the shot before is gone: the same as a stream that begins here.
    with lm.stream(detector=lambda image: np.array([boxes[5]])) as fresh:
        alone = [fresh(frame)[0].points for frame in second]
    np.testing.assert_allclose([f[0].points for f in seen[6:]], alone, atol=1e-3)


def test_cuts_are_told_from_motion_flashes_and_noise() -> None:
    image, other = drawn(3)[0], drawn(5)[0]
    cuts = CutDetector()
    assert cuts.likeness(image) == 1
    for change in (
        shifted(image, 14, -9),  # a camera that moves by 5 % of the picture in a frame
        shifted(image, 0, 0, 30),
        (image * 0.5).astype(np.uint8),
        np.clip(image * 0.7 + 70, 0, 255).astype(np.uint8),
    ):
        assert cuts.likeness(change) > DOUBT
        cuts.likeness(image)
    assert cuts.likeness(other) < CUT
    black = np.zeros_like(image)
    assert cuts.likeness(black) == 0
    assert cuts.likeness(black) == 1
    assert cuts.likeness(image) == 0


def test_several_faces_keep_their_numbers(lm: Landmarker) -> None:
    a, b = list(moving(3, 8)), list(moving(5, 8))
    boxes = [np.array(tight(drawn(s)[1])) + [256 * i, 0, 256 * i, 0] for i, s in enumerate((3, 5))]
    with lm.stream(detector=always(*boxes), detect_every=3) as stream:  # type: ignore[arg-type]
        for left, right in zip(a, b, strict=True):
            faces = stream(np.concatenate((left, right), 1))
            assert [f.id for f in faces] == [0, 1]
            assert faces[0].box[2] < 256 < faces[1].box[0]
    with lm.stream(detector=always(*boxes), max_faces=1) as stream:  # type: ignore[arg-type]
        assert len(stream(np.concatenate((a[0], b[0]), 1))) == 1


def test_a_larger_thing_that_is_no_face_does_not_take_the_only_place(lm: Landmarker) -> None:
    face = np.array(tight(drawn(3)[1])) + [256, 0, 256, 0]
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8)
    with lm.stream(detector=always([10, 10, 246, 246], face), max_faces=1) as stream:  # type: ignore[arg-type]
        for frame in moving(3, 3):
            assert [(f.id, f.box[0] > 200) for f in stream(np.concatenate((noise, frame), 1))] == [(0, True)]


def test_a_given_box_without_a_face_lets_the_detector_look_at_once(lm: Landmarker) -> None:
    face = tight(drawn(3)[1])
    with lm.stream(boxes=[[900, 900, 950, 950]], detector=always(face)) as stream:  # type: ignore[arg-type]
        assert [[f.id for f in stream(frame)] for frame in moving(3, 3)] == [[0]] * 3


def test_a_face_that_comes_in_is_found_and_a_double_one_is_dropped(lm: Landmarker) -> None:
    boxes = [np.array(tight(drawn(3)[1]))]
    boxes.append(boxes[0] + [4, 4, 4, 4])
    with lm.stream(boxes=boxes, detector=nobody) as stream:
        assert [f.id for f in stream(drawn(3)[0])] == [0]
        assert [f.id for f in stream(drawn(3)[0])] == [0]
    plain = np.full((256, 256, 3), 128, np.uint8)
    detector = lambda image: np.array([boxes[0]]) if image[:, :256].std() > 5 else np.zeros((0, 4))  # noqa: E731
    frames = [plain] * 3 + list(moving(3, 8))
    with lm.stream(detector=detector) as stream:
        ids = [[f.id for f in stream(frame)] for frame in frames]
    assert ids == [[]] * 3 + [[0]] * 8


def test_a_face_lost_and_found_in_its_place_keeps_its_number(lm: Landmarker) -> None:
    image, points = drawn(3)
    box, settings = tight(points), TrackingSettings(check_every=1, patience=1)
    grey = np.random.default_rng(0).integers(90, 160, image.shape).astype(np.uint8)
    covered = image.copy()
    x1, y1, x2, y2 = (round(v) for v in box)
    covered[max(y1 - 20, 0) : y2, x1:x2] = grey[max(y1 - 20, 0) : y2, x1:x2]
    hidden = False

    def detector(picture: Picture) -> NDArray[np.float64]:
        return np.zeros((0, 4)) if hidden else np.array([box])

    with lm.stream(detector=detector, tracking=settings) as stream:
        assert [f.id for f in stream(image)] == [0]
        hidden = True
        for _ in range(4):
            gone = stream(covered)
        assert gone == []
        hidden = False
        back: list[Face] = []
        for _ in range(6):
            back = back or stream(image)
    assert [f.id for f in back] == [0] or "cut" in str(back[0].reset)
    assert back[0].reset


def test_what_the_detector_takes_for_a_face_is_not_followed(lm: Landmarker) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (256, 256, 3)).astype(np.uint8)
    with lm.stream(detector=always([60, 60, 180, 180], [10, 10, 60, 60])) as stream:  # type: ignore[arg-type]
        assert all(stream(noise) == [] for _ in range(3))


def test_filters_are_reset_with_the_face(lm: Landmarker) -> None:
    log: list[str] = []

    class Recorder:
        def reset(self) -> None:
            log.append("reset")

        def step(self, points: ArrayLike, std: ArrayLike | None = None, dt: float = 1 / 30) -> NDArray[np.float64]:
            log.append(f"{dt:.3f}")
            return np.asarray(points, np.float64) + 1

    box = tight(drawn(3)[1])
    frames = list(moving(3, 3))
    with (
        lm.stream(boxes=[box], detector=nobody, smooth=Recorder) as smooth,
        lm.stream(boxes=[box], detector=nobody) as plain,
    ):
        for frame, time in zip(frames, (0.0, 0.04, 0.1), strict=True):
            np.testing.assert_allclose(smooth(frame, time)[0].points, plain(frame, time)[0].points + 1, atol=1e-4)
    assert log == ["reset", "0.033", "0.040", "0.060"]
    with lm.stream(boxes=[box], detector=nobody, smooth="ema") as named:
        assert named(frames[0])[0].points.shape == (68, 2)


def relu() -> bytes:
    """An ONNX file that is fine, and no YuNet: y = relu(x) of `(1, 3, 64, 64)`."""

    def part(number: int, content: bytes | int) -> bytes:
        if isinstance(content, int):
            return bytes([number << 3, content])
        assert len(content) < 128
        return bytes([number << 3 | 2, len(content)]) + content

    shape = b"".join(part(1, part(1, size)) for size in (1, 3, 64, 64))
    tensor = part(2, part(1, part(1, 1) + part(2, shape)))
    graph = part(1, part(1, b"x") + part(2, b"y") + part(4, b"Relu")) + part(2, b"g")
    graph += part(11, part(1, b"x") + tensor) + part(12, part(1, b"y") + tensor)
    return part(1, 7) + part(8, part(1, b"") + part(2, 13)) + part(7, graph)


def test_bad_arguments_are_named(lm: Landmarker, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean"):
        lm.stream(smooth="one-eura")
    with pytest.raises(ValueError, match="gaussian filter looks at later frames"):
        lm.stream(smooth="gaussian")
    with pytest.raises(DetectorError, match="there is no YuNet model absent.onnx"):
        lm.stream(detector="yunet:absent.onnx")
    other = tmp_path / "other.onnx"
    other.write_bytes(relu())
    with pytest.raises(DetectorError, match="cannot use .*other.onnx as a YuNet model; get "):
        lm.stream(detector=f"yunet:{other}")
    other.write_text("no model")
    with pytest.raises(DetectorError, match="cannot use .*other.onnx as a YuNet model; get "):
        lm.stream(detector=f"yunet:{other}")
    with pytest.raises(DetectorError, match="unknown detector 'hear'"):
        make_detector("hear")
    with pytest.raises(ValueError, match=r"boxes must have shape \(N, 4\)"):
        lm.stream(boxes=[1, 2, 3, 4])
    with pytest.raises(ValueError, match="iters must be >= 1"):
        lm.stream(iters=0)
    stream = lm.stream(detector=nobody)
    with pytest.raises(ValueError, match=r"RGB uint8 array \(H, W, 3\)"):
        stream(np.zeros((4, 4), np.uint8))
    stream(np.zeros((40, 40, 3), np.uint8), 1.0)
    with pytest.raises(ValueError, match="after that of the last one, got 1.0"):
        stream(np.zeros((40, 40, 3), np.uint8), 1.0)
    assert make_detector("haar") is detect_faces


def test_threads_that_share_a_stream_all_find_the_face(lm: Landmarker) -> None:
    image, points = drawn(1)
    with lm.stream(boxes=[tight(points)], max_faces=1) as stream, ThreadPoolExecutor(4) as pool:
        faces = list(pool.map(lambda _: stream(image), range(8)))
    assert [[face.id for face in found] for found in faces] == [[0]] * 8
    assert stream.frames == 8


@pytest.mark.parametrize(("smooth", "says"), [(3, "smooth must be the name"), (object, "with the methods step and reset")])
def test_what_makes_no_filter_is_told(smooth: Any, says: str, lm: Landmarker) -> None:
    with pytest.raises(InputError if smooth is object else ValueError, match=says):
        lm.stream(smooth=smooth, boxes=[[50, 50, 200, 200]])(drawn(1)[0])


def test_the_box_behind_yunets_points_is_the_landmarks_box() -> None:
    _, p = drawn(3)
    p = p.astype(np.float64)
    five = np.stack([p[60:68].mean(0), p[68:76].mean(0), p[54], p[76], p[82]])
    (box,) = yunet_boxes(five[None])
    assert overlap(tuple(box), tight(p)) > 0.7  # type: ignore[arg-type]


class Instant(LDEQ):
    """Answers with the same face at once: 3,000 frames of a real model take a minute, and keep nothing themselves."""

    def __init__(self) -> None:
        super().__init__(LDEQConfig.tiny(landmarks=68))
        shape = torch.from_numpy(drawn(3)[1][:68])
        low, high = shape.amin(0), shape.amax(0)
        self.unit = ((shape - low) / (high - low).max() / 1.2 + 0.08)[None]

    def forward(self, images: Tensor, z0: Tensor | None = None, max_iter: int | None = None) -> LDEQOutput:
        z = torch.rand(len(images), 68, 16, 16)
        zeros = torch.zeros(len(images))
        solution = Solution(z, zeros, zeros.long(), zeros.long())
        unit = (self.unit + 0.002 * torch.rand(1)).expand(len(images), 68, 2)
        return LDEQOutput(unit, torch.full((len(images), 68), 0.03), z, solution)


def test_memory_is_flat_over_3000_frames() -> None:
    lm = Landmarker(Pretrained(Instant(), IBUG68, "landmarks", 1.2, {}, "instant"))
    image, points = drawn(3)
    small = np.ascontiguousarray(image[::2, ::2])
    frames = [shifted(small, d, 0) for d in (0, 1, 2, 1)]
    boxes = np.array([tight(points / 2)])
    with lm.stream(detector=lambda picture: boxes, smooth="ema", detect_every=40) as stream:
        for t in range(300):
            stream(frames[t % 4])
        gc.collect()
        objects, resident = gc.get_objects(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tensors, count = sum(isinstance(o, torch.Tensor) for o in objects), len(objects)
        del objects
        for t in range(2700):
            assert len(stream(frames[t % 4])) == 1
        gc.collect()
        objects = gc.get_objects()
        assert sum(isinstance(o, torch.Tensor) for o in objects) <= tensors + 4
        assert len(objects) < count + 500
        # One state of 68 x 16 x 16 floats a frame would be 188 MB.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 30 * 1024


def test_flicker_is_that_of_white_noise_and_none_for_steady_motion() -> None:
    rng, base = np.random.default_rng(0), drawn(3)[1]
    size = np.sqrt(np.prod(np.ptp(base, axis=0)))

    def mean(tracks: NDArray[np.float32]) -> float:
        meter = FlickerMeter()
        values = [meter.step([Face.of(p, np.ones(98, np.float32), IBUG68, 0, "start" if t == 0 else None)])
                  for t, p in enumerate(tracks)]  # fmt: skip
        assert np.isnan(values[:2]).all()
        return float(np.mean(values[2:]))

    steady = np.stack([base + np.float32(2 * t) for t in range(40)])
    assert mean(steady) < 1e-3
    noisy = (steady + rng.normal(0, 1.5, steady.shape)).astype(np.float32)
    # The size is that of the noisy points, a little larger.
    assert mean(noisy) == pytest.approx(100 * np.sqrt(3) * 1.5 / size, rel=0.06)


def test_nothing_is_searched_for_where_there_is_room_for_no_more_faces(lm: Landmarker) -> None:
    looks = []

    def detector(image: Picture) -> NDArray[np.float64]:
        looks.append(1)
        return np.array([tight(drawn(3)[1])])

    with lm.stream(detector=detector, max_faces=1, detect_every=1) as stream:
        assert [[f.id for f in stream(frame)] for frame in moving(3, 4)] == [[0]] * 4
    assert len(looks) == 1


@pytest.mark.parametrize("answer", [np.zeros((67, 2)), np.zeros((68, 3)), np.full((68, 2), np.nan), np.inf, "x", None])
def test_a_filter_that_answers_with_no_points_is_told(answer: Any) -> None:
    with pytest.raises(InputError, match=r"a filter must return finite points of shape \(68, 2\), got"):
        checked_points(answer, np.zeros((68, 2), np.float32))
