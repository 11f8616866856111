from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import simpson

from ldeq import metrics
from ldeq.data import WFLW98


def test_nme_of_a_known_displacement() -> None:
    points = np.random.default_rng(0).uniform(0, 100, (3, 98, 2))
    predicted = points + np.array([3.0, 4.0])
    normaliser = WFLW98.inter_ocular(points)
    np.testing.assert_allclose(metrics.nme(predicted, points, normaliser), 5.0 / normaliser, rtol=1e-12)


def test_auc_equals_simpsons_rule_on_the_error_curve() -> None:
    errors = np.random.default_rng(1).gamma(4.0, 0.012, 2500)
    x, y = metrics.cumulative_errors(errors)
    # ldeq.md states 3e-6 for this sample size; the curve is a staircase, on which Simpson's rule is only that good.
    assert metrics.auc(errors) == pytest.approx(simpson(y, x=x) / 0.1, abs=5e-5)


def test_failures_count_errors_above_and_not_at_ten_percent() -> None:
    assert metrics.failure_rate([0.05, 0.1, 0.1001, 0.5]) == 0.5
    assert metrics.summary([0.05, 0.15]) == pytest.approx({"nme": 10.0, "fr10": 50.0, "auc10": 0.25, "images": 2.0})


def test_subsets_hold_their_own_images_and_empty_ones_are_left_out() -> None:
    rows = [{"pose": True, "blur": False}, {"pose": False, "blur": False}, {"pose": True, "blur": False}]
    table = metrics.by_subset([0.01, 0.02, 0.05], rows)
    assert list(table) == ["full", "pose"]
    assert table["pose"]["nme"] == pytest.approx(3.0)
    assert table["pose"]["images"] == 2


def test_the_mean_of_nothing_and_bad_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="no image to score"):
        metrics.summary([])
    with pytest.raises(ValueError, match=r"must both have shape \(N, K, 2\)"):
        metrics.nme(np.zeros((2, 5, 2)), np.zeros((2, 4, 2)), np.ones(2))
    with pytest.raises(ValueError, match="eye corners equal"):
        metrics.nme(np.zeros((2, 5, 2)), np.zeros((2, 5, 2)), np.array([1.0, 0.0]))
