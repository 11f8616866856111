"""Puts the painted head into a picture: background, body, hair behind it, ears, glasses, hats, occluders, camera."""

from __future__ import annotations

import cv2
import numpy as np

from ldeq.data.synthetic.canvas import SHIFT, blend, coverage, fill, fixed, noise, rgb, soften, strokes, to_bytes
from ldeq.data.synthetic.geometry import HALF_PI, Head, curve
from ldeq.data.synthetic.mesh import seen_texels
from ldeq.data.synthetic.photograph import background, photograph
from ldeq.data.synthetic.skin import FacePainter
from ldeq.data.synthetic.worn import brim, glasses, occlude

ROWS, COLUMNS = 42, 39  # vertices of the drawn mesh
TEXELS_PER_PIXEL = 1.05


class Scene:
    """Renders one head; `render()` returns (size, size, 3) uint8 RGB.

    Args:
        head: geometry and landmarks.
        size: side of the image, pixels.
        rng: source of everything that was not fixed by the parameters.
    """

    def __init__(self, head: Head, size: int, rng: np.random.Generator) -> None:
        self.head, self.size, self.rng, self.p = head, size, rng, head.parameters
        self.unit = head.camera.scale  # pixels per face unit
        self.painter = FacePainter(head, rng, float(np.clip(self.unit * TEXELS_PER_PIXEL, 24, 260)))
        light = self.p.light
        self.glow = rgb(light.ambient_colour) * light.ambient * 0.8
        self.ray = rgb(light.key_colour) * light.key

    def render(self) -> np.ndarray:
        """The finished photograph."""
        image = background(self.rng, self.size, self.p.camera.defocus)
        image = self._body(image)
        image = self._hair_behind(image)
        image = self._back(image)
        image = self._front(image)
        image = self._side_hair(image)
        image = brim(self, image)
        image = glasses(self, image)
        image = occlude(self, image)
        return photograph(image, self.p.camera, self.rng)

    def shade(self, facing: float | np.ndarray) -> np.ndarray:
        """Colour factors of a surface that the key light strikes at cosine `facing`; (..., 3)."""
        facing = np.clip(np.asarray(facing, np.float32), 0, 1)[..., None]
        return np.asarray(np.maximum(self.glow + self.ray * facing, 0.01) ** 0.46)

    # -- behind the face ------------------------------------------------------------------------------------------

    def place(self, points: np.ndarray, follow: float = 1.0) -> np.ndarray:
        """Head coordinates to pixels; `follow` < 1 is for the body, which turns less than the head."""
        points = np.asarray(points, np.float32)
        flat, _ = self.head.camera.project(points)
        if follow >= 1:
            return flat
        pivot = np.array([0, 0.95, -0.5], np.float32)
        centre, _ = self.head.camera.project(pivot)
        roll = np.radians(self.p.pose.roll) * follow
        turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
        return np.asarray(centre + (points - pivot)[..., :2] @ turn * self.unit)

    def _body(self, image: np.ndarray) -> np.ndarray:
        rng, p = self.rng, self.p
        wide = 0.5 * p.identity.width * p.identity.jaw * rng.uniform(0.82, 1.12)
        drop = max(0.0, self.head.chin - 1.28) * 0.5
        neck = np.array(
            [
                [-wide, 0.35],
                [-wide * 0.96, 1.25 + drop],
                [-wide * 1.05, 1.65 + drop],
                [-wide * 1.7, 1.95 + drop],
                [-3, 2.6 + drop],
                [-3, 9],
                [3, 9],
                [3, 2.6 + drop],
                [wide * 1.7, 1.95 + drop],
                [wide * 1.05, 1.65 + drop],
                [wide * 0.96, 1.25 + drop],
                [wide, 0.35],
            ]
        )
        flat = np.concatenate([neck, np.full((len(neck), 1), -0.5)], 1)
        shape = self.place(flat, 0.45)
        first = int(np.clip(shape[:, 1].min(), 0, self.size - 8))
        whole, image = image, np.ascontiguousarray(image[first:])
        rise = np.array([0, -first])
        shape = shape + rise
        mask = np.zeros(image.shape[:2], np.uint8)
        fill(mask, shape, 255)
        # A cylinder in the light, seen along the axis of the neck.
        roll = np.radians(p.pose.roll) * 0.45
        origin = shape[[0, -1]].mean(0)
        n = self.size
        yy = np.arange(len(image), dtype=np.float32)[:, None] - np.float32(origin[1])
        xx = np.arange(n, dtype=np.float32)[None] - np.float32(origin[0])
        t = np.clip((xx * float(np.cos(roll)) + yy * float(np.sin(roll))) / (self.unit * wide * 1.15), -1, 1)
        lx, ly, lz = p.light.direction
        shade = self.shade(t * lx + np.sqrt(1 - t * t) * lz + 0.05)
        skin = rgb(p.skin.tone) * rgb((0.97, 0.93, 0.9)) * shade
        # The head throws its shadow on the throat.
        low = np.zeros(image.shape[:2], np.uint8)
        jaw = np.concatenate(
            [self.head.points[:33], self.head.points[[32]] + (0, -self.unit), self.head.points[[0]] + (0, -self.unit)]
        )
        fill(low, jaw + np.array([-lx * 0.12, 0.16 + 0.1 * abs(ly)]) * self.unit + rise, 255)
        low = soften(low, 0.09 * self.unit)
        skin = skin * (1 - 0.62 * coverage(low))[..., None]
        image = to_bytes(blend(image, skin, coverage(mask)))
        # Clothes: a collar line between round and V, anywhere below the throat.
        collar = rng.uniform(1.32, 1.75) + drop
        depth = rng.uniform(0.0, 0.75) if rng.random() < 0.6 else 0.0
        cloth = np.array(
            [
                [-3.2, 2.65 + drop],
                [-wide * 1.75, collar + 0.2],
                [-wide * 1.02, collar - 0.02],
                [-wide * 0.5, collar + 0.12 + 0.5 * depth],
                [0, collar + 0.16 + depth],
                [wide * 0.5, collar + 0.12 + 0.5 * depth],
                [wide * 1.02, collar - 0.02],
                [wide * 1.75, collar + 0.2],
                [3.2, 2.65 + drop],
                [3.2, 9],
                [-3.2, 9],
            ]
        )
        cloth = self.place(np.concatenate([cloth, np.full((len(cloth), 1), -0.5)], 1), 0.45) + rise
        mask[:] = 0
        fill(mask, cloth, 255)
        fabric = rgb(p.dress.clothes) * self.shade(0.6)
        tall = len(image)
        folds = 1 + 0.16 * noise(rng, (tall, n), (5, 9)) + 0.05 * noise(rng, (tall, n), (n / 2, n / 2))
        if rng.random() < 0.25:
            stripes = 0.25 * np.sign(np.sin(np.arange(n, dtype=np.float32) / self.unit * rng.uniform(15, 60)))
            folds = folds + (stripes[None] if rng.random() < 0.5 else stripes[:tall, None])
        whole[first:] = blend(image, fabric * folds[..., None], coverage(mask))
        return whole

    def _covering(self) -> np.ndarray | None:
        """Colour of what covers the back of the head, or None for skin."""
        if self.p.dress.hat != "none":
            return rgb(self.p.dress.hat_colour)
        return None if self.p.hair.style == "bald" else rgb(self.p.hair.colour)

    def _hair_behind(self, image: np.ndarray) -> np.ndarray:
        """Hair, or a hood, that stands out round the head and falls behind the neck."""
        p, rng = self.p, self.rng
        colour = self._covering()
        if colour is None or (p.dress.hat in ("beanie", "cap") and p.hair.length < 0):
            return image
        volume = 0.16 if p.dress.hat == "hood" else p.hair.volume
        wide = 0.8 * p.identity.width + volume * 0.9
        t = np.linspace(0, np.pi, 40)
        rough = 1 + (0.02 + 0.05 * p.hair.curl) * noise(rng, (1, 40), (1, 18))[0] * (p.dress.hat == "none")
        top = np.stack([-np.cos(t) * wide * rough, -0.2 - np.sin(t) * (-self.head.crown - 0.2 + volume) * rough], 1)
        end = p.hair.length
        if p.dress.hat == "hood":
            end = 1.9
        if end > 0:
            flare = wide * rng.uniform(0.95, 1.3)
            tail = np.stack([np.array([1.02, 1.05, 1.1, 1.0]) * np.linspace(wide, flare, 4), np.linspace(0.1, end, 4)], 1)
            ends = np.stack([np.linspace(0.9, -0.9, 15) * flare, end + rng.normal(0, 0.06, 15)], 1)
            shape = np.concatenate([top, tail, ends, tail[::-1] * (-1, 1)])
        else:
            shape = np.concatenate([top, [[wide * 0.85, 0.35], [0.5, 0.6], [-0.5, 0.6], [-wide * 0.85, 0.35]]])
        points = self.place(np.concatenate([shape, np.full((len(shape), 1), -0.85)], 1))
        mask = np.zeros(image.shape[:2], np.uint8)
        fill(mask, points, 255)
        if p.dress.hat == "none":
            mask = soften(mask, 0.012 * self.unit)
        if p.dress.hat == "hood":
            texture = np.broadcast_to(colour, image.shape).astype(np.float32)
        else:
            texture = self.painter.hair_texture((self.size, self.size))
        texture = texture * self.shade(0.25) * 0.8
        return to_bytes(blend(image, np.clip(texture, 0, 255), coverage(mask)))

    # -- the head -------------------------------------------------------------------------------------------------

    def _mesh(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (ROWS, COLUMNS, 3) of the front, hair included, and their (s, y)."""
        head = self.head
        t = np.linspace(0, 1, ROWS, dtype=np.float32)
        # Rows lie closer where the skull and the chin close.
        y = head.crown + (head.chin - head.crown) * (0.6 * t + 0.4 * (1 - np.cos(np.pi * t)) / 2)
        angle = np.linspace(-HALF_PI, HALF_PI, COLUMNS, dtype=np.float32)
        width, edge, _ = head._sections(y)
        unwrapped = np.stack([width[:, None] * angle[None], np.broadcast_to(y[:, None], (ROWS, COLUMNS))], -1).astype(
            np.float32
        )
        vertices = head.lift(unwrapped)
        vertices[..., 0] = width[:, None] * np.sin(angle)[None]
        vertices[:, 0, 2] = vertices[:, -1, 2] = edge
        index = head.lattice_index(unwrapped)
        swell = cv2.remap(self.painter.swell(), index[..., 0], index[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        out = vertices - np.array([0, -0.15, -0.6], np.float32)
        out /= np.linalg.norm(out, axis=-1, keepdims=True)
        return vertices + out * swell[..., None], unwrapped

    def _back(self, image: np.ndarray) -> np.ndarray:
        """Back of the skull, underside of the jaw, and ears; flat quads, sorted from far to near."""
        head, p = self.head, self.p
        self.vertices, self.unwrapped = self._mesh()
        rim = np.concatenate([self.vertices[:, 0], self.vertices[::-1, -1][1:]])
        ear_level = 0.42
        rings = [rim]
        for k in range(1, 5):
            t = k / 4
            ring = rim.copy()
            skull = rim[:, 1] < ear_level
            angle = t * HALF_PI * 0.95
            reach = 1.05 * np.sqrt(np.clip(1 - ((rim[:, 1] + 0.35) / 1.15) ** 2, 0.02, 1))
            ring[:, 0] = np.where(skull, rim[:, 0] * np.cos(angle), rim[:, 0] * (1 - 0.28 * t))
            ring[:, 2] = np.where(skull, rim[:, 2] - reach * np.sin(angle), rim[:, 2] - 0.5 * t)
            ring[:, 1] = np.where(skull, rim[:, 1], rim[:, 1] - 0.1 * t * (rim[:, 1] > 0.9))
            rings.append(ring)
        grid = np.stack(rings)
        flat, depth = head.camera.project(grid)
        quads = np.stack([flat[:-1, :-1], flat[:-1, 1:], flat[1:, 1:], flat[1:, :-1]], 2).reshape(-1, 4, 2)
        middle = grid[:-1, :-1].reshape(-1, 3)
        far = ((depth[:-1, :-1] + depth[1:, 1:]) / 2).ravel()
        normal = middle - np.array([0, 0.0, -0.6], np.float32)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        facing = (normal @ head.camera.rotation.T.astype(np.float32)) @ np.array(p.light.direction, np.float32)
        hair = self._covering()
        skin = rgb(p.skin.tone) * (0.97, 0.9, 0.87)
        covered = middle[:, 1] < (0.15 if p.dress.hat != "hood" else 2)
        base = np.where(covered[:, None], skin if hair is None else hair, skin)
        jaw = (middle[:, 1] > ear_level)[:, None]
        colours = base * self.shade(facing) * np.where(jaw, 0.66, 1.0)
        whole = fixed(quads)
        inks = np.clip(colours, 0, 255).tolist()
        for q in np.argsort(far).tolist():
            cv2.fillConvexPoly(image, whole[q], inks[q], cv2.LINE_8, SHIFT)
        if p.dress.hat != "hood" and p.hair.cover < 0.5:
            for side in (-1, 1):
                self._ear(image, side)
        return image

    def _ear(self, image: np.ndarray, side: int) -> None:
        head, p = self.head, self.p
        y = np.array([-0.08, -0.13, -0.1, 0.02, 0.17, 0.3, 0.4, 0.45, 0.4])
        out = np.array([-0.02, 0.06, 0.13, 0.155, 0.13, 0.1, 0.075, 0.03, -0.02])
        w = np.interp(y, head.ys, head.width)
        shape = np.stack([side * (w * 0.985 + 0.72 * out), y, -0.8 - 1.1 * out], 1)
        points = self.place(shape)
        facing = float(np.clip(side * 0.6 * p.light.direction[0] + 0.6 * p.light.direction[2], 0, 1))
        colour = rgb(p.skin.tone) * (1.0, 0.86, 0.84) * self.shade(facing)
        fill(image, points, np.clip(colour, 0, 255).tolist())
        inner = points.mean(0) + (points - points.mean(0)) * 0.62
        fill(image, inner, np.clip(colour * 0.72, 0, 255).tolist())
        strokes(image, [points[1:8]], np.clip(colour * 1.08, 0, 255).tolist(), 0.025 * self.unit)

    def _front(self, image: np.ndarray) -> np.ndarray:
        """The mesh of the face."""
        flat, depth = self.head.camera.project(self.vertices)
        texel = self.painter.to_texel(self.unwrapped)
        texels, covered = seen_texels(flat, depth, texel, self.size)
        texture = to_bytes(self.painter.paint())
        seen = cv2.remap(texture, texels[..., 0], texels[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mask = covered.astype(np.float32)
        # Soften the outline by half a pixel on the inner side only; colours outside the mask do not exist.
        alpha = np.clip(cv2.GaussianBlur(mask, (3, 3), 0.8) * 2 - 1, 0, 1) * mask
        alpha = np.clip(alpha * 0.75 + 0.25 * mask, 0, 1)
        return to_bytes(blend(image, seen, alpha))

    # -- in front of the face -------------------------------------------------------------------------------------

    def _side_hair(self, image: np.ndarray) -> np.ndarray:
        """Locks of long hair that fall beside the face."""
        p, rng = self.p, self.rng
        if p.hair.length < 0 or p.dress.hat == "hood":
            return image
        base = rgb(p.hair.colour)
        head, count, steps = self.head, 28, 9
        start = -0.7 if p.dress.hat == "none" else -0.1
        t = np.linspace(0, 1, steps)
        for side in (-1, 1):
            if side * p.pose.yaw > 14:  # behind the cheek: the hair behind the head shows there
                continue
            light = self.shade(np.clip(0.35 + 0.5 * side * p.light.direction[0], 0, 1))
            # `reach` runs from the lock nearest to the face (0) to the outermost one (1), which is drawn first.
            for reach in np.sort(rng.uniform(0, 1, count))[::-1]:
                y = start + (p.hair.length - start) * t * rng.uniform(0.85, 1.0)
                skull = np.interp(y, head.ys, head.width) * (y < 0.1) + float(np.interp(0.1, head.ys, head.width)) * (y >= 0.1)
                fall = np.sin(np.pi * np.clip((y - start) / 2.6, 0, 1))
                x = skull + p.hair.volume * 0.8 * reach + 0.1 * reach * fall - 0.34 * p.hair.cover * (1 - reach) * fall
                x = x + 0.05 * p.hair.curl * np.sin(9 * y + rng.uniform(0, 6)) + rng.normal(0, 0.015)
                lock = np.stack([side * x, y, np.full(steps, -0.62 + 0.1 * (1 - reach))], 1)
                ink = np.clip(base * light * rng.uniform(0.68, 1.2) * (0.8 + 0.2 * reach), 0, 255)
                strokes(image, [curve(self.place(lock), 2)], ink.tolist(), rng.uniform(0.012, 0.05) * self.unit)
        return image
