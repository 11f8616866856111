"""Clips with ground truth, made from labelled photos."""

from __future__ import annotations

from ldeq.data.clips.clip import Clip, ClipSettings, usable
from ldeq.data.clips.make import PARTS, make_clips
from ldeq.data.clips.motion import DIFFICULTIES

__all__ = ["DIFFICULTIES", "PARTS", "Clip", "ClipSettings", "make_clips", "usable"]
