"""The first mistakes that people make with labels of their own, found by looking at all labels of a source together.

Each function gives a sentence for each mistake that it sees. They only ask: a person who looks at the sheet decides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ldeq.data.layouts import Layout

Array = NDArray[np.float64]

# Faces from which on something is said of all of them.
_FEWEST = 5

# Share of the faces that must show a mistake.
_MOST = 0.8

# Deviations beyond which a gap is no chance.
_CLEAR = 6.0

# Turns of the search for the mirror image of the mean shape; it settles after two or three.
_TURNS = 8


def find_mistakes(points: Array, sizes: NDArray[np.int64], layout: Layout) -> list[str]:
    """What looks wrong with the labels of a source.

    Args:
        points: `(N, K, 2)` pixels, sound.
        sizes: `(N, 2)` height and width of each picture.
        layout: what the landmarks mean.
    """
    if len(points) < _FEWEST:
        return []
    exchanged = exchanged_axes(points, layout)
    other_size = labels_of_another_size(points, sizes)
    # Exchanged axes make mirror pairs look wrong, too.
    return exchanged + other_size + first_pixel(points, sizes) + ([] if exchanged else wrong_pairs(points, layout))


def exchanged_axes(points: Array, layout: Layout) -> list[str]:
    """Mirror pairs that stand above one another instead of side by side."""
    pairs = np.array([(i, j) for i, j in enumerate(layout.mirror) if i < j], np.int64).reshape(-1, 2)
    if not len(pairs):
        return []
    across, down = np.abs(points[:, pairs[:, 1]] - points[:, pairs[:, 0]]).sum(1).T
    count = int((down > across).sum())
    if count < _MOST * len(points):
        return []
    return [
        f"in {count} of {len(points)} faces the mirror pairs stand above one another: are x and y exchanged, or do the "
        "pictures lie on their side?"
    ]


def labels_of_another_size(points: Array, sizes: NDArray[np.int64]) -> list[str]:
    """Labels that reach far out of the pictures, or never into their right or lower half."""
    width_height = sizes[:, ::-1].astype(np.float64)
    outside = ((points > width_height[:, None] - 0.5) | (points < -0.5)).any(-1).mean(1) > 0.5
    if outside.mean() >= 0.3:
        return [
            f"in {int(outside.sum())} of {len(points)} faces most landmarks lie outside the picture: were the labels made on "
            "larger pictures, or do they belong to others?"
        ]
    reach = (points / width_height[:, None]).max((0, 1))
    if len(points) >= 4 * _FEWEST and (reach < 0.6).all():
        return [
            f"no landmark of {len(points)} faces lies beyond {100 * reach.max():.0f} % of a picture's width and height: were "
            "the labels made on smaller pictures?"
        ]
    return []


def first_pixel(points: Array, sizes: NDArray[np.int64]) -> list[str]:
    """Whole numbers that run from 1 up to the picture's size, or from -1."""
    if not np.array_equal(points, np.round(points)):
        return []
    last = (points == sizes[:, None, ::-1]).any()
    if points.min() >= 1 and last:
        return [
            "labels are whole numbers from 1 up to the pictures' width or height: if your tool counts the first pixel as 1, "
            "write base=1 behind the source"
        ]
    if points.min() == -1:
        return ["labels are whole numbers from -1 on: if your tool counts the first pixel as 0, write base=0 behind the source"]
    return []


def wrong_pairs(points: Array, layout: Layout) -> list[str]:
    """Mirror pairs of the layout that the mean shape contradicts."""
    shapes = aligned_shapes(points)
    shape = shapes.mean(0)
    partner, onto = _mirror_image(shape)
    said = layout.mirror_index
    # How far each landmark's mirror image lies from its partner, in every face: what a few turned heads do to a mean shows as
    # spread from face to face.
    images = _moved(shapes * (-1.0, 1.0), onto)
    gaps = images - shapes[:, said]
    stated = np.linalg.norm(gaps.mean(0), axis=1)
    chance = np.sqrt(gaps.var(0, ddof=1).sum(1) / len(shapes))
    found = np.linalg.norm(images.mean(0) - shape[partner], axis=1)
    # In units of the shape's own radius; neighbours on a contour of 33 points are 0.15 apart. Few faces may all be
    # turned to one side: then only a wide gap says something.
    wrong = (
        (partner != said)
        & (stated > max(0.12, 1.2 / np.sqrt(len(shapes))))
        & (stated > 2.5 * found)
        & (stated > _CLEAR * chance)
    )
    return [
        f"landmark {_named(layout, i)} is paired with {_named(layout, int(said[i]))}, and in the mean of all faces its mirror "
        f"image is {_named(layout, int(partner[i]))}: look at mirror in the layout"
        for i in np.flatnonzero(wrong).tolist()
    ]


def aligned_shapes(points: Array) -> Array:
    """`(N, K, 2)`: all shapes brought to the place, the turn and the size of their mean, which has radius 1 about 0."""
    shapes = points - points.mean(1, keepdims=True)
    shapes = shapes / np.sqrt((shapes**2).sum(-1).mean(1))[:, None, None]
    mean: Array = shapes.mean(0)
    for _ in range(3):
        shapes = np.stack([_moved(shape, _turn(shape, mean)) for shape in shapes])
        mean = shapes.mean(0)
        mean = mean / np.sqrt((mean**2).sum(-1).mean())
    return shapes


def _turn(shape: Array, target: Array) -> complex:
    """The turn and size, as a complex factor, that brings a shape nearest to another; both are centred."""
    a, b = shape[:, 0] + 1j * shape[:, 1], target[:, 0] + 1j * target[:, 1]
    return complex(np.vdot(a, b) / np.vdot(a, a))


def _moved(shapes: Array, factor: complex) -> Array:
    moved = (shapes[..., 0] + 1j * shapes[..., 1]) * factor
    return np.stack([moved.real, moved.imag], -1)


def _mirror_image(shape: Array) -> tuple[NDArray[np.int64], complex]:
    """The landmark that each one meets in the mirror, found without the layout's pairs, and the turn that lays it on."""
    flipped, factor = shape * (-1.0, 1.0), 1.0 + 0.0j
    partner = np.arange(len(shape))
    for _ in range(_TURNS):
        distance = np.linalg.norm(_moved(flipped, factor)[:, None] - shape[None], axis=-1)
        # Squares would let one pair that meets nothing pull all others.
        partner = linear_sum_assignment(distance)[1]
        factor = _turn(flipped, shape[partner])
    return partner, factor


def _named(layout: Layout, index: int) -> str:
    return f"{index} ({layout.names[index]})" if layout.names else str(index)
