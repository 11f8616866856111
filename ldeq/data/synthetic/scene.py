"""Puts the painted head into a picture: background, body, hair behind it, ears, glasses, hats, occluders, camera."""

from __future__ import annotations

import cv2
import numpy as np

from ldeq.data.synthetic.geometry import HALF_PI, Head
from ldeq.data.synthetic.parameters import Camera
from ldeq.data.synthetic.skin import ONE, SHIFT, FacePainter, blend, fill, fixed, noise, strokes

ROWS, COLUMNS = 46, 41  # vertices of the drawn mesh
TEXELS_PER_PIXEL = 1.2


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
        self.glow = np.array(light.ambient_colour) * light.ambient * 0.8
        self.ray = np.array(light.key_colour) * light.key

    def render(self) -> np.ndarray:
        """The finished photograph."""
        image = self._background()
        image = self._body(image)
        image = self._hair_behind(image)
        image = self._back(image)
        image = self._front(image)
        image = self._side_hair(image)
        image = self._brim(image)
        image = self._glasses(image)
        image = self._occlude(image)
        return photograph(image, self.p.camera, self.rng)

    def _shade(self, facing: float | np.ndarray) -> np.ndarray:
        """Colour factors of a surface that the key light strikes at cosine `facing`; (..., 3)."""
        facing = np.clip(np.asarray(facing, np.float32), 0, 1)[..., None]
        return np.asarray(np.maximum(self.glow + self.ray * facing, 0.01) ** 0.46)

    # -- behind the face ------------------------------------------------------------------------------------------

    def _background(self) -> np.ndarray:
        rng, n = self.rng, self.size
        kind = int(rng.integers(0, 5))
        first, second = (rng.uniform(10, 245) * (0.45 + 0.55 * rng.random(3)) for _ in range(2))
        slope = rng.normal(0, 1, 2)
        yy, xx = np.linspace(-1, 1, n, dtype=np.float32)[:, None], np.linspace(-1, 1, n, dtype=np.float32)[None]
        t = np.clip(0.5 + 0.4 * (xx * slope[0] + yy * slope[1]), 0, 1)[..., None]
        image = (first * (1 - t) + second * t).astype(np.float32)
        if kind in (1, 2, 3):
            cells = float(rng.choice([4, 8, 20, 50]))
            image += (rng.uniform(10, 60) * noise(rng, (n, n), (cells, cells)))[..., None] * rng.uniform(0.3, 1, 3)
        if kind >= 2:
            flat = np.clip(image, 0, 255).astype(np.uint8)
            for _ in range(int(rng.integers(4, 22))):
                colour = (rng.uniform(0, 255) * (0.4 + 0.6 * rng.random(3))).tolist()
                at, reach = rng.uniform(-0.1, 1.1, 2) * n, rng.uniform(0.03, 0.35, 2) * n
                shape = int(rng.integers(0, 4))
                if shape == 0:
                    angle, arms = rng.uniform(0, np.pi), np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * reach
                    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
                    fill(flat, at + arms @ turn, colour)
                elif shape == 1:
                    cv2.ellipse(flat, fixed(at).tolist(), fixed(reach * 0.6).tolist(), float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA, SHIFT)
                elif shape == 2:
                    strokes(flat, [at + np.cumsum(rng.normal(0, 0.12 * n, (5, 2)), 0)], colour, rng.uniform(1, 0.06 * n))
                else:
                    fill(flat, at + rng.normal(0, 0.5, (5, 2)) * reach, colour)
            image = flat.astype(np.float32)
        defocus = self.p.camera.defocus * n
        if defocus > 0.5:
            image = cv2.GaussianBlur(image, (0, 0), defocus)
        return np.clip(image, 0, 255).astype(np.uint8)

    def _place(self, points: np.ndarray, follow: float = 1.0) -> np.ndarray:
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
        neck = np.array([[-wide, 0.35], [-wide * 0.96, 1.25 + drop], [-wide * 1.05, 1.65 + drop], [-wide * 1.7, 1.95 + drop], [-3, 2.6 + drop],
                         [-3, 9], [3, 9], [3, 2.6 + drop], [wide * 1.7, 1.95 + drop], [wide * 1.05, 1.65 + drop],
                         [wide * 0.96, 1.25 + drop], [wide, 0.35]])  # fmt: skip
        flat = np.concatenate([neck, np.full((len(neck), 1), -0.5)], 1)
        shape = self._place(flat, 0.45)
        mask = np.zeros(image.shape[:2], np.uint8)
        fill(mask, shape, 255)
        # A cylinder in the light, seen along the axis of the neck.
        roll = np.radians(p.pose.roll) * 0.45
        origin = shape[[0, -1]].mean(0)
        n = self.size
        yy, xx = np.arange(n, dtype=np.float32)[:, None] - origin[1], np.arange(n, dtype=np.float32)[None] - origin[0]
        t = np.clip((xx * np.cos(roll) + yy * np.sin(roll)) / (self.unit * wide * 1.15), -1, 1)
        lx, ly, lz = p.light.direction
        shade = self._shade(t * lx + np.sqrt(1 - t * t) * lz + 0.05)
        skin = np.array(p.skin.tone) * (0.97, 0.93, 0.9) * shade
        # The head throws its shadow on the throat.
        low = np.zeros(image.shape[:2], np.uint8)
        jaw = np.concatenate([self.head.points[:33], self.head.points[[32]] + (0, -self.unit), self.head.points[[0]] + (0, -self.unit)])
        fill(low, jaw + np.array([-lx * 0.12, 0.16 + 0.1 * abs(ly)]) * self.unit, 255)
        low = cv2.GaussianBlur(low, (0, 0), 0.09 * self.unit)
        skin = skin * (1 - 0.62 * low.astype(np.float32) / 255)[..., None]
        image = np.clip(blend(image, skin, mask.astype(np.float32) / 255), 0, 255).astype(np.uint8)
        # Clothes: a collar line between round and V, anywhere below the throat.
        collar = rng.uniform(1.55, 1.95) + drop
        depth = rng.uniform(0.0, 0.75) if rng.random() < 0.6 else 0.0
        cloth = np.array([[-3.2, 2.65 + drop], [-wide * 1.75, collar + 0.2], [-wide * 1.02, collar - 0.02], [-wide * 0.5, collar + 0.12 + 0.5 * depth],
                          [0, collar + 0.16 + depth], [wide * 0.5, collar + 0.12 + 0.5 * depth], [wide * 1.02, collar - 0.02], [wide * 1.75, collar + 0.2], [3.2, 2.65 + drop], [3.2, 9], [-3.2, 9]])  # fmt: skip
        cloth = self._place(np.concatenate([cloth, np.full((len(cloth), 1), -0.5)], 1), 0.45)
        mask[:] = 0
        fill(mask, cloth, 255)
        fabric = np.array(p.dress.clothes) * self._shade(0.6)
        folds = 1 + 0.16 * noise(rng, (n, n), (5, 9)) + 0.05 * noise(rng, (n, n), (n / 2, n / 2))
        if rng.random() < 0.25:
            stripes = 0.25 * np.sign(np.sin(np.arange(n) / self.unit * rng.uniform(15, 60)))
            folds = folds + (stripes[None] if rng.random() < 0.5 else stripes[:, None])
        return np.clip(blend(image, fabric * folds[..., None], mask.astype(np.float32) / 255), 0, 255).astype(np.uint8)

    def _covering(self) -> np.ndarray | None:
        """Colour of what covers the back of the head, or None for skin."""
        if self.p.dress.hat != "none":
            return np.array(self.p.dress.hat_colour)
        return None if self.p.hair.style == "bald" else np.array(self.p.hair.colour)

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
            shape = np.concatenate([top, tail, tail[::-1] * (-1, 1)])
        else:
            shape = np.concatenate([top, [[wide * 0.85, 0.35], [0.5, 0.6], [-0.5, 0.6], [-wide * 0.85, 0.35]]])
        points = self._place(np.concatenate([shape, np.full((len(shape), 1), -0.85)], 1))
        mask = np.zeros(image.shape[:2], np.uint8)
        fill(mask, points, 255)
        if p.dress.hat == "none":
            mask = cv2.GaussianBlur(mask, (0, 0), 0.012 * self.unit)
        if p.dress.hat == "hood":
            texture = np.broadcast_to(colour, image.shape).astype(np.float32)
        else:
            texture = self.painter.hair_texture((self.size, self.size))
        texture = texture * self._shade(0.25) * 0.8
        return np.clip(blend(image, np.clip(texture, 0, 255), mask.astype(np.float32) / 255), 0, 255).astype(np.uint8)

    # -- the head -------------------------------------------------------------------------------------------------

    def _mesh(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (ROWS, COLUMNS, 3) of the front, hair included, and their (s, y)."""
        head = self.head
        t = np.linspace(0, 1, ROWS, dtype=np.float32)
        # Rows lie closer where the skull and the chin close.
        y = head.crown + (head.chin - head.crown) * (0.6 * t + 0.4 * (1 - np.cos(np.pi * t)) / 2)
        angle = np.linspace(-HALF_PI, HALF_PI, COLUMNS, dtype=np.float32)
        width, edge, _ = head._sections(y)
        unwrapped = np.stack([width[:, None] * angle[None], np.broadcast_to(y[:, None], (ROWS, COLUMNS))], -1).astype(np.float32)
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
        skin = np.array(p.skin.tone) * (0.97, 0.9, 0.87)
        covered = middle[:, 1] < (0.15 if p.dress.hat != "hood" else 2)
        base = np.where(covered[:, None], skin if hair is None else hair, skin)
        jaw = (middle[:, 1] > ear_level)[:, None]
        colours = base * self._shade(facing) * np.where(jaw, 0.66, 1.0)
        whole = fixed(quads)
        for q in np.argsort(far):
            cv2.fillConvexPoly(image, whole[q], np.clip(colours[q], 0, 255).tolist(), cv2.LINE_8, SHIFT)
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
        points = self._place(shape)
        facing = float(np.clip(side * 0.6 * p.light.direction[0] + 0.6 * p.light.direction[2], 0, 1))
        colour = np.array(p.skin.tone) * (1.0, 0.86, 0.84) * self._shade(facing)
        fill(image, points, np.clip(colour, 0, 255).tolist())
        inner = points.mean(0) + (points - points.mean(0)) * 0.62
        fill(image, inner, np.clip(colour * 0.72, 0, 255).tolist())
        strokes(image, [points[1:8]], np.clip(colour * 1.08, 0, 255).tolist(), 0.025 * self.unit)

    def _front(self, image: np.ndarray) -> np.ndarray:
        """The mesh of the face: every pixel learns which quad it sees, and the quad's affine map gives its texel."""
        flat, depth = self.head.camera.project(self.vertices)
        texel = self.painter.to_texel(self.unwrapped)
        corners = np.stack([flat[:-1, :-1], flat[:-1, 1:], flat[1:, 1:], flat[1:, :-1]], 2).reshape(-1, 4, 2)
        texels = np.stack([texel[:-1, :-1], texel[:-1, 1:], texel[1:, 1:], texel[1:, :-1]], 2).reshape(-1, 4, 2)
        across = (corners[:, 1] - corners[:, 0] + corners[:, 2] - corners[:, 3]) / 2
        down = (corners[:, 3] - corners[:, 0] + corners[:, 2] - corners[:, 1]) / 2
        area = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
        far = ((depth[:-1, :-1] + depth[1:, 1:]) / 2).ravel()
        order = np.argsort(far)
        order = order[area[order] > 1e-4]
        ids = np.full((self.size, self.size), -1, np.int32)
        whole = fixed(corners)
        for q in order.tolist():
            cv2.fillConvexPoly(ids, whole[q], q, cv2.LINE_8, SHIFT)
        # Texel = A (pixel - centre of the quad) + texel of the centre.
        safe = np.maximum(area, 1e-4)
        inverse = np.stack([down[:, 1], -down[:, 0], -across[:, 1], across[:, 0]], 1) / safe[:, None]
        t_across = (texels[:, 1] - texels[:, 0] + texels[:, 2] - texels[:, 3]) / 2
        t_down = (texels[:, 3] - texels[:, 0] + texels[:, 2] - texels[:, 1]) / 2
        a = t_across * inverse[:, 0:1] + t_down * inverse[:, 2:3]  # d texel / dx
        b = t_across * inverse[:, 1:2] + t_down * inverse[:, 3:4]  # d texel / dy
        centre = corners.mean(1)
        c = texels.mean(1) - a * centre[:, 0:1] - b * centre[:, 1:2]
        table = np.concatenate([a, b, c], 1).astype(np.float32)
        ys, xs = np.nonzero(ids >= 0)
        row = table[ids[ys, xs]]
        maps = np.full((self.size, self.size, 2), -10, np.float32)
        maps[ys, xs] = row[:, 0:2] * xs[:, None] + row[:, 2:4] * ys[:, None] + row[:, 4:6]
        texture = np.clip(self.painter.paint(), 0, 255).astype(np.uint8)
        seen = cv2.remap(texture, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mask = (ids >= 0).astype(np.float32)
        # Soften the outline by half a pixel on the inner side only; colours outside the mask do not exist.
        alpha = np.clip(cv2.GaussianBlur(mask, (3, 3), 0.8) * 2 - 1, 0, 1) * mask
        alpha = np.clip(alpha * 0.75 + 0.25 * mask, 0, 1)
        return np.clip(blend(image, seen, alpha), 0, 255).astype(np.uint8)

    # -- in front of the face -------------------------------------------------------------------------------------

    def _side_hair(self, image: np.ndarray) -> np.ndarray:
        """Locks of long hair that fall beside the face."""
        p, rng = self.p, self.rng
        if p.hair.length < 0 or p.dress.hat == "hood":
            return image
        base = np.array(p.hair.colour)
        front = 0.32 * p.hair.cover
        start = -0.25 if p.dress.hat == "none" else 0.0
        for side in (-1, 1):
            count = 26
            reach = rng.uniform(0, 1, count)
            x0 = 0.80 * p.identity.width + p.hair.volume * 0.5 - 0.06 * p.hair.cover
            for k in np.argsort(-reach):
                t = np.linspace(0, 1, 6)
                y = start + (p.hair.length - start) * t * rng.uniform(0.8, 1.0)
                bow = np.sin(np.pi * np.clip(t * 1.25, 0, 1))
                x = side * (x0 + 0.2 * (reach[k] - 0.45) - front * bow * (1 - reach[k]) + 0.03 * p.hair.curl * rng.normal(0, 1, 6))
                lock = np.stack([x, y, np.full(6, -0.45 + 0.1 * (1 - reach[k]))], 1)
                shade = self._shade(np.clip(0.5 + 0.5 * side * p.light.direction[0], 0, 1)) * rng.uniform(0.7, 1.25)
                strokes(image, [self._place(lock)], np.clip(base * shade, 0, 255).tolist(), rng.uniform(0.02, 0.06) * self.unit)
        return image

    def _brim(self, image: np.ndarray) -> np.ndarray:
        p = self.p
        if p.dress.hat != "cap":
            return image
        t = np.linspace(-1, 1, 15)
        line = p.dress.hat_line - 0.05
        wide, _, middle = (float(v[0]) for v in self.head._sections(np.array([line], np.float32)))
        root = np.stack([0.8 * wide * np.sin(t * HALF_PI * 0.85), line + 0.05 * t**2, middle + 0.1 - 0.5 * t**2], 1)
        tip = np.stack([0.86 * wide * np.sin(t * HALF_PI), line + 0.12 + 0.08 * t**2, middle + 0.12 + 0.55 * np.sqrt(np.clip(1 - t**2, 0, 1)) - 0.45 * t**2], 1)
        shape = self._place(np.concatenate([root, tip[::-1]]))
        shadow = np.zeros(image.shape[:2], np.uint8)
        fill(shadow, shape + np.array([-0.1 * p.light.direction[0], 0.2 + 0.1 * max(-p.light.direction[1], 0)]) * self.unit, 255)
        shadow = cv2.GaussianBlur(shadow, (0, 0), 0.05 * self.unit)
        image = (image * (1 - p.light.cast * 0.7 * shadow.astype(np.float32) / 255)[..., None]).astype(np.uint8)
        colour = np.array(p.dress.hat_colour) * self._shade(max(0.0, -p.light.direction[1]) * 0.9 + 0.1)
        fill(image, shape, np.clip(colour, 0, 255).tolist())
        strokes(image, [self._place(tip)], np.clip(colour * 0.7, 0, 255).tolist(), 0.02 * self.unit)
        return image

    def _glasses(self, image: np.ndarray) -> np.ndarray:
        p, head, rng = self.p, self.head, self.rng
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
            rims.append(self._place(np.column_stack([xy, depth])))
            fill(lenses, rims[-1], 255)
        alpha = lenses.astype(np.float32) / 255
        if kind == "sun":
            n = self.size
            glare = np.clip(0.55 + 0.5 * np.linspace(1, -1, n), 0, 1)[:, None, None] * np.array([30, 34, 40])
            image = np.clip(blend(image, np.array(p.dress.glasses_colour) * 0.35 + glare, alpha * rng.uniform(0.78, 0.98)), 0, 255).astype(np.uint8)
        else:
            image = np.clip(blend(image, (225, 230, 235), alpha * rng.uniform(0.0, 0.1)), 0, 255).astype(np.uint8)
            if rng.random() < 0.3:
                streak = np.zeros_like(lenses)
                for rim in rims:
                    centre = rim.mean(0) + rng.normal(0, 0.05, 2) * self.unit
                    strokes(streak, [np.stack([centre + (-0.12 * self.unit, 0.1 * self.unit), centre + (0.12 * self.unit, -0.1 * self.unit)])], 255, 0.05 * self.unit)
                soft = np.minimum(cv2.GaussianBlur(streak, (0, 0), 0.02 * self.unit), lenses).astype(np.float32) / 255
                image = np.clip(blend(image, (250, 252, 255), soft * rng.uniform(0.2, 0.6)), 0, 255).astype(np.uint8)
        colour = np.clip(np.array(p.dress.glasses_colour) * self._shade(0.6), 0, 255).tolist()
        thickness = self.unit * {"thin": 0.014, "half": 0.02, "thick": 0.042}.get(kind, 0.03)
        outlines = [np.concatenate([r[18:], r[:1]]) if kind == "half" else r for r in rims]
        strokes(image, outlines, colour, thickness)
        bridge = np.array([[-eye_x + wide, 0.0, front - 0.01], [0, -0.025, front + 0.03], [eye_x - wide, 0.0, front - 0.01]])
        strokes(image, [self._place(bridge)], colour, thickness)
        for side in (-1, 1):
            x = side * (eye_x + wide)
            hinge = np.array([x, -0.01, front - 0.32 * x * x])
            ear = np.array([side * 0.83 * p.identity.width, -0.06, -0.75])
            # The arm is hidden by the head on the side that is turned away.
            if side * p.pose.yaw < 12:
                strokes(image, [self._place(np.stack([hinge, ear]))], colour, thickness)
        return image

    def _occlude(self, image: np.ndarray) -> np.ndarray:
        p, rng, points = self.p, self.rng, self.head.points
        kind = p.dress.occluder
        if kind not in ("hand", "bar", "patch"):
            return image
        colour = np.array(p.dress.occluder_colour) * self._shade(0.6)
        unit = self.unit
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
                finger = np.stack([base, base + along * 0.35 * unit + bend, base + along * rng.uniform(0.5, 0.75) * unit + bend * 2])
                strokes(mask, [finger], 255, 0.155 * unit)
                edges.append(finger + aside * 0.085 * unit)
            soft = cv2.GaussianBlur(mask, (0, 0), 0.07 * unit).astype(np.float32) / 255
            under = cv2.GaussianBlur(mask, (0, 0), 0.03 * unit).astype(np.float32) / 255
            image = np.clip(image * (1 - 0.4 * under)[..., None], 0, 255).astype(np.uint8)
            tint = colour * (0.55 + 0.5 * soft)[..., None] * (1 + 0.05 * noise(rng, mask.shape, (20, 20)))[..., None]
            image = np.clip(blend(image, np.clip(tint, 0, 255), mask.astype(np.float32) / 255), 0, 255).astype(np.uint8)
            strokes(image, edges[:3], np.clip(colour * 0.62, 0, 255).tolist(), 0.02 * unit)
            return image
        centre = points[int(rng.integers(0, 98))] + rng.normal(0, 0.15, 2) * unit
        if kind == "bar":
            angle = rng.uniform(0, np.pi)
            along, aside = np.array([np.cos(angle), np.sin(angle)]) * 4 * unit, np.array([-np.sin(angle), np.cos(angle)]) * rng.uniform(0.05, 0.22) * unit
            shape = np.stack([centre - along - aside, centre + along - aside, centre + along + aside, centre - along + aside])
        else:
            reach = rng.uniform(0.2, 0.6, 2) * unit
            count = int(rng.integers(4, 9))
            t = np.sort(rng.uniform(0, 2 * np.pi, count))
            shape = centre + np.stack([np.cos(t), np.sin(t)], 1) * reach * 1.2
        mask = np.zeros(image.shape[:2], np.uint8)
        fill(mask, shape, 255)
        cells = float(rng.uniform(2, 40))
        grain = 1 + rng.uniform(0, 0.4) * noise(rng, mask.shape, (cells, cells))
        return np.clip(blend(image, np.clip(colour * grain[..., None], 0, 255), mask.astype(np.float32) / 255), 0, 255).astype(np.uint8)


def photograph(image: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Lens, sensor and file format: (H, W, 3) uint8 in, the same out."""
    n = image.shape[0]
    if camera.blur * n > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), camera.blur * n)
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
        image = np.clip(image + grain, 0, 255).astype(np.uint8)
    if camera.jpeg:
        done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, camera.jpeg])
        if done:
            image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.asarray(image)
