"""What a report of an evaluation shows, figure by figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ldeq import metrics
from ldeq.engine.evaluate import Evaluation
from ldeq.engine.report import error_curve, landmark_plot


def made(faces: int = 12) -> Evaluation:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (faces, 5, 2)).astype(np.float32)
    predicted = points + rng.normal(0, 3, points.shape).astype(np.float32)
    normaliser = rng.uniform(40, 80, faces)
    errors = np.linalg.norm(predicted - points, axis=-1).mean(1) / normaliser
    return Evaluation(
        "how", predicted, points, np.ones((faces, 5), np.float32), normaliser, errors.astype(np.float64), np.arange(faces),
        [{} for _ in range(faces)], np.full(faces, 4), 0.1, [],
    )  # fmt: skip


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are written, before they are pixels."""
    figures: list[Figure] = []
    save = Figure.savefig

    def noted(figure: Figure, *args: object, **kwargs: object) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", noted)
    return figures


def test_the_curve_shows_shares_of_images_up_to_ten_percent(tmp_path: Path, drawn: list[Figure]) -> None:
    one, two = made(12), made(7)
    error_curve({"one": one, "two": two}, tmp_path / "ced.png")
    (axes,) = drawn[0].axes
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 10), (0, 100))
    assert axes.get_xlabel() == "NME, % of inter-ocular distance" and axes.get_ylabel() == "images, %"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        f"{name}: NME {e.summary['nme']:.2f} %, AUC10 {e.summary['auc10']:.3f}" for name, e in (("one", one), ("two", two))
    ]
    for line, evaluation in zip(axes.get_lines(), (one, two), strict=True):
        x, y = metrics.cumulative_errors(evaluation.errors)
        np.testing.assert_allclose(line.get_xydata(), np.stack([100 * x, 100 * y], -1))
        share = 100 * (evaluation.errors <= 0.05).mean()
        assert np.interp(5.0, *np.asarray(line.get_xydata()).T) == pytest.approx(share, abs=100 / len(evaluation.errors))
    assert (tmp_path / "ced.png").read_bytes().startswith(b"\x89PNG")


def test_the_bars_are_the_mean_error_of_each_landmark(tmp_path: Path, drawn: list[Figure]) -> None:
    evaluation = made()
    landmark_plot(evaluation, tmp_path / "landmarks.png")
    (axes,) = drawn[0].axes
    distance = np.linalg.norm(evaluation.predicted - evaluation.points, axis=-1) / evaluation.normaliser[:, None]
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    np.testing.assert_allclose([bar.get_height() for bar in bars], 100 * distance.mean(0), rtol=1e-5)
    np.testing.assert_allclose([bar.get_x() + bar.get_width() / 2 for bar in bars], np.arange(5))
    assert axes.get_xlim() == (-1, 5)
    assert all(0.5 < bar.get_width() < 1 for bar in bars)  # no bar touches its neighbours
