"""Synthetic faces as a data set: drawn heads whose 98 landmarks are known exactly."""

from __future__ import annotations

import operator

import numpy as np

from ldeq.data.layouts import WFLW98, Layout
from ldeq.data.records import FaceRecord
from ldeq.data.synthetic.geometry import Head
from ldeq.data.synthetic.parameters import DIFFICULTIES, Difficulty, FaceParameters
from ldeq.data.synthetic.sampling import sample_parameters
from ldeq.data.synthetic.scene import Scene
from ldeq.data.wflw import WFLW_ATTRIBUTES

from ...errors import ArgumentError
from ...spelling import did_you_mean

SMALLEST = 32  # pixels; below this an eye is thinner than a pixel


def render_face(rng: np.random.Generator, size: int, difficulty: str = "normal") -> tuple[np.ndarray, np.ndarray]:
    """Draw one face.

    Args:
        rng: the only source of chance; two generators in the same state give the same face.
        size: side of the square image in pixels, at least 32.
        difficulty: "easy", "normal" or "hard": how far pose, expression, light, occlusion and camera go.

    Returns:
        The image, `(size, size, 3)` RGB uint8, and the landmarks, `(98, 2)` float32 in pixels of it, x then y, the
        centre of the first pixel at (0, 0). The order is that of WFLW. A few landmarks may lie outside the image.

    Raises:
        ValueError: for a size below 32 or an unknown difficulty.
    """
    head = _draw_head(rng, _checked_size(size), _checked_difficulty(difficulty))
    return Scene(head, size, rng).render(), head.points


class SyntheticFaces:
    """A set of drawn faces, rendered on demand; face i depends on (seed, i) and the options alone.

    Args:
        count: number of faces, at least 1.
        seed: which set; not negative.
        size: side of the square images in pixels, at least 32.
        difficulty: "easy", "normal" or "hard".

    Raises:
        ValueError: for an argument out of its range.

    Example:
        >>> faces = SyntheticFaces(1500, seed=1)
        >>> image, record = faces.read(0), faces.record(0)
    """

    def __init__(self, count: int, seed: int = 0, size: int = 192, difficulty: str = "normal") -> None:
        if count < 1:
            raise ArgumentError(f"a set of synthetic faces needs a count of at least 1, not {count}.")
        if seed < 0:
            raise ArgumentError(f"the seed of synthetic faces must not be negative, but is {seed}.")
        _checked_difficulty(difficulty)
        self.count, self.seed, self.size, self.difficulty = int(count), int(seed), _checked_size(size), difficulty

    @property
    def name(self) -> str:
        """What to print beside a score."""
        return f"synthetic-{self.difficulty} (seed {self.seed}, {self.count} faces)"

    @property
    def layout(self) -> Layout:
        """The landmarks that every face carries."""
        return WFLW98

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        return f"SyntheticFaces({self.count}, seed={self.seed}, size={self.size}, difficulty={self.difficulty!r})"

    def render(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and landmarks of face `index` at once, as `render_face` returns them; raises IndexError."""
        return render_face(self._generator(index), self.size, self.difficulty)

    def read(self, index: int) -> np.ndarray:
        """The picture of face `index`: `(size, size, 3)` RGB uint8; raises IndexError outside the set."""
        return self.render(index)[0]

    def parameters(self, index: int) -> FaceParameters:
        """Everything that was decided about face `index` before it was painted; raises IndexError."""
        return sample_parameters(self._generator(index), DIFFICULTIES[self.difficulty])

    def record(self, index: int) -> FaceRecord:
        """The labels of face `index`, without painting it: landmarks, their tight box, and the WFLW marks.

        A mark is set where its parameter is extreme: a wide pose, a strong expression, hard or dim light, strong
        make-up, something before the face, a blurred picture. Raises IndexError outside the set.
        """
        head = _draw_head(self._generator(index), self.size, DIFFICULTIES[self.difficulty])
        low, high = head.points.min(0), head.points.max(0)
        marks = dict(zip(WFLW_ATTRIBUTES, map(bool, head.parameters.attributes()), strict=True))
        rect = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
        return FaceRecord(image=None, points=head.points, rect=rect, attributes=marks, precropped=False)

    def _generator(self, index: int) -> np.random.Generator:
        index = operator.index(index)
        if not -self.count <= index < self.count:
            raise IndexError(f"face {index} is not in a set of {self.count} synthetic faces.")
        return np.random.default_rng([self.seed, index % self.count])


def _draw_head(rng: np.random.Generator, size: int, difficulty: Difficulty) -> Head:
    # The parameters come first in the stream of chance, so a record needs no painting.
    return Head(sample_parameters(rng, difficulty), size)


def _checked_size(size: int) -> int:
    if size < SMALLEST:
        raise ArgumentError(f"the side of a synthetic face must be at least {SMALLEST} pixels, not {size}.")
    return int(size)


def _checked_difficulty(name: str) -> Difficulty:
    if name not in DIFFICULTIES:
        raise ArgumentError(
            f"unknown difficulty {name!r}{did_you_mean(name, DIFFICULTIES)}: choose one of {', '.join(DIFFICULTIES)}."
        )
    return DIFFICULTIES[name]
