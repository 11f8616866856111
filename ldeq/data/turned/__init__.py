"""Photos of faces turned to the side, with blinks and open mouths: photos of frontal faces then teach profiles as well."""

from __future__ import annotations

from ldeq.data.turned.faces import TurnedFaces

__all__ = ["TurnedFaces"]
