"""The head: 98 landmarks seen from the front, a smooth surface through them, and the camera.

Axes: x to the right of the image, y down, z to the viewer; the origin lies between the eyes. The front of the head is
a height field over *unwrapped* coordinates (s, y): s is the length along the horizontal section,
``s = w(y) asin(x / w(y))`` where w is the half width of the head, so that what is painted in (s, y) keeps its size in
the middle of the face and wraps round its sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ldeq.data.synthetic.parameters import Expression, FaceParameters, Identity, Pose

HALF_PI = float(np.pi / 2)
LATTICE_STEP = 0.024  # face units between two samples of the height field
S_REACH = 1.36  # largest |s| of the height field

# The left half (of the image) of a neutral face; the right one mirrors it. Contour 0..16, ear to chin.
CONTOUR = np.array(
    [[-.785, -.03], [-.78, .08], [-.772, .185], [-.762, .29], [-.747, .395], [-.727, .5], [-.699, .603], [-.664, .705],
     [-.622, .802], [-.572, .894], [-.515, .98], [-.45, 1.06], [-.377, 1.13], [-.296, 1.19], [-.205, 1.237],
     [-.105, 1.268], [0, 1.28]], np.float32)  # fmt: skip
BROW = np.array(
    [[-.615, -.145], [-.51, -.235], [-.387, -.255], [-.265, -.236], [-.148, -.2], [-.15, -.125], [-.265, -.158],
     [-.388, -.17], [-.51, -.163]], np.float32)  # fmt: skip
EYE = np.array(
    [[-.155, -.004], [-.09, -.046], [-.012, -.062], [.081, -.05], [.155, .009], [.076, .042], [-.012, .05],
     [-.088, .036]], np.float32)  # fmt: skip
EYE_CENTRE = np.array([-0.345, 0.0], np.float32)
NOSE = np.array(
    [[0, -.005], [0, .14], [0, .285], [0, .43], [-.178, .487], [-.093, .512], [0, .527], [.093, .512], [.178, .487]],
    np.float32)  # fmt: skip
# Outer lip 76..87 and inner lip 88..95 of a closed mouth.
MOUTH = np.array(
    [[-.298, .742], [-.192, .694], [-.06, .668], [0, .678], [.06, .668], [.192, .694], [.298, .742], [.21, .805],
     [.113, .852], [0, .866], [-.113, .852], [-.21, .805],
     [-.27, .744], [-.142, .742], [0, .744], [.142, .742], [.27, .744], [.142, .748], [0, .752], [-.142, .748]],
    np.float32)  # fmt: skip
UPPER_LIP = np.array([1, 2, 3, 4, 5, 13, 14, 15])  # rows of MOUTH that belong to the upper lip
LOWER_LIP = np.array([7, 8, 9, 10, 11, 17, 18, 19])
NOSE_TOP, CHIN_Y = 0.5, 1.28  # y where the jaw starts to move, and of the resting chin


def smoothstep(x: np.ndarray | float, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between; `low` may be the larger one."""
    t = np.clip((np.asarray(x, np.float32) - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


@lru_cache(maxsize=64)
def _catmull_rom(count: int, steps: int) -> np.ndarray:
    out = np.zeros(((count - 1) * steps + 1, count))
    for r in range(len(out)):
        k = min(r // steps, count - 2)
        t = r / steps - k
        weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
        for o, weight in zip((-1, 0, 1, 2), weights, strict=True):
            out[r, min(max(k + o, 0), count - 1)] += weight / 2
    return out.astype(np.float32)


def curve(points: np.ndarray, steps: int = 5) -> np.ndarray:
    """Smooth curve through (N, D) points in their order, both ends kept: ((N - 1) * steps + 1, D)."""
    return np.asarray(_catmull_rom(len(points), steps) @ points)


def outline(points: np.ndarray, corner: int) -> np.ndarray:
    """Closed smooth outline with sharp corners at rows 0 and `corner`, as eyes and lips have them."""
    return np.concatenate([curve(points[: corner + 1])[:-1], curve(np.concatenate([points[corner:], points[:1]]))[:-1]])


def frontal_points(identity: Identity, expression: Expression) -> np.ndarray:
    """The 98 landmarks, (98, 2) float32 in face units, of a face that looks straight into a far camera."""
    d, e = identity, expression
    points = np.zeros((98, 2), np.float32)

    contour = CONTOUR.copy()
    below = smoothstep(contour[:, 1], 0.25, 0.85)
    contour[:, 0] *= d.width * (1 + (d.jaw - 1) * below)
    # A broad chin pushes the points beside it outwards, a pointed one pulls them in.
    near_chin = np.exp(-(((contour[:, 1] - 1.15) / 0.14) ** 2))
    contour[:, 0] *= 1 + 0.14 * d.chin_round * near_chin
    contour[:, 1] += jaw_shift(contour[:, 1], d, e)
    contour[:, 0] *= 1 - 0.12 * min(e.open, 0.5) * below
    points[0:17] = contour
    points[32:16:-1] = contour[:16] * (-1, 1)

    for side, raised, blink in ((-1, e.raise_left, e.blink_left), (1, e.raise_right, e.blink_right)):
        brow: np.ndarray = BROW.copy()
        middle = (brow[[0, 1, 2, 3, 4, 4, 3, 2, 1]] + brow[[0, 8, 7, 6, 5, 5, 6, 7, 8]]) / 2
        brow = middle + (brow - middle) * np.float32(d.brow_thick)
        brow[:, 0] = -0.37 + (brow[:, 0] + 0.37) * d.brow_length
        inner = smoothstep(brow[:, 0], -0.5, -0.18)
        arch = np.exp(-(((brow[:, 0] + 0.42) / 0.13) ** 2))
        brow[:, 1] += d.brow_y - d.brow_arch * arch - (0.075 if raised > 0 else 0.03) * raised
        brow[:, 1] += 0.05 * max(-raised, 0) * inner + 0.02 * e.squeeze * inner
        brow[:, 0] += 0.045 * e.squeeze * inner
        eye: np.ndarray = EYE * np.float32(d.eye_size)
        # Laughing lifts the lower lid; frowning lowers the upper one.
        lift = 0.012 * max(e.smile, 0)
        level = np.interp(eye[:, 0], [eye[0, 0], eye[4, 0]], [eye[0, 1], eye[4, 1]])
        opening = (eye[:, 1] - level) * d.eye_open * (1 + 0.25 * max(raised, 0) - 0.12 * max(-raised, 0))
        lower = opening > 0
        shut = level + np.where(lower, opening * 0.75, opening * -0.6) - lift * lower
        eye[:, 1] = np.where(
            lower, level + opening * (1 - 0.25 * blink) - lift, level + opening + (shut - level - opening) * blink
        )
        eye[[0, 4], 1] = level[[0, 4]]
        cosine, sine = np.cos(d.eye_tilt), np.sin(d.eye_tilt)
        eye = eye @ np.array([[cosine, sine], [-sine, cosine]], np.float32)
        centre = EYE_CENTRE + (-d.eye_gap, 0)
        pupil = np.array([0.0, -0.004], np.float32)
        gaze = np.array([e.gaze[0] * -side, e.gaze[1]])
        pupil = pupil + gaze if blink < 0.8 else (eye[2] + eye[6]) / 2
        flip = np.array([-side, 1])
        eye, brow, pupil = (eye + centre) * flip, brow * flip, (pupil + centre) * flip
        if side < 0:
            points[60:68], points[33:42], points[96] = eye, brow, pupil
        else:
            points[[72, 71, 70, 69, 68, 75, 74, 73]] = eye
            points[[46, 45, 44, 43, 42, 50, 49, 48, 47]] = brow
            points[97] = pupil

    nose = NOSE.copy()
    nose[:, 1] = nose[:, 1] * d.nose_length
    nose[:, 0] *= d.nose_width * (1 + 0.12 * max(e.smile, 0))
    nose[4:, 1] -= 0.012 * max(e.smile, 0) * (np.abs(nose[4:, 0]) > 0.15)
    points[51:60] = nose

    points[76:96] = _mouth(d, e) + (0, 0.5 * (NOSE[6, 1] * (d.nose_length - 1)))
    return points


def jaw_shift(y: np.ndarray, identity: Identity, expression: Expression) -> np.ndarray:
    """How far points of the lower face at resting heights `y` sink with a long chin and an open mouth."""
    drop = 0.8 * expression.open + 0.5 * identity.mouth_y
    return smoothstep(y, NOSE_TOP, CHIN_Y) * (identity.chin + drop)


def _mouth(d: Identity, e: Expression) -> np.ndarray:
    mouth = MOUTH.copy()
    seam = np.float32(0.746)
    upper = np.zeros(20, bool)
    upper[UPPER_LIP] = True
    lower = np.zeros(20, bool)
    lower[LOWER_LIP] = True
    thick = np.where(upper, d.upper_lip, np.where(lower, d.lower_lip, 1.0))
    # A smile stretches the lips thin, a kiss makes them full.
    thick = thick * (1 - 0.15 * np.clip(e.smile, 0, 1) + 0.35 * e.pucker)
    outer = np.arange(20) < 12
    mouth[:, 1] = np.where(outer | (upper | lower), seam + (mouth[:, 1] - seam) * thick, mouth[:, 1])
    mouth[:, 0] *= d.mouth_width * (1 + 0.27 * max(e.smile, 0) - 0.04 * max(-e.smile, 0) - 0.38 * e.pucker)
    mouth[:, 0] *= 1 - 0.35 * min(e.open, 0.5) * (1 - 0.6 * max(min(e.smile, 1), 0))
    reach = np.abs(mouth[:, 0]) / np.abs(mouth[:, 0]).max()
    # Corners go up with a smile and down with a sad face; the rest of the lips follows less.
    mouth[:, 1] -= 0.085 * e.smile * reach**2
    mouth[:, 1] -= np.where(upper, 0.03 * max(e.smile, 0) + 0.14 * e.open, 0)
    arch = np.sqrt(np.clip(1 - reach**2, 0, 1))
    drop = e.open * (0.25 + 0.75 * arch)
    mouth[:, 1] += np.where(lower, drop, np.where(upper, 0, 0.42 * e.open))
    mouth[:, 0] += e.skew * (1 + reach)
    mouth[:, 1] += d.mouth_y
    return mouth


@dataclass(frozen=True)
class Camera3D:
    """Rotation and perspective; maps head coordinates to image pixels once scale and offset are known."""

    rotation: np.ndarray  # (3, 3)
    distance: float
    scale: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(..., 3) head coordinates to (..., 2) pixels, first centre at (0, 0), and (...) depth to the viewer."""
        p = points @ self.rotation.T.astype(np.float32)
        near = 1 / (1 - p[..., 2:] / np.float32(self.distance))
        flat = p[..., :2] * near * np.float32(self.scale) + np.array(self.offset, np.float32)
        return flat, p[..., 2]


def rotation_matrix(pose: Pose) -> np.ndarray:
    """Roll after pitch after yaw."""
    a, b, c = np.radians([pose.yaw, pose.pitch, pose.roll])
    yaw = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    pitch = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    roll = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(roll @ pitch @ yaw)


class Head:
    """The surface of one face, and its landmarks from the front, in space and in the image.

    Args:
        parameters: the face.
        size: side of the square image, pixels.

    Attributes: `flat` (98, 2) frontal landmarks; `unwrapped` (98, 2) the same in (s, y); `space` (98, 3); `points`
    (98, 2) float32 in image pixels; `camera`; `ys`, `ss` the axes of the lattice; `width`, `edge_z` per lattice row;
    `xyz` (rows, columns, 3) the lattice in space.
    """

    def __init__(self, parameters: FaceParameters, size: int) -> None:
        self.parameters = parameters
        self.flat = frontal_points(parameters.identity, parameters.expression)
        self.chin = float(self.flat[16, 1])
        self.crown = parameters.identity.crown
        self.ys = np.arange(self.crown, self.chin + LATTICE_STEP, LATTICE_STEP, dtype=np.float32)
        self.ss = np.arange(-S_REACH, S_REACH + 1e-6, LATTICE_STEP, dtype=np.float32)
        self.width, self.edge_z, self.middle_z = self._sections(self.ys)
        self.xyz = self._surface()
        self.unwrapped = self.unwrap(self.flat)
        self.space = self._in_space()
        self.camera, self.points = self._photograph(size)

    def _sections(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Half width, depth of the side and depth of the middle line (without nose and lips) at heights `y`."""
        d, contour = self.parameters.identity, self.flat[:17]
        # Above the ears the skull closes like an ellipse about the height of the temples.
        top = np.clip((y - self.crown) / (-0.35 - self.crown), 0, 1)
        skull = np.sqrt(np.clip(1 - (1 - top) ** 2.3, 0, 1)) * (-contour[0, 0])
        jaw = np.interp(y, contour[:, 1], -contour[:, 0])
        width = np.where(y < contour[0, 1], skull, jaw)
        # Heights below the nose move with the jaw: read the resting profile at the resting height.
        rest = np.interp(
            y,
            np.maximum.accumulate(CONTOUR[:, 1] + jaw_shift(CONTOUR[:, 1], d, self.parameters.expression)),
            CONTOUR[:, 1],
        )
        rest = np.where(y < 0, y * (-1.28 / self.crown), rest)
        edge = np.interp(
            rest, [-1.3, 0.3, 0.6, 0.8, 1.0, 1.13, 1.24, 1.28], [-0.78, -0.78, -0.7, -0.54, -0.31, -0.14, -0.01, 0.02]
        )
        middle = np.interp(
            rest,
            [-1.28, -1.2, -1.1, -0.95, -0.8, -0.6, -0.4, -0.22, -0.05, 0.1, 0.3, 0.55, 0.75, 0.95, 1.1, 1.2, 1.28],
            [-0.78, -0.5, -0.34, -0.16, -0.04, 0.07, 0.125, 0.14, 0.09, 0.085, 0.1, 0.13, 0.15, 0.11, 0.12, 0.1, 0.03],
        )
        return (
            np.maximum(width, 1e-3).astype(np.float32),
            (edge * d.depth).astype(np.float32),
            (middle * d.depth).astype(np.float32),
        )

    def _surface(self) -> np.ndarray:
        d, e, f = self.parameters.identity, self.parameters.expression, self.flat
        angle = np.clip(self.ss[None] / self.width[:, None], -HALF_PI, HALF_PI)
        cosine = np.maximum(np.cos(angle), 0)
        z = self.edge_z[:, None] + (self.middle_z - self.edge_z)[:, None] * cosine ** np.float32(d.flat)
        z = z + self._relief(d, e, f) * np.minimum(cosine * 2.5, 1)
        return np.stack([self.width[:, None] * np.sin(angle), np.broadcast_to(self.ys[:, None], z.shape), z], -1).astype(
            np.float32
        )

    def _relief(self, d: Identity, e: Expression, f: np.ndarray) -> np.ndarray:
        """Bumps and hollows over the smooth section, in face units. Gaussians are separable: one matrix product."""
        corner = (f[82, 0] - f[76, 0]) / 2
        upper_y, lower_y = (f[79, 1] + f[90, 1]) / 2, (f[85, 1] + f[94, 1]) / 2
        mouth_y = (f[90, 1] + f[94, 1]) / 2
        gap = f[94, 1] - f[90, 1]
        smile = max(e.smile, 0.0)
        eye_x = float(f[70, 0] + f[62, 0] * -1) / 2
        brow_y = float(f[[35, 44], 1].mean())
        # height, x, y, width, tall; x > 0 is mirrored to the other side
        bumps: list[tuple[float, float, float, float, float]] = [
            (-0.085 * d.socket, eye_x - 0.06, -0.015, 0.13, 0.095),
            (-0.075 * d.socket, 0.165, 0.0, 0.05, 0.06),
            (0.06, eye_x, 0.0, 0.105, 0.065),
            (0.045 * d.socket, eye_x - 0.05, brow_y + 0.06, 0.17, 0.05),
            (0.065 * d.cheek + 0.05 * smile, 0.4, 0.33 - 0.03 * smile, 0.15, 0.13),
            (-0.012 - 0.03 * smile, 0.29, 0.62, 0.05, 0.11),
            (0.05, 0.0, 0.74, 0.26, 0.2),
            (0.05 * d.cheek, 0.5, 0.68, 0.16, 0.2),
            (0.042 * d.upper_lip, 0.0, upper_y, 0.5 * corner, 0.032),
            (0.055 * d.lower_lip, 0.0, lower_y, 0.42 * corner, 0.04),
            (-0.045, 0.0, mouth_y, 0.6 * corner, 0.015 + 0.4 * gap),
            (-0.045, 0.0, f[85, 1] + 0.075, 0.15, 0.045),
            (0.075, 0.0, self.chin - 0.17, 0.15, 0.095),
            (-0.016, 0.0, 0.6, 0.024, 0.05),
            (-0.018, corner + 0.03, (f[76, 1] + f[82, 1]) / 2, 0.05, 0.05),
            (0.04 * e.pucker, 0.0, mouth_y, 0.16, 0.12),
        ]
        bumps += [(h, -x, y, w, t) for h, x, y, w, t in bumps if x > 0]
        height, x, y, wide, tall = (np.array(c, np.float32)[:, None] for c in zip(*bumps, strict=True))
        along_y = height * np.exp(-0.5 * ((self.ys - y) / tall) ** 2)
        relief = along_y.T @ np.exp(-0.5 * ((self.ss - x) / wide) ** 2)

        tip = float(f[54, 1])
        rows = self.ys / tip
        ridge = np.interp(rows, [-0.3, 0.0, 0.4, 0.75, 0.98, 1.08, 1.17, 1.26], [0, 0.02, 0.115, 0.2, 0.27, 0.25, 0.13, 0.0])
        ridge = ridge * d.nose_depth * (1 + (d.nose_bridge - 1) * smoothstep(rows, 0.85, 0.2))
        wide = np.interp(rows, [-0.2, 0.1, 0.5, 0.9, 1.1], [0.075, 0.062, 0.07, 0.088, 0.095])[:, None] * d.nose_width
        nose = ridge[:, None] * np.exp(-(np.abs(self.ss[None] / wide / 1.25) ** 2.3))
        wing_x, wing_y = float(f[59, 0]) - 0.05, float(f[59, 1]) - 0.045
        side = np.exp(-0.5 * ((self.ss - wing_x) / 0.036) ** 2) + np.exp(-0.5 * ((self.ss + wing_x) / 0.036) ** 2)
        nose = nose + 0.085 * np.exp(-0.5 * ((self.ys - wing_y) / 0.042) ** 2)[:, None] * side[None]
        relief[...] += cv2.GaussianBlur(nose.astype(np.float32), (3, 3), 0.7)
        return np.asarray(relief)

    def unwrap(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) frontal points (x, y) to (s, y)."""
        w = np.interp(points[:, 1], self.ys, self.width)
        angle = np.arcsin(np.clip(points[:, 0] / w, -1, 1))
        return np.stack([w * angle, points[:, 1]], 1).astype(np.float32)

    def lattice_index(self, unwrapped: np.ndarray) -> np.ndarray:
        """(..., 2) points (s, y) to fractional (column, row) of the lattice."""
        return (unwrapped - np.array([self.ss[0], self.ys[0]], np.float32)) / np.float32(LATTICE_STEP)

    def lift(self, unwrapped: np.ndarray) -> np.ndarray:
        """(..., 2) points (s, y) to (..., 3) points of the surface."""
        shape = unwrapped.shape[:-1]
        index = self.lattice_index(unwrapped).reshape(1, -1, 2).astype(np.float32)
        found = cv2.remap(self.xyz, index[..., 0], index[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(found).reshape(*shape, 3)

    def _in_space(self) -> np.ndarray:
        space = self.lift(self.unwrapped)
        space[:, :2] = self.flat
        # The lattice is too coarse for the very edge of the face, which is known in closed form.
        _, edge, _ = self._sections(self.flat[:33, 1])
        space[:33, 2] = edge
        return np.asarray(space)

    def _photograph(self, size: int) -> tuple[Camera3D, np.ndarray]:
        pose = self.parameters.pose
        camera = Camera3D(rotation_matrix(pose), pose.distance)
        points = self._with_silhouette(camera)
        low, high = points.min(0), points.max(0)
        scale = pose.fill * size / float((high - low).max())
        centre = (size - 1) / 2 + np.array(pose.shift) * size
        offset = centre - (low + high) / 2 * scale
        camera = Camera3D(camera.rotation, camera.distance, scale, (float(offset[0]), float(offset[1])))
        return camera, (points * scale + offset).astype(np.float32)

    def _with_silhouette(self, camera: Camera3D) -> np.ndarray:
        """Landmarks in units of the camera; contour points behind the cheek slide along their row to the silhouette."""
        points, _ = camera.project(self.space)
        roll = np.radians(self.parameters.pose.roll)
        across = np.array([np.cos(roll), np.sin(roll)], np.float32)
        angles = np.linspace(0.36, 1.0, 33, dtype=np.float32) * HALF_PI
        for side, rows in ((-1, np.arange(0, 16)), (1, np.arange(17, 33))):
            y = self.flat[rows, 1]
            width = self._sections(y)[0]
            s = side * width[:, None] * angles[None]
            strip = self.lift(np.stack([s, np.broadcast_to(y[:, None], s.shape)], -1))
            strip[:, -1] = self.space[rows]
            flat, _ = camera.project(strip)
            best = (flat @ across * side).argmax(1)
            points[rows] = flat[np.arange(len(rows)), best]
        return points
