"""The head that photos are fitted to: the average of the drawn heads, as a coarse mesh, and its landmarks.

Axes are those of `ldeq.data.synthetic.geometry`: x to the right of the image, y down, z to the viewer, in face units.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ldeq.data.layouts import IBUG68, WFLW98, Layout, shared_indices
from ldeq.data.synthetic.geometry import HALF_PI, Head, smoothstep
from ldeq.data.synthetic.parameters import DIFFICULTIES, Expression, FaceParameters, Identity, Pose
from ldeq.data.synthetic.sampling import sample_parameters

from ...errors import ArgumentError

Array = NDArray[np.float64]

# Lattice steps of the drawn head in one of the mesh: 0.07 face units, a few pixels of a crop.
_COARSE = 3

# Stiffness of the deformation, which labels that are a little off shall not fold.
_SMOOTHING = 2e-3

# Sections of a cheek, from the middle of the face to the ear, among which its outline is sought.
_SECTIONS = 17


# Landmarks above this height, in face units, can be hidden by the bridge of the nose. Its tip hides others as well, and
# annotators nevertheless put those where the face ends below the nose.
_BRIDGE = 0.2

# How much nearer to the viewer landmarks of photographed heads are than those of the drawn one, in face units, of the left half
# and the middle of the 68. By least squares over 1,207 training photos of 300-W and their mirror images, from where turns of
# heads take the labels: the bridge of a nose stands out farther, corners of the mouth, jaw and chin lie farther back.
_DEPTH = {
    **dict(enumerate((0.01, 0.05, 0.05, 0.03, -0.035, -0.1, -0.15, -0.12, -0.12))),
    **dict(enumerate((0.01, 0.0, 0.005, 0.02, 0.05), 17)),
    **dict(enumerate((0.1, 0.09, 0.075, 0.05, 0.055, 0.04, 0.055), 27)),
    **dict(enumerate((0.015, 0.025, 0.005, 0.035, 0.0, 0.02), 36)),
    **dict(enumerate((-0.12, -0.04, 0.02, 0.02), 48)),
    **dict(enumerate((0.005, 0.0, -0.06, -0.12, -0.01, 0.01), 57)),
    **dict(enumerate((-0.01, -0.01), 66)),
}

# The forehead and the top of the skull stay as they are drawn: between these heights the depths above fade.
_FADE = (-0.8, -0.25)


@dataclass(frozen=True, eq=False)
class MeanHead:
    """The average head with the landmarks of a layout.

    Attributes:
        mesh: `(R, C, 3)` the front of the head, row by row from the crown to the chin, each from its left to its right edge.
        landmarks: `(K, 3)`.
        landmark_plane: `(K, 2)` the same seen from the front, unwrapped about the sides of the head.
        contour: the landmarks of the contour, from the left ear over the chin to the right.
        strips: `(len(contour), S, 3)` for each of them the section of the smooth cheek, without a nose, that it lies on, from
            the middle of the face to its own place.
        sections: `(K, S, 3)` for each landmark the section of the face from its middle to the landmark, which hides the
            landmark where it stands out; with the nose for eyes and brows, without for what is below.
        mesh_bend, strip_bend, section_bend: `(R, C, K)` and so on. Times ways of the landmarks `(K, 2)` they give the ways of
            all points: a smooth deformation by thin-plate splines.
    """

    mesh: Array
    landmarks: Array
    landmark_plane: Array
    contour: tuple[int, ...]
    strips: Array
    sections: Array
    mesh_bend: Array
    strip_bend: Array
    section_bend: Array


@lru_cache(maxsize=4)
def mean_head(layout: Layout) -> MeanHead:
    """The average head with the landmarks of `layout`.

    Raises:
        ValueError: where the layout is none of those whose landmarks a drawn head has.
    """
    rows = shared_indices(layout, WFLW98)
    if rows is None or len(rows[0]) != layout.count:
        raise ArgumentError(f"faces of the layout {layout.name!r} cannot be turned: choose ibug-68 or wflw-98.")
    of = np.asarray(rows[1])
    head, smooth = _head(1.0), _head(0.0)
    row_steps = _steps(len(head.ys))
    columns = _steps(len(head.ss))
    mesh = head.xyz[np.ix_(row_steps, columns)].astype(np.float64)
    plane = np.stack(np.meshgrid(head.ss[columns], head.ys[row_steps]), -1).astype(np.float64)
    # Beyond the side of the head the lattice lies on one line; its edge is that line.
    width = head.width[row_steps][:, None] * HALF_PI
    plane[..., 0] = np.clip(plane[..., 0], -width, width)
    contour = layout.parts["contour"].indices
    strips, strip_planes = _strips(smooth, of[list(contour)])
    part = np.linspace(0.0, 1.0, _SECTIONS)[:, None]
    section_planes = head.unwrapped[of].astype(np.float64)[:, None] * ((1.0, 0.0)) * part
    section_planes[..., 1] = head.unwrapped[of][:, None, 1]
    above = section_planes[:, :1, 1:] < _BRIDGE
    sections = np.where(above, *(h.lift(section_planes.astype(np.float32)) for h in (head, smooth))).astype(np.float64)
    landmark_plane = head.unwrapped[of].astype(np.float64)
    landmarks = head.space[of].astype(np.float64)
    for points, planes in (
        (mesh, plane), (landmarks, landmark_plane), (strips, strip_planes), (sections, section_planes)
    ):  # fmt: skip
        points[..., 2] += _depth_of_photos(head, planes)
    return MeanHead(
        mesh=mesh,
        landmarks=landmarks,
        landmark_plane=landmark_plane,
        contour=contour,
        strips=strips,
        sections=sections,
        mesh_bend=_splines(landmark_plane, plane),
        strip_bend=_splines(landmark_plane, strip_planes),
        section_bend=_splines(landmark_plane, section_planes),
    )


def _depth_of_photos(head: Head, planes: Array) -> Array:
    """How much nearer than drawn photographed heads are at places `(..., 2)`: `(...)`."""
    rows = list((shared_indices(IBUG68, WFLW98) or ((), ()))[1])
    depth = np.zeros(len(rows))
    for k, nearer in _DEPTH.items():
        depth[[k, IBUG68.mirror[k]]] = nearer
    fade = smoothstep(planes[..., 1], *_FADE)
    return np.asarray(_splines(head.unwrapped[rows].astype(np.float64), planes) @ depth * fade, np.float64)


def _splines(centres: Array, places: Array) -> Array:
    """`(..., K)`: times ways of `(K, 2)` centres the ways of `(..., 2)` places by smoothing thin-plate splines."""
    n = len(centres)
    kernel = _plate(centres[:, None] - centres[None]) + _SMOOTHING * np.eye(n)
    affine = np.column_stack([np.ones(n), centres])
    system = np.block([[kernel, affine], [affine.T, np.zeros((3, 3))]])
    flat = places.reshape(-1, 2)
    basis = np.column_stack([_plate(flat[:, None] - centres[None]), np.ones(len(flat)), flat])
    return np.asarray((basis @ np.linalg.inv(system)[:, :n]).reshape(*places.shape[:-1], n))


def _plate(difference: Array) -> Array:
    square = (difference**2).sum(-1)
    return np.asarray(square * np.log(square + 1e-12))


def _head(nose: float) -> Head:
    """The drawn head of average proportions, with a nose of a factor on its depth."""
    drawn = sample_parameters(np.random.default_rng(0), DIFFICULTIES["easy"])
    ones = {"width": 1.035, "crown": -1.28, "brow_thick": 1.0, "flat": 0.95, "chin": -0.025, "eye_tilt": 0.01}
    zero = {"chin_round", "eye_gap", "brow_y", "brow_arch", "mouth_y"}
    identity = {name: ones.get(name, 0.0 if name in zero else 1.0) for name in Identity.__dataclass_fields__}
    rest = Expression(0, 0, 0, 0, 0, 0, 0, 0, 0, (0.0, 0.0))
    pose = Pose(0, 0, 0, 1e6, 0.6, (0.0, 0.0))
    parameters = FaceParameters(
        pose, Identity(**{**identity, "nose_depth": nose}), rest, drawn.skin, drawn.hair, drawn.light, drawn.dress, drawn.camera
    )
    return Head(parameters, 256)


def _steps(count: int) -> NDArray[np.int64]:
    return np.unique(np.append(np.arange(0, count, _COARSE), count - 1))


def _strips(head: Head, rows: NDArray[np.int64]) -> tuple[Array, Array]:
    """Sections of the cheeks through landmarks of the contour."""
    flat = head.flat[rows].astype(np.float64)
    y = flat[:, 1]
    width = np.interp(y, head.ys, head.width)
    side = np.sign(flat[:, 0])
    angles = np.linspace(0.0, 1.0, _SECTIONS) * HALF_PI
    planes = np.stack([(side * width)[:, None] * angles, np.broadcast_to(y[:, None], (len(rows), _SECTIONS))], -1)
    strips = head.lift(planes.astype(np.float32)).astype(np.float64)
    # The very edge of the face is known in closed form.
    strips[:, -1] = head.space[rows]
    return strips, planes
