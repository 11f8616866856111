"""Light on the head, over the lattice of its surface: key light, ambient light, cast shadows and gloss."""

from __future__ import annotations

import cv2
import numpy as np

from ldeq.data.synthetic.canvas import soften
from ldeq.data.synthetic.geometry import LATTICE_STEP, Head
from ldeq.data.synthetic.parameters import Light


def illuminate(head: Head, light: Light, oil: float) -> np.ndarray:
    """Factors of red, green and blue and the amount of gloss over the lattice, (rows, columns, 4) float32."""
    n = normals(head)
    to = np.array(light.direction, np.float32)
    lambert = n @ to
    # Light creeps round skin: the terminator is soft.
    diffuse = np.clip((lambert + 0.18) / 1.18, 0, 1) * (1 - light.cast * cast_shadow(head, to))
    z = head.xyz[..., 2]
    hollow = soften(z, 0.11 / LATTICE_STEP) - z
    occlusion = np.clip(1 - 2.6 * np.clip(hollow, 0, 0.2), 0.45, 1)
    sky = (0.78 - 0.22 * n[..., 1]) * occlusion
    shade = light.key * diffuse[..., None] * np.array(light.key_colour, np.float32) + light.ambient * sky[..., None] * np.array(
        light.ambient_colour, np.float32
    )
    # Albedo is sRGB; a linear factor acts on it through the display curve. Shadows on skin stay warm.
    shade = np.maximum(shade, 0.01) ** np.array([0.44, 0.475, 0.485], np.float32)
    half = to + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    facing = np.clip(n @ half, 0, 1)
    shine = light.specular * (0.10 * facing**10 + (0.05 + 0.26 * oil) * facing**38) * diffuse * light.key
    return np.asarray(np.concatenate([shade, shine[..., None]], -1).astype(np.float32))


def normals(head: Head) -> np.ndarray:
    """Unit normals of the lattice in camera axes, (rows, columns, 3), z to the viewer."""
    xyz = head.xyz
    across, down = cv2.Sobel(xyz, cv2.CV_32F, 1, 0, ksize=3), cv2.Sobel(xyz, cv2.CV_32F, 0, 1, ksize=3)
    # x right, y down, z to the viewer is a left-handed frame, hence the order of the product.
    n = np.stack(
        [
            across[..., 1] * down[..., 2] - across[..., 2] * down[..., 1],
            across[..., 2] * down[..., 0] - across[..., 0] * down[..., 2],
            across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0],
        ],
        -1,
    )
    n /= np.maximum(np.linalg.norm(n, axis=-1, keepdims=True), 1e-6)
    return np.asarray(n @ head.camera.rotation.T.astype(np.float32))


def cast_shadow(head: Head, to: np.ndarray) -> np.ndarray:
    """Shadow of nose, brows and lips on the face: march over the height field towards the light."""
    z = head.xyz[..., 2]
    local = head.camera.rotation.T.astype(np.float32) @ to
    local[2] = max(local[2], 0.05)
    shadow = np.zeros_like(z)
    for k in range(1, 8):
        reach = 0.045 * k
        move = local[:2] / max(float(np.hypot(*local[:2])), 1e-3) * reach
        climb = local[2] / max(float(np.hypot(*local[:2])), 1e-3) * reach
        shift = np.array([[1, 0, move[0] / LATTICE_STEP], [0, 1, move[1] / LATTICE_STEP]], np.float32)
        other = cv2.warpAffine(
            z, shift, z.shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )
        shadow = np.maximum(shadow, other - z - climb)
    return np.asarray(cv2.GaussianBlur(np.clip(shadow * 22, 0, 1), (0, 0), 1.3))
