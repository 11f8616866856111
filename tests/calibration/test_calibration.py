"""Fitting what answers mean: known laws are found again, what is no face is none, and the file of the weights carries it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from made_data import write_pts

from ldeq import Landmarker
from ldeq.calibration import add_calibration, calibrate, fit, samples
from ldeq.calibration.answers import Answer
from ldeq.calibration.samples import FACES, Sample, tight
from ldeq.cli import main
from ldeq.confidence import Calibration
from ldeq.data import IBUG68, WFLW98, FaceRecord, FaceSet, Layout, open_faces, shared_indices, write_image
from ldeq.detection import detect_faces
from ldeq.engine import checkpoint, load_pretrained
from ldeq.engine.checkpoint import CheckpointError
from ldeq.engine.weights import find_weights
from ldeq.errors import ArgumentError
from ldeq.video.stream import overlap

OF_68_IN_98 = list((shared_indices(WFLW98, IBUG68) or ((), ()))[0])


def answer(rng: np.random.Generator, face: bool) -> Answer:
    """Faces settle and are sure; the errors of a point follow its deviation and the residual."""
    residual = float(np.exp(rng.normal(-4 if face else -1, 0.5)))
    size = float(rng.uniform(40, 300))
    points = (rng.uniform(0, size, (12, 2)) + 50).astype(np.float32)
    points[0], points[1] = (50, 50), (50 + size, 50 + 0.9 * size)
    std = (size * np.exp(rng.normal(-3.2 if face else -2.8, 0.2, 12))).astype(np.float32)
    mean = size * 0.8 * (std / size) ** 0.9 * residual**0.25
    return Answer("face" if face else "noise", residual, points, std, rng.rayleigh(0.8 * mean) if face else None, size)


@pytest.fixture(scope="module")
def known() -> list[Answer]:
    rng = np.random.default_rng(0)
    return [answer(rng, i % 3 > 0) for i in range(900)]


def test_a_known_law_of_errors_is_found_again(known: list[Answer]) -> None:
    found = fit(known)
    assert found.by_std == pytest.approx(0.9, abs=0.05)
    assert found.by_residual == pytest.approx(0.25, abs=0.03)
    assert abs(found.by_spread) < 0.1
    rng = np.random.default_rng(1)
    others = [answer(rng, True) for _ in range(400)]
    told = np.array([found.deviation(a.residual, a.points, a.std) for a in others])
    errors = np.array([a.errors for a in others])
    for part in np.array_split(np.argsort(told.ravel()), 6):
        assert errors.ravel()[part].mean() == pytest.approx(told.ravel()[part].mean(), rel=0.08)
    assert (errors < 0.94 * told).mean() == pytest.approx(0.5, abs=0.03)
    assert (errors < 1.71 * told).mean() == pytest.approx(0.9, abs=0.03)


def test_the_score_separates_and_its_limit_lets_five_in_a_hundred_pass(known: list[Answer]) -> None:
    found = fit(known)
    scores = np.array([found.score(a.residual, a.points, a.std) for a in known])
    none = np.array([a.errors is None for a in known])
    assert (scores[none] > found.min_score).mean() == pytest.approx(0.05, abs=0.01)
    assert (scores[~none] > found.min_score).mean() > 0.98
    assert scores[~none].mean() > 0.95 and scores[none].mean() < 0.05
    assert found.residual < 0


def test_landmarks_that_do_not_fit_their_face_score_low() -> None:
    rng = np.random.default_rng(2)
    answers = [answer(rng, True) for _ in range(200)] + [answer(rng, False) for _ in range(200)]
    beside = [dataclasses.replace(a, kind="face", errors=np.full(12, a.size)) for a in answers[200:300]]
    found = fit(answers + beside)
    assert np.mean([found.score(a.residual, a.points, a.std) for a in beside]) < 0.1


def test_too_few_answers_are_refused_with_the_remedy(known: list[Answer]) -> None:
    faces = [a for a in known if a.errors is not None]
    with pytest.raises(ArgumentError, match=r"needs 20 boxes .* and 20 without a face, got 600 and 0; give more pictures"):
        fit(faces)
    bad = [dataclasses.replace(a, residual=float("nan")) for a in known]
    with pytest.raises(ArgumentError, match="got 0 and 0"):
        fit(bad)


def drawn_samples() -> list[Sample]:
    faces = open_faces("synthetic:8#seed=4,size=200", "train")
    return list(samples([faces], faces.layout, 8, detect_faces, np.random.default_rng(0)))


def test_samples_show_what_they_say_and_are_the_same_for_a_seed() -> None:
    drawn = drawn_samples()
    kinds = {sample.kind for sample in drawn}
    assert {*FACES, "turned face", "cut face", "part of a face", "background", "noise", "grey", "texture"} <= kinds
    for sample in drawn:
        assert sample.image.dtype == np.uint8 and sample.image.ndim == 3 and min(sample.image.shape) > 0
        x1, y1, x2, y2 = sample.box
        assert x2 > x1 and y2 > y1
        if sample.kind in FACES:
            assert overlap(sample.box, tight(sample.points)) > 0.4
        elif sample.kind != "part of a face":
            assert sample.points is None
    again = drawn_samples()
    assert len(again) == len(drawn)
    for one, other in zip(drawn, again, strict=True):
        assert one.box == other.box
        np.testing.assert_array_equal(one.image, other.image)


def test_what_lies_beside_a_face_shows_none_of_it() -> None:
    faces = open_faces("synthetic:8#seed=4,size=200", "train")
    labels = {faces.read(i).tobytes(): tight(faces.record(i).points) for i in range(len(faces))}
    beside = [s for s in drawn_samples() if s.kind in ("background", "detector's mistake")]
    assert beside
    for sample in beside:
        assert overlap(sample.box, labels[sample.image.tobytes()]) < 0.1


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces whose labels are what small-68 finds: faces that it fits."""
    folder = tmp_path_factory.mktemp("photos")
    lm = Landmarker.load("small-68", "cpu")
    faces = open_faces("synthetic:12#seed=9,size=160", "test")
    for i in range(len(faces)):
        image, points = faces.read(i), faces.record(i).points
        write_image(folder / f"{i:02d}.png", image)
        write_pts(folder / f"{i:02d}.pts", lm(image, [tight(points)])[0].points)
    return folder


