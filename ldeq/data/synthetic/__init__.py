"""Synthetic faces: drawn, shaded heads with exact landmarks, for demonstrations and tests without any data."""

from __future__ import annotations

from ldeq.data.synthetic.faces import SyntheticFaces, render_face
from ldeq.data.synthetic.parameters import DIFFICULTIES, FaceParameters

__all__ = ["DIFFICULTIES", "FaceParameters", "SyntheticFaces", "render_face"]
