"""Landmark layouts: how many points there are, what they mean, and which ones swap in a mirror."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ldeq.errors import LdeqError

from ..errors import ArgumentError
from ..spelling import did_you_mean


@dataclass(frozen=True)
class Part:
    """A run of landmarks that forms one line of the face.

    Attributes:
        indices: the landmarks in drawing order, 0-based.
        closed: whether the last landmark is joined to the first.
    """

    indices: tuple[int, ...]
    closed: bool


@dataclass(frozen=True)
class Opening:
    """Two lines of landmarks that meet at both ends: the lids of an eye, the inner lips.

    Attributes:
        upper: landmarks of the upper line from left to right in the image, both corners included.
        lower: as many of the lower line, with the same corners; ``upper[i]`` lies over ``lower[i]``.
    """

    upper: tuple[int, ...]
    lower: tuple[int, ...]

    def width(self, points: np.ndarray) -> np.ndarray:
        """How far it is open: mean distance of the facing landmarks between the corners, `(..., K, 2)` -> `(...)`."""
        points = np.asarray(points)
        upper, lower = (points[..., list(line[1:-1]), :] for line in (self.upper, self.lower))
        return np.linalg.norm(upper - lower, axis=-1).mean(-1)


class UnknownPartError(LdeqError, ValueError):
    """A part of the face that a layout does not have; the message names those that it has."""


GROUPS: dict[str, tuple[str, ...]] = {
    "jaw": ("contour",),
    "brows": ("left_brow", "right_brow"),
    "nose": ("nose_ridge", "nostrils"),
    "eyes": ("left_eye", "right_eye", "left_pupil", "right_pupil"),
    "mouth": ("outer_lip", "inner_lip"),
}
"""Names for several parts of a face together; parts that a layout lacks are left out."""


@dataclass(frozen=True)
class Layout:
    """An ordered set of facial landmarks. "Left" and "right" are as seen in the image.

    Attributes:
        name: the public name, such as ``"wflw-98"``.
        count: number of landmarks K.
        mirror: K indices; in a mirrored image, new landmark i is old landmark ``mirror[i]``.
        outer_eyes: the outer corners of the left and of the right eye. Their distance is the inter-ocular distance
            that normalises errors. In a layout of one's own any two landmarks whose distance shows the size of the object.
        parts: name of each facial part -> its landmarks, in drawing order.
        openings: ``"mouth"``, ``"left_eye"``, ``"right_eye"`` -> what opens and closes.
        names: the landmarks' own names, K of them, or none.

    Raises:
        ValueError: where `mirror` is not an involution over K landmarks, or an index lies outside the layout.
    """

    name: str
    count: int
    mirror: tuple[int, ...]
    outer_eyes: tuple[int, int]
    parts: Mapping[str, Part] = field(compare=False, repr=False)
    openings: Mapping[str, Opening] = field(default_factory=dict, compare=False, repr=False)
    names: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __repr__(self) -> str:
        return f"Layout({self.name!r}, {self.count} landmarks)"

    def __post_init__(self) -> None:
        if self.names and len(self.names) != self.count:
            raise ArgumentError(f"layout {self.name!r} has {self.count} landmarks but {len(self.names)} names.")
        if len(self.mirror) != self.count:
            raise ArgumentError(f"layout {self.name!r} has {self.count} landmarks but a mirror map of {len(self.mirror)}.")
        used = [*self.mirror, *self.outer_eyes, *(i for part in self.parts.values() for i in part.indices)]
        if any(not 0 <= i < self.count for i in used):
            raise ArgumentError(f"layout {self.name!r} names a landmark outside 0..{self.count - 1}.")
        if any(self.mirror[j] != i for i, j in enumerate(self.mirror)):
            raise ArgumentError(f"the mirror map of layout {self.name!r} applied twice does not give back each landmark.")

    @cached_property
    def mirror_index(self) -> np.ndarray:
        """`mirror` as an int64 array of shape `(K,)`, for indexing."""
        return np.asarray(self.mirror, dtype=np.int64)

    def indices(self, *names: str) -> tuple[int, ...]:
        """The landmarks of parts such as ``"left_eye"``, or of `GROUPS` such as ``"mouth"``, in the order of the layout.

        Raises:
            UnknownPartError: for a name of neither; the message names those that are known.
        """
        groups = {name: [part for part in parts if part in self.parts] for name, parts in GROUPS.items()}
        known = {**{name: [name] for name in self.parts}, **{name: parts for name, parts in groups.items() if parts}}
        for name in names:
            if name not in known:
                raise UnknownPartError(
                    f"layout {self.name!r} has no part {name!r}{did_you_mean(name, known)}: choose from {', '.join(known)}."
                )
        return tuple(sorted({i for name in names for part in known[name] for i in self.parts[part].indices}))

    def mirror_points(self, points: np.ndarray, width: float) -> np.ndarray:
        """Labels of the horizontally mirrored image.

        Pixels are counted by index, so that index x of an image of `width` pixels goes to ``width - 1 - x``.

        Args:
            points: `(..., K, 2)` pixels.
            width: image width in pixels.

        Returns:
            `(..., K, 2)`, the dtype of `points`.
        """
        points = np.asarray(points)
        if points.shape[-2:] != (self.count, 2):
            raise ArgumentError(f"layout {self.name!r} needs points of shape (..., {self.count}, 2), not {points.shape}.")
        mirrored = points[..., self.mirror_index, :].copy()
        mirrored[..., 0] = (width - 1) - mirrored[..., 0]
        return mirrored

    def inter_ocular(self, points: np.ndarray) -> np.ndarray:
        """Distance between the outer eye corners: `(..., K, 2)` -> `(...)`, in the unit of `points`."""
        left, right = self.outer_eyes
        return np.linalg.norm(np.asarray(points)[..., right, :] - np.asarray(points)[..., left, :], axis=-1)


def _run(first: int, last: int, closed: bool = False) -> Part:
    return Part(tuple(range(first, last + 1)), closed)


def _mirror(count: int, *runs: tuple[int, int, int, int]) -> tuple[int, ...]:
    """Each run (a, b, c, d) pairs a..b, ascending, with c..d, descending; a landmark not named maps to itself."""
    mirror = list(range(count))
    for a, b, c, d in runs:
        for i, j in zip(range(a, b + 1), range(c, d - 1, -1), strict=True):
            mirror[i], mirror[j] = j, i
    return tuple(mirror)


WFLW98 = Layout(
    name="wflw-98",
    count=98,
    mirror=_mirror(
        98,
        (0, 15, 32, 17),
        (33, 37, 46, 42),
        (38, 41, 50, 47),
        (55, 56, 59, 58),
        (60, 64, 72, 68),
        (65, 67, 75, 73),
        (76, 78, 82, 80),
        (83, 84, 87, 86),
        (88, 89, 92, 91),
        (93, 93, 95, 95),
        (96, 96, 97, 97),
    ),
    outer_eyes=(60, 72),
    parts={
        "contour": _run(0, 32),
        "left_brow": _run(33, 41, closed=True),
        "right_brow": _run(42, 50, closed=True),
        "nose_ridge": _run(51, 54),
        "nostrils": _run(55, 59),
        "left_eye": _run(60, 67, closed=True),
        "right_eye": _run(68, 75, closed=True),
        "outer_lip": _run(76, 87, closed=True),
        "inner_lip": _run(88, 95, closed=True),
        "left_pupil": _run(96, 96),
        "right_pupil": _run(97, 97),
    },
    openings={
        "mouth": Opening((88, 89, 90, 91, 92), (88, 95, 94, 93, 92)),
        "left_eye": Opening((60, 61, 62, 63, 64), (60, 67, 66, 65, 64)),
        "right_eye": Opening((68, 69, 70, 71, 72), (68, 75, 74, 73, 72)),
    },
)
"""The 98 landmarks of WFLW (Wu et al., "Look at Boundary", CVPR 2018)."""

IBUG68 = Layout(
    name="ibug-68",
    count=68,
    mirror=_mirror(
        68,
        (0, 7, 16, 9),
        (17, 21, 26, 22),
        (31, 32, 35, 34),
        (36, 39, 45, 42),
        (40, 41, 47, 46),
        (48, 50, 54, 52),
        (55, 56, 59, 58),
        (60, 61, 64, 63),
        (65, 65, 67, 67),
    ),
    outer_eyes=(36, 45),
    parts={
        "contour": _run(0, 16),
        "left_brow": _run(17, 21),
        "right_brow": _run(22, 26),
        "nose_ridge": _run(27, 30),
        "nostrils": _run(31, 35),
        "left_eye": _run(36, 41, closed=True),
        "right_eye": _run(42, 47, closed=True),
        "outer_lip": _run(48, 59, closed=True),
        "inner_lip": _run(60, 67, closed=True),
    },
    openings={
        "mouth": Opening((60, 61, 62, 63, 64), (60, 67, 66, 65, 64)),
        "left_eye": Opening((36, 37, 38, 39), (36, 41, 40, 39)),
        "right_eye": Opening((42, 43, 44, 45), (42, 47, 46, 45)),
    },
)
"""The 68 landmarks of 300-W (Sagonas et al., "300 Faces in-the-Wild Challenge", ICCVW 2013)."""

_OF_68_IN_98 = (
    *range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60), 60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75,
    *range(76, 96),
)  # fmt: skip


def shared_indices(first: Layout, second: Layout) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The landmarks that mean the same in two layouts.

    All 68 landmarks of 300-W have one of WFLW's 98 that means the same: every second point of the contour, the upper edges of
    the brows, the nose, the lips, and of each lid the corners and the two points between them that are nearest to thirds.

    Returns:
        Indices in `first` and, in the same order, in `second`; None where nothing is known to be shared.
    """
    if first == second:
        return tuple(range(first.count)), tuple(range(first.count))
    both = (tuple(range(IBUG68.count)), _OF_68_IN_98)
    if (first, second) == (IBUG68, WFLW98):
        return both
    if (first, second) == (WFLW98, IBUG68):
        return both[1], both[0]
    return None


