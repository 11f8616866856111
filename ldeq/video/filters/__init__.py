"""Smoothing filters of landmark tracks: the classics, and ours in the face's own frame."""

from .base import CausalFilter, Filter, filter_track
from .face_frame import FaceFrame, FaceFrameSettings
from .factory import FILTERS, filter_from_text, make_filter

DEFAULT = "face-frame"
"""What ``ldeq video`` uses."""

__all__ = [
    "DEFAULT",
    "FILTERS",
    "CausalFilter",
    "FaceFrame",
    "FaceFrameSettings",
    "Filter",
    "filter_from_text",
    "filter_track",
    "make_filter",
]
