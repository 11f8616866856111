"""The heatmaps of a face while the solver converges, as an animated picture: the trajectory of a fixed point, seen."""

from __future__ import annotations

import colorsys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..data import SquareBox, crop_matrix, draw_landmarks, normalise, warp
from ..engine.weights import Pretrained
from ..files import saved_bytes, write_atomically
from ..ops import heatmap_readout
from .drawing import put_text, resize_matrix

Picture = NDArray[np.uint8]

LEADING = (700, 900)
"""Milliseconds of the first picture (the start) and of every evaluation."""
HOLD = 2500
"""Milliseconds of the last picture."""


@torch.no_grad()
def draw_convergence(
    pretrained: Pretrained, image: Picture, square: SquareBox, evaluations: int = 6, side: int = 384
) -> list[Picture]:
    """One picture for the start and one for every evaluation of the cell.

    Each shows the crop in the dark, every landmark's heatmap in a colour of its own, and the landmarks read off them.

    Args:
        pretrained: the model.
        image: `(H, W, 3)` RGB uint8.
        square: the crop.
        evaluations: of the cell, from zeros, by the model's own solver.
        side: of the pictures, in pixels.

    Returns:
        `evaluations` + 1 pictures `(side, side, 3)` RGB uint8.

    Raises:
        ValueError: for fewer than one evaluation.
    """
    model, size = pretrained.model, pretrained.model.config.image_size
    device = next(model.parameters()).device
    crop = warp(image, crop_matrix(square, size), size)
    injection = model.cell.prepare(model.stem(normalise(torch.from_numpy(crop).permute(2, 0, 1)[None].to(device))))
    solver = partial(model.deq.solver, stop="relative", tol=0.0, max_iter=evaluations, trajectory=True, trace=True)
    solution = solver(lambda z: model.cell(z, injection), model.initial_state(1))
    assert solution.trajectory is not None and solution.trace is not None
    states = solution.trajectory[:, 0].float()
    points = heatmap_readout(states, coords="unit", eps=model.config.eps).xy.cpu().numpy() * size
    shown = warp(image, crop_matrix(square, side), side)
    dark = shown.astype(np.float32) * 0.35
    to_side = resize_matrix(side / size)
    pictures = [_labelled(dark, "start: z = 0", side)]
    for step, (z, p) in enumerate(zip(states.cpu().numpy(), points, strict=True)):
        glow = _coloured(z, size, side)
        lit = np.minimum(dark + glow, 255.0).astype(np.uint8)
        places = p @ to_side[:, :2].T + to_side[:, 2]
        text = f"evaluation {step + 1}   residual {float(solution.trace[step, 0]):.1e}"
        pictures.append(_labelled(draw_landmarks(lit, places), text, side))
    return pictures


def write_animation(path: Path, pictures: list[Picture]) -> None:
    """Writes the pictures of `draw_convergence` as a GIF that repeats.

    Raises:
        FileError: if the file cannot be written.
    """
    frames = [Image.fromarray(p) for p in pictures]
    first, every = LEADING
    times = [first] + [every] * (len(frames) - 2) + [HOLD]
    options = {"save_all": True, "append_images": frames[1:], "duration": times[: len(frames)], "loop": 0}
    write_atomically(path, saved_bytes(lambda file: frames[0].save(file, format="GIF", **options)))


def _coloured(z: NDArray[np.float32], size: int, side: int) -> NDArray[np.float32]:
    """Heatmaps `(K, h, h)`, each in its own hue, as light `(side, side, 3)`."""
    hues = np.array([colorsys.hsv_to_rgb(k / len(z), 0.75, 1.0) for k in range(len(z))], np.float32)
    # Light adds up where heatmaps meet; what is far below a peak stays dark.
    light = np.einsum("khw,kc->hwc", z**2, hues)
    light /= max(1.0, float(np.percentile(light.max(-1), 99.8)))
    # Column i of a heatmap lies at pixel i * size / h of the crop: unit coordinates have no half-pixel offset.
    stride, matrix = size / z.shape[-1], resize_matrix(side / size)
    place = np.array([[matrix[0, 0] * stride, 0.0, matrix[0, 2]], [0.0, matrix[1, 1] * stride, matrix[1, 2]]])
    return 255.0 * cv2.warpAffine(light, place, (side, side), flags=cv2.INTER_LINEAR)


def _labelled(picture: NDArray[np.float32] | Picture, text: str, side: int) -> Picture:
    out = np.ascontiguousarray(picture.astype(np.uint8))
    put_text(out, text, (side // 40, side - side // 12), side // 22)
    return out
