"""Paints the face: albedo of skin, eyes, lips, nose, brows, beard and hair in the unwrapped (s, y) plane, then lights it.

Features are drawn as anti-aliased outlines through the very landmarks of `Head.unwrapped`, so label and pixel agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ldeq.data.synthetic.geometry import LATTICE_STEP, Head, curve, outline, smoothstep

SHIFT = 4  # fractional bits of cv2's fixed-point coordinates
ONE = 1 << SHIFT
DETAIL = 3  # eyes and mouth are painted this many times finer than the rest
SOFT = 128.0


def fixed(points: np.ndarray) -> np.ndarray:
    """Pixels (N, 2) to cv2's fixed-point integers."""
    return np.rint(points * ONE).astype(np.int32)


def fill(image: np.ndarray, points: np.ndarray, colour: Sequence[float] | float) -> None:
    """Anti-aliased polygon."""
    cv2.fillPoly(image, [fixed(points)], colour, cv2.LINE_AA, SHIFT)


def strokes(image: np.ndarray, lines: Sequence[np.ndarray], colour: Sequence[float] | float, thickness: float = 1) -> None:
    """Anti-aliased open polylines; `thickness` in pixels, at least one."""
    cv2.polylines(image, [fixed(p) for p in lines], False, colour, max(1, round(thickness)), cv2.LINE_AA, SHIFT)


def blend(image: np.ndarray, colour: np.ndarray | Sequence[float], alpha: np.ndarray) -> np.ndarray:
    """Lay `colour` (a triple or an image) over float or uint8 `image` with `alpha` (H, W) in 0-1; float32 out."""
    a = alpha[..., None].astype(np.float32)
    return np.asarray(image + a * (np.asarray(colour, np.float32) - image), np.float32)


def noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[float, float]) -> np.ndarray:
    """Smooth noise in about -1..1, (rows, columns) float32, with about `cells` bumps down and across."""
    small = (max(2, int(min(cells[0], shape[0]))), max(2, int(min(cells[1], shape[1]))))
    raw = rng.integers(0, 256, small, np.uint8).astype(np.float32) / 127.5 - 1
    return np.asarray(cv2.resize(raw, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC))


