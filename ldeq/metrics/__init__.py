"""Landmark metrics of stills and of videos. All functions take and return NumPy arrays, in float64."""

from __future__ import annotations

from ldeq.metrics.stability import at_rest, in_face_frame, jitter
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
    "at_rest",
    "auc",
    "by_subset",
    "cumulative_errors",
    "face_size",
    "failure_rate",
    "flicker",
    "in_face_frame",
    "jitter",
    "lag",
    "nme",
    "normalised_allan_deviation",
    "normalised_mean_flicker",
    "opening_errors",
    "summary",
    "video_nme",
    "video_summary",
]