def test_calibrate_writes_into_weights_what_every_command_then_uses(photos: Path, tmp_path: Path) -> None:
    target = tmp_path / "own.safetensors"
    command = ["calibrate", str(find_weights("small-68")), "--data", f"pts:{photos}#layout=ibug-68", "--out", str(target)]
    assert main([*command, "--faces", "12", "--device", "cpu"]) == 0
    before, after = load_pretrained("small-68"), load_pretrained(target)
    assert after.calibration is not None and after.calibration != before.calibration
    assert len(after.calibration.offsets) == 68
    assert str(photos.name) in after.calibration.data
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(tensor, after.model.state_dict()[name])
    assert target.stat().st_size < 1.02 * find_weights("small-68").stat().st_size
    face = Landmarker.load(target, "cpu")(photos / "00.png", cropped=True)[0]
    assert face.score is not None and face.deviation.shape == (68,)


def test_calibrate_refuses_what_it_must_not_touch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        assert main(["calibrate", *arguments, "--data", "synthetic:4"]) == 2
        return capsys.readouterr().err

    assert "small-68 is a shipped model, which stays as it is; add --out FILE.safetensors" in refused("small-68")
    assert "--faces must be 1 or more, got 0" in refused("small-68", "--faces", "0")
    assert "must end in .safetensors" in refused("small-68", "--out", str(tmp_path / "w.pt"))


def test_a_calibration_for_another_model_is_refused(tmp_path: Path) -> None:
    source = find_weights("small-68")
    other = Calibration(0, -1, -1, 0.3, (0.0,) * 5, 1, 0, 0)
    add_calibration(source, tmp_path / "w.safetensors", other)
    with pytest.raises(CheckpointError, match=r"calibration.offsets has 5 numbers, and the model 68 landmarks"):
        load_pretrained(tmp_path / "w.safetensors")
    groups, document = checkpoint.load(source)
    checkpoint.save(tmp_path / "t.safetensors", groups, {**document, "kind": "training"})
    with pytest.raises(CheckpointError, match=r"is a checkpoint of training; calibrate the weights .*best.safetensors"):
        add_calibration(tmp_path / "t.safetensors", tmp_path / "w.safetensors", other)


def test_a_set_of_other_landmarks_is_refused() -> None:
    own = Layout("mine", 5, (0, 1, 2, 3, 4), (0, 1), {})
    faces = FaceSet("mine", own, [FaceRecord(None, np.zeros((5, 2), np.float32))])
    with pytest.raises(ArgumentError, match="has the landmarks 'mine' and the model finds 'ibug-68'; give faces with"):
        calibrate(load_pretrained("small-68"), [faces])


def test_sets_with_more_and_with_fewer_landmarks_calibrate_those_that_they_share() -> None:
    faces = open_faces("synthetic:2#size=160", "train")
    photo = FaceRecord(None, faces.record(0).points[OF_68_IN_98])

    class Fewer(FaceSet):
        def read(self, index: int) -> np.ndarray:
            return faces.read(index)

    fewer = Fewer("fewer", IBUG68, [photo])
    rng = np.random.default_rng(0)
    (small,) = [s for s in samples([faces], IBUG68, 1, detect_faces, rng) if s.kind == "face"]
    assert small.points is not None and np.isfinite(small.points).all() and small.points.shape == (68, 2)
    (large,) = [s for s in samples([fewer], WFLW98, 1, detect_faces, rng) if s.kind == "face"]
    assert large.points is not None and large.points.shape == (98, 2)
    assert np.isfinite(large.points).all(1).sum() == 68
    np.testing.assert_array_equal(large.points[OF_68_IN_98], photo.points)
    assert tight(large.points) == tight(photo.points)


def test_landmarks_without_labels_get_the_offset_of_the_others(known: list[Answer]) -> None:
    def hidden(a: Answer) -> Answer:
        return a if a.errors is None else dataclasses.replace(a, errors=np.where(np.arange(12) < 9, a.errors, np.nan))

    found, plain = fit([hidden(a) for a in known]), fit(known)
    assert found.by_std == pytest.approx(plain.by_std, abs=0.05)
    np.testing.assert_allclose(found.offsets[9:], np.mean(found.offsets[:9]), atol=0.02)
