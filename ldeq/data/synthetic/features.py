"""Brows, nose, eyes and mouth: painted through the very landmarks of the face, so that label and pixel agree.

Every function takes the painter and the texture, (H, W, 3) uint8, and returns the texture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from ldeq.data.synthetic.canvas import ONE, SHIFT, blend, coverage, fill, fixed, noise, rgb, soften, strokes, to_bytes
from ldeq.data.synthetic.geometry import curve, outline

if TYPE_CHECKING:
    from ldeq.data.synthetic.skin import FacePainter

DETAIL = 3  # eyes are painted this many times finer than the rest


def brows(painter: FacePainter, image: np.ndarray) -> np.ndarray:
    """Brows as soft shapes through their outlines, and hairs across them."""
    p, rng = painter.p, painter.rng
    rows, columns, low_corner = painter.window(painter.marks[33:51], 0.1)
    patch = np.ascontiguousarray(image[rows, columns])
    size = (patch.shape[0], patch.shape[1])
    marks = painter.marks - low_corner
    mask = np.zeros(size, np.uint8)
    lines: list[np.ndarray] = []
    for upper, lower in (((33, 34, 35, 36, 37), (33, 41, 40, 39, 38)), ((46, 45, 44, 43, 42), (46, 47, 48, 49, 50))):
        top, bottom = curve(marks[list(upper)], 4), curve(marks[list(lower)], 4)
        fill(mask, np.concatenate([top, bottom[::-1]]), 255)
        # Hairs grow from the lower edge up and outwards, flatter towards the temple.
        count = int(16 + 24 * p.skin.brow_density)
        at = rng.uniform(0, 1, count)
        slot = at * (len(top) - 1)
        index = slot.astype(int)
        outward = np.clip(index - 1 - (1.5 * (1 - at)).astype(int), 0, len(top) - 1)
        high = rng.uniform(0.35, 1.0, count)[:, None]
        low = rng.uniform(0.0, 0.5, count)[:, None]
        begin = bottom[index] * (1 - low) + top[index] * low
        finish = bottom[outward] * (1 - high) + top[outward] * high
        lines += list(np.stack([begin, finish], 1))
    mask = soften(mask, max(0.7, 0.014 * painter.density))
    density = p.skin.brow_density
    grain = 0.82 + 0.18 * noise(rng, size, (size[0] / 3, size[1] / 3))
    patch = blend(patch, p.skin.brow, coverage(mask) * grain * density * 0.95)
    # Single hairs are thinner than a texel: mix their colour with the skin's.
    hair = rgb(p.skin.brow) * 0.62 + rgb(p.skin.tone) * 0.26
    strokes(patch, lines, hair.tolist(), painter.density * 0.006)
    image[rows, columns] = patch
    return image


def nostrils(painter: FacePainter, image: np.ndarray) -> np.ndarray:
    """Nostrils, and the shade under the tip of the nose."""
    f, d = painter.head.flat, painter.p.identity
    tone = rgb(painter.p.skin.tone)
    rows, columns, low = painter.window(painter.marks[54:60], 0.12)
    patch = np.ascontiguousarray(image[rows, columns])
    shade, holes = np.zeros(patch.shape[:2], np.uint8), np.zeros(patch.shape[:2], np.uint8)
    under = np.concatenate([f[[55]] + (0.01, -0.02), f[55:60], f[[59]] + (-0.01, -0.02), (f[57] + (0, -0.035))[None]])
    fill(shade, painter.flat(under) - low, 70)
    for side, a, b in ((-1, 55, 56), (1, 59, 58)):
        centre = f[a] * 0.42 + f[b] * 0.58 + (0, -0.016)
        t = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        ellipse = np.stack([0.036 * d.nose_width * np.cos(t), 0.0145 * np.sin(t)], 1)
        ellipse[:, 1] += ellipse[:, 0] * 0.3 * side - 0.006 * np.cos(t * 2)
        fill(holes, painter.flat(centre + ellipse) - low, 255)
    soft = coverage(soften(shade, max(0.6, 0.016 * painter.density)))
    hard = coverage(soften(holes, max(0.45, 0.006 * painter.density)))
    patch = blend(patch, tone * rgb((0.62, 0.47, 0.43)), soft)
    image[rows, columns] = blend(patch, tone * rgb((0.27, 0.16, 0.15)), hard * 0.85)
    return image


def eye(painter: FacePainter, image: np.ndarray, first: int, pupil: int, side: int) -> np.ndarray:
    """One eye through its eight landmarks from `first` on; `side` is -1 on the left of the image."""
    p, rng, density = painter.p, painter.rng, painter.density * DETAIL
    marks = painter.marks[first : first + 8]
    rows, columns, low = painter.window(marks, 0.09)
    patch = cv2.resize(image[rows, columns], None, fx=DETAIL, fy=DETAIL, interpolation=cv2.INTER_LINEAR)
    eye = (marks - low + 0.5) * DETAIL - 0.5
    centre = (painter.marks[pupil] - low + 0.5) * DETAIL - 0.5
    rim = outline(eye, 4)
    upper, lower = curve(eye[:5], 6), curve(np.concatenate([eye[4:], eye[:1]]), 6)
    hole = np.zeros(patch.shape[:2], np.uint8)
    fill(hole, rim, 255)

    ball = np.empty_like(patch)
    white = rng.uniform(0.76, 0.95) * np.array([226, 218, 212]) - 22 * p.skin.darkness * np.array([0.5, 1.0, 1.6])
    ball[:] = np.clip(white, 0, 255)
    tone = rgb(p.skin.tone)
    for corner, inner in ((eye[0], side > 0), (eye[4], side < 0)):
        pink = 0.55 * np.array([205, 130, 125]) + 0.45 * tone
        radius = (0.034 if inner else 0.02) * density
        cv2.circle(ball, fixed(corner).tolist(), int(radius * ONE), pink.tolist(), -1, cv2.LINE_AA, SHIFT)
    ball = soften(ball, 0.02 * density)
    radius = 0.066 * painter.p.identity.eye_size**0.5 * density
    iris = rgb(p.skin.iris)
    at = fixed(centre).tolist()
    for share, colour in ((1.0, iris * 0.35), (0.88, iris * 0.8), (0.7, iris * 1.15), (0.56, iris * 0.95)):
        cv2.circle(ball, at, int(radius * share * ONE), np.clip(colour, 0, 255).tolist(), -1, cv2.LINE_AA, SHIFT)
    cv2.circle(ball, at, int(radius * rng.uniform(0.34, 0.46) * ONE), (10, 8, 8), -1, cv2.LINE_AA, SHIFT)
    # The upper lid and its lashes shade the ball.
    shade = np.zeros(patch.shape[:2], np.uint8)
    strokes(shade, [upper], 235, 0.06 * density)
    strokes(shade, [lower], 70, 0.014 * density)
    shade = soften(shade, 0.016 * density)
    shaded = ball * (1 - shade[..., None] * np.float32(0.62 / 255))
    ball = shaded.astype(np.uint8)
    x, y, _ = p.light.direction
    spark = centre + np.array([x, y]) * radius * 0.55
    glint = int(rng.uniform(170, 255) * min(1.0, 0.35 + p.light.key * 0.6))
    cv2.circle(
        ball,
        fixed(spark).tolist(),
        int(radius * rng.uniform(0.14, 0.24) * ONE),
        (glint, glint, glint),
        -1,
        cv2.LINE_AA,
        SHIFT,
    )

    patch = blend(patch, ball, coverage(hole))
    lash = np.zeros(patch.shape[:2], np.uint8)
    strokes(lash, [upper], 255, (0.011 + 0.013 * p.skin.lashes) * density)
    strokes(lash, [lower], 60 + 90 * p.skin.lashes * p.skin.makeup, 0.009 * density)
    if p.skin.lashes > 0.4:
        root = upper[2:-2:2]
        out = np.sign(root[:, :1] - eye[[0, 4]].mean(0)[0]) * 0.02 + side * 0.012
        tips = root + np.concatenate([out, np.full((len(root), 1), -0.03)], 1) * density * (0.5 + p.skin.lashes)
        strokes(lash, list(np.stack([root, tips], 1)), 150, 0.006 * density)
    lash = soften(lash, 0.005 * density)
    dark = tone * 0.16 + np.array([4, 2, 2])
    patch = blend(patch, dark, coverage(lash) * 0.88)
    image[rows, columns] = cv2.resize(
        to_bytes(patch), (columns.stop - columns.start, rows.stop - rows.start), interpolation=cv2.INTER_AREA
    )
    return image


def mouth(painter: FacePainter, image: np.ndarray) -> np.ndarray:
    """Lips between outer and inner outline, and what an open mouth shows."""
    p, rng, density = painter.p, painter.rng, painter.density * 2
    rows, columns, low = painter.window(painter.marks[76:96], 0.06)
    patch = cv2.resize(image[rows, columns], None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    marks = (painter.marks[76:96] - low + 0.5) * 2 - 0.5
    outer, inner = marks[:12], marks[12:]
    inside = np.concatenate([inner, inner[:1]])
    top, bottom = curve(inside[:5], 5), curve(inside[4:], 5)
    lip_top, lip_bottom = curve(outer[:7], 5), curve(np.concatenate([outer[6:], outer[:1]]), 5)
    lip = rgb(p.skin.lip)
    size = patch.shape[:2]
    upper_mask, lower_mask, hole = (np.zeros(size, np.uint8) for _ in range(3))
    fill(upper_mask, np.concatenate([lip_top, top[::-1]]), 255)
    fill(lower_mask, np.concatenate([lip_bottom, bottom[::-1]]), 255)
    fill(hole, np.concatenate([top[:-1], bottom[:-1]]), 255)
    # Lips end softly unless they are painted.
    edge = (0.009 if p.skin.makeup > 0.4 else 0.016) * density
    upper_mask, lower_mask = (soften(m, edge) for m in (upper_mask, lower_mask))
    grain = 1 + 0.07 * noise(rng, (size[0], size[1]), (3, size[1] / 4))[..., None]
    patch = blend(patch, np.clip(lip * 0.8 * grain, 0, 255), coverage(upper_mask) * 0.92)
    patch = blend(patch, np.clip(lip * 1.06 * grain, 0, 255), coverage(lower_mask) * 0.92)
    # Light catches the lower lip.
    wet = np.zeros(size, np.uint8)
    middle = (curve(outer[[10, 9, 8]], 5) + curve(inner[[7, 6, 5]], 5)) / 2
    strokes(wet, [middle[2:-2]], 255, 0.018 * density)
    wet = soften(wet, 0.016 * density)
    patch = blend(patch, (255, 240, 235), coverage(wet) * (0.1 + 0.22 * p.skin.oil))

    cavity = np.empty(patch.shape, np.uint8)
    cavity[:] = (52, 16, 18)
    gap = float(np.linalg.norm(inner[2] - inner[6])) / density
    if gap > 0.015:
        teeth_and_tongue(painter, cavity, top, bottom, gap, density)
        shade = np.zeros(size, np.uint8)
        strokes(shade, [top], 150, 0.03 * density)
        shade = soften(shade, 0.014 * density)
        dim = cavity * (1 - shade[..., None] * np.float32(0.55 / 255))
        cavity = dim.astype(np.uint8)
    patch = blend(patch, cavity, coverage(hole))
    seam = np.zeros(size, np.uint8)
    strokes(seam, [top], 210 if gap < 0.04 else 110, 0.012 * density)
    strokes(seam, [bottom], 120 if gap < 0.04 else 60, 0.009 * density)
    seam = soften(seam, 0.007 * density)
    patch = blend(patch, lip * rgb((0.28, 0.18, 0.18)), coverage(seam) * 0.9)
    image[rows, columns] = cv2.resize(
        to_bytes(patch), (columns.stop - columns.start, rows.stop - rows.start), interpolation=cv2.INTER_AREA
    )
    return image


def teeth_and_tongue(
    painter: FacePainter, cavity: np.ndarray, top: np.ndarray, bottom: np.ndarray, gap: float, density: float
) -> None:
    """Paint into `cavity`, between the curves `top` and `bottom` of the inner lips, `gap` face units apart."""
    rng, e = painter.rng, painter.p.expression
    middle = (top[len(top) // 2] + bottom[len(bottom) // 2]) / 2
    wide = float(np.ptp(top[:, 0]))
    if gap > 0.1:
        tongue = np.array([176, 84, 84]) * rng.uniform(0.6, 1.0)
        at = bottom[len(bottom) // 2] + (0, -0.01 * density)
        axes = (int(wide * 0.32 * ONE), int(min(gap * 0.42, 0.11) * density * ONE))
        cv2.ellipse(cavity, fixed(at).tolist(), axes, 0, 0, 360, tongue.tolist(), -1, cv2.LINE_AA, SHIFT)
    white = np.array([238, 228, 206]) * rng.uniform(0.72, 1.0)
    shown = min(0.11, 0.045 + 0.06 * max(e.smile, 0) + 0.02 * rng.random()) * density
    if gap > 0.2 and rng.random() < 0.5:
        lower = bottom + (0, -0.4 * shown)
        fill(cavity, np.concatenate([bottom + (0, shown), lower[::-1]]), (white * 0.75).tolist())
    if max(e.smile, 0) * 0.9 + rng.random() * 0.8 < 0.35:
        return
    t = np.linspace(-1, 1, len(top))
    edge = top + np.stack([np.zeros_like(t), shown * (1 - 0.35 * t**2)], 1)
    fill(cavity, np.concatenate([top - (0, 0.02 * density), edge[::-1]]), white.tolist())
    # Teeth darken towards the corners, and gaps part them.
    lines = []
    for k in range(-4, 5):
        x = middle[0] + k * 0.052 * density * (1 - 0.035 * abs(k))
        lines.append(np.array([[x, top[:, 1].min() - 2], [x, edge[:, 1].max()]]))
    seams = np.zeros(cavity.shape[:2], np.uint8)
    strokes(seams, lines, 90, 0.006 * density)
    fade = np.clip((np.abs(np.arange(cavity.shape[1]) - middle[0]) / (0.5 * wide)) ** 2.5, 0, 1) * 0.62
    weight = np.maximum(coverage(seams) * 0.5, fade[None].astype(np.float32))
    cavity[...] = (cavity * (1 - weight[..., None])).astype(np.uint8)