Between = tuple[tuple[int, tuple[tuple[int, float], ...]], ...]


def landmarks_between(first: Layout, second: Layout) -> Between:
    """Landmarks of `second` that lie on a curve midway between those that it shares with `first`.

    Of WFLW's 98 these are 20 beside the 68 of 300-W: every second point of the contour, and the middle of each lid. A
    polynomial through the two landmarks on either side gives them (Lagrange's weights, which add up to 1, so that any affine
    map of the picture moves them along). On 113 hard faces of WFLW they lie 0.3 and 1.3 % of the distance between the eyes
    from the labels.

    Returns:
        For each its index and its (index, weight) pairs, all indices of `second`; nothing for other layouts.
    """
    return _BETWEEN_68_IN_98 if (first, second) == (IBUG68, WFLW98) else ()


def _midway(indices: tuple[int, ...], at: tuple[float, ...]) -> tuple[tuple[int, float], ...]:
    """Lagrange's weights for 0 of landmarks that lie at `at`."""
    return tuple((i, math.prod(-b / (a - b) for b in at if b != a)) for i, a in zip(indices, at, strict=True))


_BETWEEN_68_IN_98: Between = (
    (1, _midway((0, 2, 4), (-1, 1, 3))),
    *((i, _midway((i - 3, i - 1, i + 1, i + 3), (-3, -1, 1, 3))) for i in range(3, 31, 2)),
    (31, _midway((32, 30, 28), (-1, 1, 3))),
    # A lid's landmarks, the corners of the eye included, lie at 0, 1, 2, 3 and 4.
    *(
        (lid[2], _midway((lid[0], lid[1], lid[3], lid[4]), (-2, -1, 1, 2)))
        for eye in ("left_eye", "right_eye")
        for lid in (WFLW98.openings[eye].upper, WFLW98.openings[eye].lower)
    ),
)


LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (WFLW98, IBUG68)}


def get_layout(key: int | str | Layout) -> Layout:
    """The layout of a name (``"wflw-98"``, ``"ibug-68"``) or of a number of landmarks (98, 68).

    Raises:
        ValueError: for an unknown one; the message names those that are known.
    """
    if isinstance(key, Layout):
        return key
    for layout in LAYOUTS.values():
        if key in (layout.name, layout.count, str(layout.count)):
            return layout
    known = ", ".join(f"{layout.name!r} ({layout.count})" for layout in LAYOUTS.values())
    raise ArgumentError(f"unknown landmark layout {key!r}{did_you_mean(key, LAYOUTS)}: choose one of {known}.")
