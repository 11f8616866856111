"""Clips with ground truth, made from labelled photos."""

from __future__ import annotations

from ldeq.data.clips.clip import Clip, ClipSettings, usable
from ldeq.data.clips.make import PARTS, make_clips
from ldeq.data.clips.motion import DIFFICULTIES
from ldeq.data.clips.sequences import SequenceDataset

__all__ = ["DIFFICULTIES", "PARTS", "Clip", "ClipSettings", "SequenceDataset", "make_clips", "usable"]
