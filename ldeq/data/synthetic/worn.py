"""What is before the face: the peak of a cap, glasses, hands and other things.

Every function takes the scene and the image, (size, size, 3) uint8, and returns the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ldeq.data.synthetic.canvas import blend, coverage, fill, noise, rgb, soften, strokes, to_bytes
from ldeq.data.synthetic.geometry import HALF_PI

if TYPE_CHECKING:
    from ldeq.data.synthetic.scene import Scene


def brim(scene: Scene, image: np.ndarray) -> np.ndarray:
    """The peak of a cap and its shadow on the forehead."""
    p = scene.p
    if p.dress.hat != "cap":
        return image
    t = np.linspace(-1, 1, 15)
    line = p.dress.hat_line - 0.05
    wide, _, middle = (float(v[0]) for v in scene.head._sections(np.array([line], np.float32)))
    root = np.stack([0.8 * wide * np.sin(t * HALF_PI * 0.85), line + 0.05 * t**2, middle + 0.1 - 0.5 * t**2], 1)
    tip = np.stack(
        [
            0.86 * wide * np.sin(t * HALF_PI),
            line + 0.12 + 0.08 * t**2,
            middle + 0.12 + 0.55 * np.sqrt(np.clip(1 - t**2, 0, 1)) - 0.45 * t**2,
        ],
        1,
    )
    shape = scene.place(np.concatenate([root, tip[::-1]]))
    shadow = np.zeros(image.shape[:2], np.uint8)
    fill(
        shadow,
        shape + np.array([-0.1 * p.light.direction[0], 0.2 + 0.1 * max(-p.light.direction[1], 0)]) * scene.unit,
        255,
    )
    shadow = soften(shadow, 0.05 * scene.unit)
    image = to_bytes(image * (1 - p.light.cast * 0.7 * coverage(shadow))[..., None])
    colour = rgb(p.dress.hat_colour) * scene.shade(max(0.0, -p.light.direction[1]) * 0.9 + 0.1)
    fill(image, shape, np.clip(colour, 0, 255).tolist())
    strokes(image, [scene.place(tip)], np.clip(colour * 0.7, 0, 255).tolist(), 0.02 * scene.unit)
    return image


def glasses(scene: Scene, image: np.ndarray) -> np.ndarray:
    """Rims, bridge and arms in space before the eyes; dark or reflecting lenses."""
    p, head, rng = scene.p, scene.head, scene.rng
    kind = p.dress.glasses
    if kind == "none":
        return image
    wide, tall = rng.uniform(0.2, 0.25), rng.uniform(0.11, 0.185)
    square = rng.uniform(2.0, 4.5)
    t = np.linspace(0, 2 * np.pi, 36)
    c, s = np.cos(t), np.sin(t)
    ring = np.stack([np.sign(c) * np.abs(c) ** (2 / square) * wide, np.sign(s) * np.abs(s) ** (2 / square) * tall], 1)
    front = float(head.space[51, 2]) + 0.1
    eye_x = float(head.flat[70, 0] - head.flat[62, 0]) / 2
    rims, lenses = [], np.zeros(image.shape[:2], np.uint8)
    for side in (-1, 1):
        xy = ring + (side * (eye_x + 0.01), 0.03 + 0.02 * tall)
        depth = front - 0.32 * xy[:, 0] ** 2
        rims.append(scene.place(np.column_stack([xy, depth])))
        fill(lenses, rims[-1], 255)
    alpha = coverage(lenses)
    if kind == "sun":
        n = scene.size
        glare = np.clip(0.55 + 0.5 * np.linspace(1, -1, n), 0, 1)[:, None, None] * np.array([30, 34, 40])
        image = to_bytes(blend(image, rgb(p.dress.glasses_colour) * 0.35 + glare, alpha * rng.uniform(0.78, 0.98)))
    else:
        image = to_bytes(blend(image, (225, 230, 235), alpha * rng.uniform(0.0, 0.1)))
        if rng.random() < 0.3:
            streak = np.zeros_like(lenses)
            for rim in rims:
                centre = rim.mean(0) + rng.normal(0, 0.05, 2) * scene.unit
                strokes(
                    streak,
                    [
                        np.stack(
                            [
                                centre + (-0.12 * scene.unit, 0.1 * scene.unit),
                                centre + (0.12 * scene.unit, -0.1 * scene.unit),
                            ]
                        )
                    ],
                    255,
                    0.05 * scene.unit,
                )
            soft = np.minimum(soften(streak, 0.02 * scene.unit), lenses).astype(np.float32) / 255
            image = to_bytes(blend(image, (250, 252, 255), soft * rng.uniform(0.2, 0.6)))
    colour = np.clip(rgb(p.dress.glasses_colour) * scene.shade(0.6), 0, 255).tolist()
    thickness = scene.unit * {"thin": 0.014, "half": 0.02, "thick": 0.042}.get(kind, 0.03)
    outlines = [np.concatenate([r[18:], r[:1]]) if kind == "half" else r for r in rims]
    strokes(image, outlines, colour, thickness)
    bridge = np.array([[-eye_x + wide, 0.0, front - 0.01], [0, -0.025, front + 0.03], [eye_x - wide, 0.0, front - 0.01]])
    strokes(image, [scene.place(bridge)], colour, thickness)
    for side in (-1, 1):
        x = side * (eye_x + wide)
        hinge = np.array([x, -0.01, front - 0.32 * x * x])
        ear = np.array([side * 0.83 * p.identity.width, -0.06, -0.75])
        # The arm is hidden by the head on the side that is turned away.
        if side * p.pose.yaw < 12:
            strokes(image, [scene.place(np.stack([hinge, ear]))], colour, thickness)
    return image


def occlude(scene: Scene, image: np.ndarray) -> np.ndarray:
    """A hand, a bar or a patch before the face."""
    p, rng, points = scene.p, scene.rng, scene.head.points
    kind = p.dress.occluder
    if kind not in ("hand", "bar", "patch"):
        return image
    colour = rgb(p.dress.occluder_colour) * scene.shade(0.6)
    unit = scene.unit
    if kind == "hand":
        target = points[int(rng.choice([4, 8, 12, 16, 20, 24, 28, 57, 85]))]
        inward = points[57] - target
        angle = np.arctan2(inward[1], inward[0]) + rng.normal(0, 0.5) if np.hypot(*inward) > 1 else rng.uniform(0, 6.28)
        along, aside = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        palm = target - along * 0.45 * unit
        mask = np.zeros(image.shape[:2], np.uint8)
        strokes(mask, [np.stack([palm - along * 2.5 * unit, palm])], 255, 0.5 * unit)
        edges = []
        for k in range(4):
            base = palm + aside * (k - 1.5) * 0.17 * unit
            bend = aside * rng.normal(0, 0.05) * unit
            finger = np.stack(
                [base, base + along * 0.35 * unit + bend, base + along * rng.uniform(0.5, 0.75) * unit + bend * 2]
            )
            strokes(mask, [finger], 255, 0.155 * unit)
            edges.append(finger + aside * 0.085 * unit)
        soft = soften(mask, 0.07 * unit).astype(np.float32) / 255
        under = soften(mask, 0.03 * unit).astype(np.float32) / 255
        image = to_bytes(image * (1 - 0.4 * under)[..., None])
        tint = colour * (0.55 + 0.5 * soft)[..., None] * (1 + 0.05 * noise(rng, (scene.size, scene.size), (20, 20)))[..., None]
        image = to_bytes(blend(image, np.clip(tint, 0, 255), coverage(mask)))
        strokes(image, edges[:3], np.clip(colour * 0.62, 0, 255).tolist(), 0.02 * unit)
        return image
    centre = points[int(rng.integers(0, 98))] + rng.normal(0, 0.15, 2) * unit
    if kind == "bar":
        angle = rng.uniform(0, np.pi)
        along, aside = (
            np.array([np.cos(angle), np.sin(angle)]) * 4 * unit,
            np.array([-np.sin(angle), np.cos(angle)]) * rng.uniform(0.05, 0.22) * unit,
        )
        shape = np.stack([centre - along - aside, centre + along - aside, centre + along + aside, centre - along + aside])
    else:
        reach = rng.uniform(0.2, 0.6, 2) * unit
        count = int(rng.integers(4, 9))
        t = np.sort(rng.uniform(0, 2 * np.pi, count))
        shape = centre + np.stack([np.cos(t), np.sin(t)], 1) * reach * 1.2
    mask = np.zeros(image.shape[:2], np.uint8)
    fill(mask, shape, 255)
    cells = float(rng.uniform(2, 40))
    grain = 1 + rng.uniform(0, 0.4) * noise(rng, (scene.size, scene.size), (cells, cells))
    return to_bytes(blend(image, np.clip(colour * grain[..., None], 0, 255), coverage(mask)))
