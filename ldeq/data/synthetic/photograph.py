"""What surrounds the head and what the camera does to it: backgrounds, lens, sensor and file format."""

from __future__ import annotations

import cv2
import numpy as np

from ldeq.data.synthetic.canvas import SHIFT, fill, fixed, noise, rgb, soften, strokes, to_bytes
from ldeq.data.synthetic.parameters import Camera


def background(rng: np.random.Generator, n: int, defocus: float) -> np.ndarray:
    """Gradient, texture or clutter behind the head, (n, n, 3) uint8; `defocus` is its blur over the side."""
    kind = int(rng.integers(0, 5))
    first, second = (rgb(rng.uniform(10, 245) * (0.45 + 0.55 * rng.random(3))) for _ in range(2))
    slope = rng.normal(0, 1, 2)
    yy, xx = np.linspace(-1, 1, n, dtype=np.float32)[:, None], np.linspace(-1, 1, n, dtype=np.float32)[None]
    t = np.clip(0.5 + 0.4 * (xx * float(slope[0]) + yy * float(slope[1])), 0, 1)[..., None]
    image = (first * (1 - t) + second * t).astype(np.float32)
    if kind in (1, 2, 3):
        cells = float(rng.choice([4, 8, 20, 50]))
        image += (rng.uniform(10, 60) * noise(rng, (n, n), (cells, cells)))[..., None] * rgb(rng.uniform(0.3, 1, 3))
    if kind >= 2:
        flat = to_bytes(image)
        for _ in range(int(rng.integers(4, 22))):
            colour = (rng.uniform(0, 255) * (0.4 + 0.6 * rng.random(3))).tolist()
            at, reach = rng.uniform(-0.1, 1.1, 2) * n, rng.uniform(0.03, 0.35, 2) * n
            shape = int(rng.integers(0, 4))
            if shape == 0:
                angle, arms = rng.uniform(0, np.pi), np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * reach
                turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
                fill(flat, at + arms @ turn, colour)
            elif shape == 1:
                cv2.ellipse(
                    flat,
                    fixed(at).tolist(),
                    fixed(reach * 0.6).tolist(),
                    float(rng.uniform(0, 180)),
                    0,
                    360,
                    colour,
                    -1,
                    cv2.LINE_AA,
                    SHIFT,
                )
            elif shape == 2:
                strokes(flat, [at + np.cumsum(rng.normal(0, 0.12 * n, (5, 2)), 0)], colour, rng.uniform(1, 0.06 * n))
            else:
                fill(flat, at + rng.normal(0, 0.5, (5, 2)) * reach, colour)
        image = flat.astype(np.float32)
    defocus *= n
    if defocus > 0.5:
        image = soften(image, defocus)
    return to_bytes(image)


def photograph(image: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Lens, sensor and file format: (H, W, 3) uint8 in, the same out."""
    n = image.shape[0]
    if camera.blur * n > 0.3:
        image = soften(image, camera.blur * n)
    length = round(camera.motion * n)
    if length >= 2:
        kernel = np.zeros((2 * length + 1, 2 * length + 1), np.float32)
        a = np.radians(camera.motion_angle)
        arm = np.array([np.cos(a), np.sin(a)]) * length / 2
        middle = np.array([length, length])
        cv2.line(kernel, fixed(middle - arm).tolist(), fixed(middle + arm).tolist(), 1.0, 1, cv2.LINE_8, SHIFT)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    level = np.arange(256, dtype=np.float32) / 255
    table = np.stack([np.clip(255 * camera.gain * g * level**camera.gamma, 0, 255) for g in camera.cast], -1)
    image = cv2.LUT(image, table.astype(np.uint8)[None])
    if abs(camera.saturation - 1) > 0.02:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        image = cv2.addWeighted(image, camera.saturation, cv2.merge([grey] * 3), 1 - camera.saturation, 0)
    if camera.noise > 0.5:
        grain = rng.standard_normal(image.shape, np.float32) * np.float32(camera.noise)
        image = to_bytes(image + grain)
    if camera.jpeg:
        done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, camera.jpeg])
        if done:
            image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return np.asarray(image)
