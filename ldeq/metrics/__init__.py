"""Landmark metrics of stills and of videos. All functions take and return NumPy arrays, in float64."""

from __future__ import annotations

from ldeq.metrics.stills import auc, by_subset, cumulative_errors, failure_rate, nme, summary
from ldeq.metrics.video import (
    face_size,
    flicker,
    lag,
    normalised_allan_deviation,
    normalised_mean_flicker,
    opening_errors,
    video_nme,
    video_summary,
)

__all__ = [
    "auc",
    "by_subset",
    "cumulative_errors",
    "face_size",
    "failure_rate",
    "flicker",
    "lag",
    "nme",
    "normalised_allan_deviation",
    "normalised_mean_flicker",
    "opening_errors",
    "summary",
    "video_nme",
    "video_summary",
]