class FacePainter:
    """Texture of the front of one head.

    Args:
        head: geometry.
        rng: source of the strokes, pores and locks.
        density: texels per face unit.

    `paint()` returns the lit texture, (H, W, 3) float32 in 0-255, with (s, y) at `to_texel`.
    """

    def __init__(self, head: Head, rng: np.random.Generator, density: float) -> None:
        self.head, self.rng, self.density = head, rng, density
        self.p = head.parameters
        rows, columns = head.xyz.shape[:2]
        # Texel i of an enlarged lattice has its centre where cv2.resize puts it.
        self.factor = density * LATTICE_STEP
        self.shape = (round(rows * self.factor), round(columns * self.factor))
        self.scale = np.array([self.shape[1] / columns, self.shape[0] / rows], np.float32)
        self.marks = self.to_texel(head.unwrapped)

    def to_texel(self, unwrapped: np.ndarray) -> np.ndarray:
        """(..., 2) points (s, y) to texture pixels."""
        return np.asarray((self.head.lattice_index(unwrapped) + 0.5) * self.scale - 0.5)

    def _flat(self, points: np.ndarray) -> np.ndarray:
        """Frontal points (x, y) to texture pixels."""
        return self.to_texel(self.head.unwrap(np.asarray(points, np.float32)))

    def _up(self, field: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.resize(field, self.shape[::-1], interpolation=cv2.INTER_LINEAR))

    def paint(self) -> np.ndarray:
        """Lit texture, (H, W, 3) float32, 0-255."""
        skin = self._base()
        image = np.clip(skin, 0, 255).astype(np.uint8)
        image = self._spots(image)
        image = self._folds(image)
        image = self._brows(image)
        image = self._beard(image)
        image = self._nostrils(image)
        image = self._mouth(image)
        for first, pupil, side in ((60, 96, -1), (68, 97, 1)):
            image = self._eye(image, first, pupil, side)
        lit, matte = self._locks(image.astype(np.float32))
        lit = self._mask(lit)
        return self._light(lit, matte)

    # -- skin -----------------------------------------------------------------------------------------------------

    def _base(self) -> np.ndarray:
        """Skin without features: tone, blood, shadows round the eyes, blotches, pores."""
        s, y, rng, skin = self.head.ss, self.head.ys, self.rng, self.p.skin
        f = self.head.unwrapped
        shape = (len(y), len(s))

        def spot(x: float, at: float, wide: float, tall: float) -> np.ndarray:
            across = np.exp(-0.5 * ((s - x) / wide) ** 2)
            if x != 0:
                across = across + np.exp(-0.5 * ((s + x) / wide) ** 2)
            return np.outer(np.exp(-0.5 * ((y - at) / tall) ** 2), across).astype(np.float32)

        eye_x = float(f[70, 0] - f[62, 0]) / 2
        red = 0.8 * spot(0.46, 0.38, 0.15, 0.14) + 0.9 * spot(0, f[54, 1], 0.1, 0.07) + 0.5 * spot(0, self.head.chin - 0.2, 0.15, 0.1)
        red += 0.5 * spot(0.17, f[55, 1], 0.05, 0.05) + 0.35 * spot(eye_x, 0.05, 0.13, 0.05)
        red += 0.35 * skin.mottle * noise(rng, shape, (9, 9))
        dark = 0.16 * spot(eye_x - 0.05, 0.0, 0.13, 0.075) + 0.12 * spot(eye_x - 0.06, 0.1, 0.1, 0.03) * (0.3 + skin.age)
        dark += 0.16 * spot(0.155, 0.02, 0.035, 0.04) - 0.05 * spot(0, -0.5, 0.4, 0.2)
        dark += 0.05 * skin.mottle * noise(rng, shape, (14, 14)) + 0.03 * noise(rng, shape, (5, 5))
        tone = np.array(skin.tone, np.float32)
        # Blood takes green and blue away; on dark skin it shows less (see `Skin.red`).
        blood = np.array([0.02, -0.17, -0.14], np.float32) * skin.red
        shadow = np.array([-0.85, -1.0, -0.95], np.float32)
        base = tone * (1 + red[..., None] * blood + dark[..., None] * shadow)
        if skin.makeup > 0.3:
            lid = spot(eye_x, -0.075, 0.13, 0.04) * (skin.makeup - 0.3)
            base = blend(base, skin.shadow_colour, np.clip(lid, 0, 1))
            base = blend(base, tone * np.array([1.02, 0.72, 0.75]), np.clip(0.5 * (skin.makeup - 0.3) * spot(0.5, 0.3, 0.14, 0.1), 0, 1))
        base = self._up(base.astype(np.float32))
        pores = noise(rng, self.shape, (self.shape[0] / 2.2, self.shape[1] / 2.2))
        base *= (1 + (0.015 + 0.03 * skin.age) * pores)[..., None]
        return base

    def _spots(self, image: np.ndarray) -> np.ndarray:
        rng, skin = self.rng, self.p.skin
        count = int(rng.integers(0, 4)) + int(110 * skin.freckles)
        centres = self._flat(np.stack([rng.normal(0, 0.36, count), rng.uniform(-0.6, 1.1, count)], 1))
        tone = np.array(skin.tone)
        for at in fixed(centres):
            colour = tone * rng.uniform(0.55, 0.85) * (1.0, 0.9, 0.82)
            cv2.circle(image, at.tolist(), int(rng.uniform(0.006, 0.012) * self.density * ONE), colour.tolist(), -1, cv2.LINE_AA, SHIFT)
        return image

    def _folds(self, image: np.ndarray) -> np.ndarray:
        """Creases as soft dark lines: lids, sides of the mouth and nose, forehead, under the eyes."""
        p, f, rng = self.p, self.head.flat, self.rng
        ink = np.zeros(self.shape, np.uint8)
        age, smile = p.skin.age, max(p.expression.smile, 0)
        thin = self.density * 0.012
        for side, wing, corner in ((-1, 55, 76), (1, 59, 82)):
            start, end = f[wing] + (side * 0.02, -0.05), f[corner] + (side * 0.075, 0.02)
            middle = (start + end) / 2 + (side * (0.03 + 0.035 * smile), -0.01)
            fold = curve(self._flat(np.stack([start, middle, end])))
            strokes(ink, [fold], 30 + 70 * age + 75 * smile, thin * 1.7)
            wing_line = f[wing] + np.array([[-0.012, -0.1], [0.025, -0.055], [0.012, -0.005], [-0.03, 0.008]]) * (side, 1)
            strokes(ink, [curve(self._flat(wing_line))], 110, thin)
            # The pit beside the corner of the mouth.
            pit = f[corner] + np.array([[-0.012, -0.012], [0.018, 0.0], [0.012, 0.03]]) * (side, 1)
            strokes(ink, [curve(self._flat(pit))], 70 + 50 * smile, thin * 1.4)
        for first, side in ((60, -1), (68, 1)):
            top = f[first : first + 5]
            rise = 0.022 + 0.012 * rng.random()
            crease = top + np.array([[0, -0.25], [0, -0.9], [0, -1], [0, -0.9], [0, -0.2]]) * rise / 0.75
            strokes(ink, [curve(self._flat(crease))], rng.uniform(70, 160), thin * 0.8)
            low = f[[first, first + 7, first + 6, first + 5, (first + 4)]] + (0, 0.055)
            strokes(ink, [curve(self._flat(low))], 20 + 80 * age + 40 * smile, thin * 1.3)
            if age > 0.5:
                outer = f[first] if side < 0 else f[first + 4]
                feet = [np.stack([outer + (side * 0.03, dy * 0.3), outer + (side * 0.11, dy)]) for dy in (-0.05, 0.0, 0.045)]
                strokes(ink, [self._flat(q) for q in feet], 90 * age + 60 * smile, thin * 0.7)
        raised = max(p.expression.raise_left, p.expression.raise_right, 0)
        for k in range(3):
            x = np.linspace(-0.42, 0.42, 7)
            line = np.stack([x, -0.42 - 0.1 * k + 0.02 * np.cos(x * 5) + rng.normal(0, 0.006, 7)], 1)
            strokes(ink, [curve(self._flat(line))], 110 * max(age - 0.35, 0) + 90 * raised, thin)
        for x0 in (-0.045, 0.045):
            frown = np.array([[x0, -0.22], [x0 * 0.8, -0.15], [x0 * 1.1, -0.1]])
            strokes(ink, [self._flat(frown)], 120 * min(p.expression.squeeze, 1) + 40 * age, thin)
        strokes(ink, [curve(self._flat(f[85] + np.array([[-0.12, 0.07], [0, 0.055], [0.12, 0.07]])))], 70, thin * 2)
        ink = cv2.GaussianBlur(ink, (0, 0), max(0.6, 0.011 * self.density))
        weight = ink.astype(np.float32)[..., None] * (np.array([0.5, 0.62, 0.66], np.float32) / 255)
        return np.asarray(image * (1 - weight)).astype(np.uint8)

    def _nostrils(self, image: np.ndarray) -> np.ndarray:
        f, d = self.head.flat, self.p.identity
        tone = np.array(self.p.skin.tone)
        shade = np.zeros(self.shape, np.uint8)
        holes = np.zeros(self.shape, np.uint8)
        under = np.concatenate([f[[55]] + (0.01, -0.02), f[55:60], f[[59]] + (-0.01, -0.02), (f[57] + (0, -0.035))[None]])
        fill(shade, self._flat(under), 95)
        for side, a, b in ((-1, 55, 56), (1, 59, 58)):
            centre = f[a] * 0.42 + f[b] * 0.58 + (0, -0.016)
            t = np.linspace(0, 2 * np.pi, 12, endpoint=False)
            ellipse = np.stack([0.043 * d.nose_width * np.cos(t), 0.0165 * np.sin(t)], 1)
            ellipse[:, 1] += ellipse[:, 0] * 0.3 * side - 0.006 * np.cos(t * 2)
            fill(holes, self._flat(centre + ellipse), 255)
        soft = cv2.GaussianBlur(shade, (0, 0), max(0.6, 0.016 * self.density)).astype(np.float32) / 255
        hard = cv2.GaussianBlur(holes, (0, 0), max(0.45, 0.006 * self.density)).astype(np.float32) / 255
        out = blend(image, tone * (0.45, 0.33, 0.3), soft * 0.8)
        return np.clip(blend(out, tone * (0.2, 0.11, 0.1), hard * 0.92), 0, 255).astype(np.uint8)

    # -- hair of the face ----------------------------------------------------------------------------------------

    def _brows(self, image: np.ndarray) -> np.ndarray:
        p, rng = self.p, self.rng
        mask = np.zeros(self.shape, np.uint8)
        lines: list[np.ndarray] = []
        for upper, lower in (((33, 34, 35, 36, 37), (33, 41, 40, 39, 38)), ((46, 45, 44, 43, 42), (46, 47, 48, 49, 50))):
            top, bottom = curve(self.marks[list(upper)], 4), curve(self.marks[list(lower)], 4)
            fill(mask, np.concatenate([top, bottom[::-1]]), 255)
            # Hairs grow from the lower edge up and outwards, flatter towards the temple.
            count = 34
            at = rng.uniform(0, 1, count)
            slot = at * (len(top) - 1)
            index = slot.astype(int)
            outward = np.clip(index - 1 - (1.5 * (1 - at)).astype(int), 0, len(top) - 1)
            high = rng.uniform(0.35, 1.0, count)[:, None]
            low = rng.uniform(0.0, 0.5, count)[:, None]
            begin = bottom[index] * (1 - low) + top[index] * low
            finish = bottom[outward] * (1 - high) + top[outward] * high
            lines += list(np.stack([begin, finish], 1))
        mask = cv2.GaussianBlur(mask, (0, 0), max(0.7, 0.014 * self.density))
        density = p.skin.brow_density
        grain = 0.75 + 0.25 * noise(rng, self.shape, (self.shape[0] / 3, self.shape[1] / 3))
        out = blend(image, p.skin.brow, mask.astype(np.float32) / 255 * grain * density * 0.85)
        image = np.clip(out, 0, 255).astype(np.uint8)
        strokes(image, lines, tuple(c * 0.8 for c in p.skin.brow), self.density * 0.006)
        return image

    def _beard(self, image: np.ndarray) -> np.ndarray:
        skin, f, rng = self.p.skin, self.head.flat, self.rng
        if skin.beard == "none":
            return image
        mask = np.zeros(self.shape, np.uint8)
        chin = self.head.chin
        lip_gap = f[85] + (0, 0.02)
        if skin.beard in ("stubble", "full"):
            high = rng.uniform(0.3, 0.55)
            cheek = np.stack([f[3] * 0.98, f[4] * 0.9 + (0, 0.05), (f[5] * 0.62 + (0.0, high * 0.3)), f[76] + (-0.1, -0.06)])
            line = np.concatenate([cheek, f[[55]] + (0, 0.05), f[[57]] + (0, 0.03), f[[59]] + (0, 0.05), cheek[::-1] * (-1, 1)])
            low = np.array([[1.0, chin + 0.3], [-1.0, chin + 0.3]])
            low = np.concatenate([f[28:16:-1], f[16:4:-1]]) * (1.2, 1.2)
            fill(mask, self._flat(np.concatenate([line, low])), 255)
        if skin.beard == "goatee":
            oval = np.array([[-0.2, 0.0], [-0.22, 0.2], [-0.12, 0.5], [0.12, 0.5], [0.22, 0.2], [0.2, 0.0]])
            fill(mask, self._flat(oval + lip_gap), 255)
        if skin.beard in ("goatee", "moustache", "full"):
            top = f[57] + (0, 0.04)
            shape = np.concatenate([f[[76]] + (-0.05, 0.03), f[[77]] + (-0.03, -0.03), top[None], f[[81]] + (0.03, -0.03), f[[82]] + (0.05, 0.03), f[81:76:-1] + (0, 0.012)])
            fill(mask, self._flat(shape), 255)
        soft = cv2.GaussianBlur(mask, (0, 0), max(0.8, (0.05 if skin.beard == "stubble" else 0.03) * self.density))
        amount = rng.uniform(0.15, 0.4) if skin.beard == "stubble" else rng.uniform(0.7, 0.95)
        fine = noise(rng, self.shape, (self.shape[0] / 2.0, self.shape[1] / 1.6))
        coarse = noise(rng, self.shape, (self.shape[0] / 9, self.shape[1] / 5))
        alpha = soft.astype(np.float32) / 255 * np.clip(amount * (0.9 + 0.35 * fine + 0.2 * coarse), 0, 1)
        hair = np.array(skin.beard_colour, np.float32) * (1 + 0.35 * fine + 0.15 * coarse)[..., None]
        return np.clip(blend(image, hair, alpha), 0, 255).astype(np.uint8)

    # -- eyes and mouth -------------------------------------------------------------------------------------------

    def _window(self, points: np.ndarray, margin: float) -> tuple[slice, slice, np.ndarray]:
        low = np.maximum(np.floor(points.min(0) - margin * self.density), 0).astype(int)
        high = np.minimum(np.ceil(points.max(0) + margin * self.density), [self.shape[1] - 1, self.shape[0] - 1]).astype(int) + 1
        return slice(low[1], high[1]), slice(low[0], high[0]), low

    def _eye(self, image: np.ndarray, first: int, pupil: int, side: int) -> np.ndarray:
        p, rng, density = self.p, self.rng, self.density * DETAIL
        marks = self.marks[first : first + 8]
        rows, columns, low = self._window(marks, 0.09)
        patch = cv2.resize(image[rows, columns], None, fx=DETAIL, fy=DETAIL, interpolation=cv2.INTER_LINEAR)
        eye = (marks - low + 0.5) * DETAIL - 0.5
        centre = (self.marks[pupil] - low + 0.5) * DETAIL - 0.5
        rim = outline(eye, 4)
        upper, lower = curve(eye[:5], 6), curve(np.concatenate([eye[4:], eye[:1]]), 6)
        hole = np.zeros(patch.shape[:2], np.uint8)
        fill(hole, rim, 255)

        ball = np.empty_like(patch)
        white = rng.uniform(0.86, 1.0) * np.array([232, 226, 222]) - 22 * p.skin.darkness * np.array([0.5, 1.0, 1.6])
        ball[:] = np.clip(white, 0, 255)
        tone = np.array(p.skin.tone)
        for corner, inner in ((eye[0], side > 0), (eye[4], side < 0)):
            pink = 0.55 * np.array([205, 130, 125]) + 0.45 * tone
            radius = (0.034 if inner else 0.02) * density
            cv2.circle(ball, fixed(corner).tolist(), int(radius * ONE), pink.tolist(), -1, cv2.LINE_AA, SHIFT)
        ball = cv2.GaussianBlur(ball, (0, 0), 0.02 * density)
        radius = 0.0665 * self.p.identity.eye_size ** 0.5 * density
        iris = np.array(p.skin.iris)
        at = fixed(centre).tolist()
        for share, colour in ((1.0, iris * 0.35), (0.88, iris * 0.8), (0.7, iris * 1.15), (0.56, iris * 0.95)):
            cv2.circle(ball, at, int(radius * share * ONE), np.clip(colour, 0, 255).tolist(), -1, cv2.LINE_AA, SHIFT)
        cv2.circle(ball, at, int(radius * rng.uniform(0.36, 0.5) * ONE), (10, 8, 8), -1, cv2.LINE_AA, SHIFT)
        # The upper lid and its lashes shade the ball.
        shade = np.zeros(patch.shape[:2], np.uint8)
        strokes(shade, [upper], 190, 0.05 * density)
        strokes(shade, [lower], 70, 0.014 * density)
        shade = cv2.GaussianBlur(shade, (0, 0), 0.016 * density)
        shaded = ball * (1 - shade[..., None] * np.float32(0.62 / 255))
        ball = shaded.astype(np.uint8)
        x, y, _ = p.light.direction
        spark = centre + np.array([x, y]) * radius * 0.55
        glint = int(rng.uniform(170, 255) * min(1.0, 0.35 + p.light.key * 0.6))
        cv2.circle(ball, fixed(spark).tolist(), int(radius * rng.uniform(0.14, 0.24) * ONE), (glint, glint, glint), -1, cv2.LINE_AA, SHIFT)

        patch = blend(patch, ball, hole.astype(np.float32) / 255)
        lash = np.zeros(patch.shape[:2], np.uint8)
        strokes(lash, [upper], 255, (0.011 + 0.013 * p.skin.lashes) * density)
        strokes(lash, [lower], 60 + 90 * p.skin.lashes * p.skin.makeup, 0.009 * density)
        if p.skin.lashes > 0.4:
            root = upper[2:-2:2]
            out = np.sign(root[:, :1] - eye[[0, 4]].mean(0)[0]) * 0.02 + side * 0.012
            tips = root + np.concatenate([out, np.full((len(root), 1), -0.03)], 1) * density * (0.5 + p.skin.lashes)
            strokes(lash, list(np.stack([root, tips], 1)), 150, 0.006 * density)
        lash = cv2.GaussianBlur(lash, (0, 0), 0.005 * density)
        dark = tone * 0.16 + np.array([4, 2, 2])
        patch = blend(patch, dark, lash.astype(np.float32) / 255 * 0.88)
        image[rows, columns] = cv2.resize(
            np.clip(patch, 0, 255).astype(np.uint8), (columns.stop - columns.start, rows.stop - rows.start), interpolation=cv2.INTER_AREA
        )
        return image

    def _mouth(self, image: np.ndarray) -> np.ndarray:
        p, rng, density = self.p, self.rng, self.density * 2
        rows, columns, low = self._window(self.marks[76:96], 0.06)
        patch = cv2.resize(image[rows, columns], None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
        marks = (self.marks[76:96] - low + 0.5) * 2 - 0.5
        outer, inner = marks[:12], marks[12:]
        inside = np.concatenate([inner, inner[:1]])
        top, bottom = curve(inside[:5], 5), curve(inside[4:], 5)
        lip_top, lip_bottom = curve(outer[:7], 5), curve(np.concatenate([outer[6:], outer[:1]]), 5)
        lip = np.array(p.skin.lip)
        size = patch.shape[:2]
        upper_mask, lower_mask, hole = (np.zeros(size, np.uint8) for _ in range(3))
        fill(upper_mask, np.concatenate([lip_top, top[::-1]]), 255)
        fill(lower_mask, np.concatenate([lip_bottom, bottom[::-1]]), 255)
        fill(hole, np.concatenate([top[:-1], bottom[:-1]]), 255)
        # Lips end softly unless they are painted.
        edge = (0.009 if p.skin.makeup > 0.4 else 0.016) * density
        upper_mask, lower_mask = (cv2.GaussianBlur(m, (0, 0), edge) for m in (upper_mask, lower_mask))
        grain = 1 + 0.07 * noise(rng, (size[0], size[1]), (3, size[1] / 4))[..., None]
        patch = blend(patch, np.clip(lip * 0.8 * grain, 0, 255), upper_mask.astype(np.float32) / 255 * 0.92)
        patch = blend(patch, np.clip(lip * 1.06 * grain, 0, 255), lower_mask.astype(np.float32) / 255 * 0.92)
        # Light catches the lower lip.
        wet = np.zeros(size, np.uint8)
        middle = (curve(outer[[10, 9, 8]], 5) + curve(inner[[7, 6, 5]], 5)) / 2
        strokes(wet, [middle[2:-2]], 255, 0.018 * density)
        wet = cv2.GaussianBlur(wet, (0, 0), 0.016 * density)
        patch = blend(patch, (255, 240, 235), wet.astype(np.float32) / 255 * (0.1 + 0.22 * p.skin.oil))

        cavity = np.empty(patch.shape, np.uint8)
        cavity[:] = (52, 16, 18)
        gap = float(np.linalg.norm(inner[2] - inner[6])) / density
        if gap > 0.015:
            self._teeth_and_tongue(cavity, top, bottom, gap, density)
            shade = np.zeros(size, np.uint8)
            strokes(shade, [top], 150, 0.03 * density)
            shade = cv2.GaussianBlur(shade, (0, 0), 0.014 * density)
            dim = cavity * (1 - shade[..., None] * np.float32(0.55 / 255))
            cavity = dim.astype(np.uint8)
        patch = blend(patch, cavity, hole.astype(np.float32) / 255)
        seam = np.zeros(size, np.uint8)
        strokes(seam, [top], 210 if gap < 0.04 else 110, 0.012 * density)
        strokes(seam, [bottom], 120 if gap < 0.04 else 60, 0.009 * density)
        seam = cv2.GaussianBlur(seam, (0, 0), 0.007 * density)
        patch = blend(patch, lip * (0.28, 0.18, 0.18), seam.astype(np.float32) / 255 * 0.9)
        image[rows, columns] = cv2.resize(
            np.clip(patch, 0, 255).astype(np.uint8), (columns.stop - columns.start, rows.stop - rows.start), interpolation=cv2.INTER_AREA
        )
        return image

    def _teeth_and_tongue(self, cavity: np.ndarray, top: np.ndarray, bottom: np.ndarray, gap: float, density: float) -> None:
        rng, e = self.rng, self.p.expression
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
        weight = np.maximum(seams.astype(np.float32) / 255 * 0.5, fade[None].astype(np.float32))
        cavity[...] = (cavity * (1 - weight[..., None])).astype(np.uint8)

    # -- hair, hats, masks ----------------------------------------------------------------------------------------

    def hair_line(self) -> np.ndarray:
        """Height of the hair line over the columns of the lattice, face units."""
        hair, s = self.p.hair, self.head.ss
        dress = self.p.dress
        if dress.hat in ("beanie", "cap"):
            return np.asarray(dress.hat_line + 0.1 * (np.abs(s) / S_SIDE) ** 2, np.float32)
        if hair.style == "bald":
            return np.full(s.shape, self.head.crown - 0.1, np.float32)
        across = np.abs(s)
        line = np.full(s.shape, hair.line, np.float32)
        if hair.style == "receding":
            line = line - 0.12 * np.exp(-(((across - 0.4) / 0.2) ** 2))
        if hair.style == "fringe":
            low = -0.36 + 0.25 * (hair.line + 0.82)
            line = low - 0.03 * np.abs(s - hair.parting)
        if hair.style in ("parted", "long"):
            line = line + 0.5 * smoothstep(np.abs(s - hair.parting), 0.05, 1.0)
        # Temples and sideburns; the hair passes before the ear.
        side = smoothstep(across, 0.72, 1.02)
        burn = 0.25 if hair.style in ("short", "receding", "afro") else 0.05
        line = line * (1 - side) + np.maximum(line, burn) * side
        if hair.cover > 0:
            reach = 1.25 - 0.42 * hair.cover
            curtain = smoothstep(across, reach - 0.05, reach + 0.1)
            line = line * (1 - curtain) + 1.3 * curtain
        return np.asarray(line, np.float32)

    def swell(self) -> np.ndarray:
        """How far hair or hat stands off the head, (rows, columns) of the lattice, face units."""
        dress = self.p.dress
        amount = {"beanie": 0.11, "cap": 0.1, "hood": 0.16}.get(dress.hat, self.p.hair.volume)
        if self.p.hair.style == "bald" and dress.hat == "none":
            return np.zeros(self.head.xyz.shape[:2], np.float32)
        inside = self.hair_line()[None] - self.head.ys[:, None]
        return np.asarray(amount * smoothstep(inside, -0.02, 0.3), np.float32)

    def _locks(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hair or hat over the skin; second the alpha of what does not shine like skin."""
        p, rng, head = self.p, self.rng, self.head
        hat = p.dress.hat
        worn = hat in ("beanie", "cap")
        ragged = noise(rng, (1, len(head.ss)), (1, 60 if p.hair.style == "fringe" else 34))[0] * (0.0 if worn else 0.035)
        if p.hair.style == "fringe" and not worn:
            ragged = ragged * 1.6 + 0.05 * noise(rng, (1, len(head.ss)), (1, 12))[0]
        line = self.hair_line() + ragged
        alpha = self._up(smoothstep(line[None] - head.ys[:, None], -0.02, 0.012 if worn else 0.045))
        if p.hair.style == "bald" and not worn and hat != "hood":
            return image, alpha * 0
        if worn or hat == "hood":
            weave = noise(rng, self.shape, (self.shape[0] / 3, self.shape[1] / 3))
            folds = noise(rng, self.shape, (6, 12))
            colour = np.array(p.dress.hat_colour) * (1 + 0.06 * weave + 0.12 * folds)[..., None]
            if hat == "hood":
                s, y = head.ss[None], head.ys[:, None]
                oval = np.sqrt((s / 0.98) ** 2 + ((y - 0.3) / 1.02) ** 2)
                alpha = self._up(smoothstep(oval, 0.96, 1.02))
            elif hat == "cap":
                band = smoothstep(np.abs(head.ys - (p.dress.hat_line - 0.06)), 0.05, 0.03)
                colour *= 1 - 0.12 * self._up(np.repeat(band[:, None], len(head.ss), 1))[..., None]
        else:
            colour = self.hair_texture(self.shape)
        shadow = cv2.GaussianBlur(alpha, (0, 0), 0.045 * self.density)
        image = image * (1 - 0.42 * np.clip(shadow - alpha * 0.3, 0, 1))[..., None]
        return blend(image, np.clip(colour, 0, 255), alpha), alpha

    def hair_texture(self, shape: tuple[int, int]) -> np.ndarray:
        """Streaks or curls of the hair's colour, (H, W, 3) float32."""
        hair, rng = self.p.hair, self.rng
        long = 3 + 30 * hair.curl
        streak = 0.55 * noise(rng, shape, (long, shape[1] / 3.0)) + 0.45 * noise(rng, shape, (long * 0.7, 26))
        base = np.array(hair.colour, np.float32)
        lift = np.array([26, 22, 18], np.float32)
        return np.asarray(base * (1 + 0.34 * streak[..., None]) + lift * np.maximum(streak, 0)[..., None])

    def _mask(self, image: np.ndarray) -> np.ndarray:
        """A medical mask is cloth on the face itself: it moves with the pose."""
        if self.p.dress.occluder != "mask":
            return image
        f = self.head.flat
        top = np.stack([f[4], f[53] + (-0.22, 0.03), f[53], f[53] + (0.22, 0.03), f[28]])
        edge = np.concatenate([curve(top, 4), f[28:3:-1] * (1.05, 1.04)])
        alpha = np.zeros(self.shape, np.uint8)
        fill(alpha, self._flat(edge), 255)
        pleat = 1 + 0.07 * np.sin(np.arange(self.shape[0]) / self.density * 42)[:, None, None]
        colour = np.clip(np.array(self.p.dress.occluder_colour, np.float32) * pleat, 0, 255)
        return blend(image, np.broadcast_to(colour, image.shape), alpha.astype(np.float32) / 255)

    # -- light ----------------------------------------------------------------------------------------------------

    def normals(self) -> np.ndarray:
        """Unit normals of the lattice in camera axes, (rows, columns, 3), z to the viewer."""
        xyz = self.head.xyz
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
        return np.asarray(n @ self.head.camera.rotation.T.astype(np.float32))

    def _light(self, image: np.ndarray, matte: np.ndarray) -> np.ndarray:
        light = self.p.light
        n = self.normals()
        to = np.array(light.direction, np.float32)
        lambert = n @ to
        # Light creeps round skin: the terminator is soft.
        diffuse = np.clip((lambert + 0.18) / 1.18, 0, 1) * (1 - light.cast * self._cast_shadow(to))
        z = self.head.xyz[..., 2]
        hollow = cv2.GaussianBlur(z, (0, 0), 0.11 / LATTICE_STEP) - z
        occlusion = np.clip(1 - 3.6 * np.clip(hollow, 0, 0.2), 0.3, 1)
        sky = (0.78 - 0.22 * n[..., 1]) * occlusion
        shade = (
            light.key * diffuse[..., None] * np.array(light.key_colour, np.float32)
            + light.ambient * sky[..., None] * np.array(light.ambient_colour, np.float32)
        )
        # Albedo is sRGB; a linear factor acts on it through the display curve. Shadows on skin stay warm.
        shade = np.maximum(shade, 0.01) ** np.array([0.44, 0.475, 0.485], np.float32)
        half = to + np.array([0, 0, 1], np.float32)
        half /= np.linalg.norm(half)
        facing = np.clip(n @ half, 0, 1)
        shine = light.specular * (0.10 * facing**10 + (0.05 + 0.26 * self.p.skin.oil) * facing**38) * diffuse * light.key
        packed = self._up(np.concatenate([shade, shine[..., None]], -1).astype(np.float32))
        gloss = packed[..., 3:] * (1 - 0.75 * matte[..., None]) * 200
        return np.asarray(image * packed[..., :3] + gloss)

    def _cast_shadow(self, to: np.ndarray) -> np.ndarray:
        """Shadow of nose, brows and lips on the face: march over the height field towards the light."""
        z = self.head.xyz[..., 2]
        local = self.head.camera.rotation.T.astype(np.float32) @ to
        if local[2] < 0.05:
            local[2] = 0.05
        shadow = np.zeros_like(z)
        for k in range(1, 8):
            reach = 0.045 * k
            move = local[:2] / max(float(np.hypot(*local[:2])), 1e-3) * reach
            climb = local[2] / max(float(np.hypot(*local[:2])), 1e-3) * reach
            shift = np.array([[1, 0, move[0] / LATTICE_STEP], [0, 1, move[1] / LATTICE_STEP]], np.float32)
            other = cv2.warpAffine(z, shift, z.shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)
            shadow = np.maximum(shadow, other - z - climb)
        return np.asarray(cv2.GaussianBlur(np.clip(shadow * 22, 0, 1), (0, 0), 1.3))


S_SIDE = 1.2  # |s| near the ear, where a hat sits lower than on the forehead
