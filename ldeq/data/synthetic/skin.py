"""Paints the texture of the face in the unwrapped (s, y) plane: skin, folds, beard, hair, then light on all of it."""

from __future__ import annotations

import cv2
import numpy as np

from ldeq.data.synthetic.canvas import ONE, SHIFT, blend, coverage, fill, fixed, noise, rgb, soften, strokes, to_bytes
from ldeq.data.synthetic.features import brows, eye, mouth, nostrils
from ldeq.data.synthetic.geometry import LATTICE_STEP, Head, curve, smoothstep
from ldeq.data.synthetic.lighting import illuminate

S_SIDE = 1.2  # |s| near the ear, where a hat sits lower than on the forehead


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

    def flat(self, points: np.ndarray) -> np.ndarray:
        """Frontal points (x, y) to texture pixels."""
        return self.to_texel(self.head.unwrap(np.asarray(points, np.float32)))

    def _up(self, field: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.resize(field, self.shape[::-1], interpolation=cv2.INTER_LINEAR))

    def paint(self) -> np.ndarray:
        """Lit texture, (H, W, 3) float32, 0-255."""
        skin = self._base()
        image = to_bytes(skin)
        image = self._spots(image)
        image = self._folds(image)
        image = brows(self, image)
        image = self._beard(image)
        image = nostrils(self, image)
        image = mouth(self, image)
        for first, pupil, side in ((60, 96, -1), (68, 97, 1)):
            image = eye(self, image, first, pupil, side)
        lit, matte = self._locks(image.astype(np.float32))
        lit = self._mask(lit)
        light = self._up(illuminate(self.head, self.p.light, self.p.skin.oil))
        gloss = light[..., 3:] * (1 - 0.75 * matte[..., None]) * 200
        return np.asarray(lit * light[..., :3] + gloss)

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
        red = (
            0.8 * spot(0.46, 0.38, 0.15, 0.14)
            + 0.9 * spot(0, f[54, 1], 0.1, 0.07)
            + 0.5 * spot(0, self.head.chin - 0.2, 0.15, 0.1)
        )
        red += 0.5 * spot(0.17, f[55, 1], 0.05, 0.05) + 0.35 * spot(eye_x, 0.05, 0.13, 0.05)
        red += 0.35 * skin.mottle * noise(rng, shape, (9, 9))
        dark = 0.12 * spot(eye_x - 0.05, 0.0, 0.13, 0.075) + 0.12 * spot(eye_x - 0.06, 0.1, 0.1, 0.03) * (0.3 + skin.age)
        dark += 0.16 * spot(0.155, 0.02, 0.035, 0.04) - 0.05 * spot(0, -0.5, 0.4, 0.2)
        dark += 0.05 * skin.mottle * noise(rng, shape, (14, 14)) + 0.03 * noise(rng, shape, (5, 5))
        tone = rgb(skin.tone)
        # Blood takes green and blue away; on dark skin it shows less (see `Skin.red`).
        blood = np.array([0.02, -0.17, -0.14], np.float32) * skin.red
        shadow = np.array([-0.85, -1.0, -0.95], np.float32)
        base = tone * (1 + red[..., None] * blood + dark[..., None] * shadow)
        if skin.makeup > 0.3:
            lid = spot(eye_x, -0.075, 0.13, 0.04) * (skin.makeup - 0.3)
            base = blend(base, skin.shadow_colour, np.clip(lid, 0, 1))
            base = blend(
                base,
                tone * np.array([1.02, 0.72, 0.75]),
                np.clip(0.5 * (skin.makeup - 0.3) * spot(0.5, 0.3, 0.14, 0.1), 0, 1),
            )
        base = self._up(base.astype(np.float32))
        pores = noise(rng, self.shape, (self.shape[0] / 2.2, self.shape[1] / 2.2))
        base *= (1 + (0.015 + 0.03 * skin.age) * pores)[..., None]
        return base

    def _spots(self, image: np.ndarray) -> np.ndarray:
        rng, skin = self.rng, self.p.skin
        count = int(rng.integers(0, 4)) + int(110 * skin.freckles)
        centres = self.flat(np.stack([rng.normal(0, 0.36, count), rng.uniform(-0.6, 1.1, count)], 1))
        tone = rgb(skin.tone)
        for at in fixed(centres):
            colour = tone * rng.uniform(0.55, 0.85) * (1.0, 0.9, 0.82)
            cv2.circle(
                image,
                at.tolist(),
                int(rng.uniform(0.003, 0.009) * self.density * ONE),
                colour.tolist(),
                -1,
                cv2.LINE_AA,
                SHIFT,
            )
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
            fold = curve(self.flat(np.stack([start, middle, end])))
            strokes(ink, [fold], 12 + 70 * age + 65 * smile, thin * 1.7)
            wing_line = f[wing] + np.array([[-0.012, -0.1], [0.025, -0.055], [0.012, -0.005], [-0.03, 0.008]]) * (
                side,
                1,
            )
            strokes(ink, [curve(self.flat(wing_line))], 110, thin)
            # The pit beside the corner of the mouth.
            pit = f[corner] + np.array([[-0.012, -0.012], [0.018, 0.0], [0.012, 0.03]]) * (side, 1)
            strokes(ink, [curve(self.flat(pit))], 50 + 40 * smile, thin * 1.4)
        for first, side in ((60, -1), (68, 1)):
            top = f[first : first + 5]
            rise = 0.022 + 0.012 * rng.random()
            crease = top + np.array([[0, -0.25], [0, -0.9], [0, -1], [0, -0.9], [0, -0.2]]) * rise / 0.75
            strokes(ink, [curve(self.flat(crease))], rng.uniform(70, 160), thin * 0.8)
            low = f[[first, first + 7, first + 6, first + 5, (first + 4)]] + (0, 0.055)
            strokes(ink, [curve(self.flat(low))], 20 + 80 * age + 40 * smile, thin * 1.3)
            if age > 0.5:
                outer = f[first] if side < 0 else f[first + 4]
                feet = [np.stack([outer + (side * 0.03, dy * 0.3), outer + (side * 0.11, dy)]) for dy in (-0.05, 0.0, 0.045)]
                strokes(ink, [self.flat(q) for q in feet], 90 * age + 60 * smile, thin * 0.7)
        raised = max(p.expression.raise_left, p.expression.raise_right, 0)
        for k in range(3):
            x = np.linspace(-rng.uniform(0.2, 0.42), rng.uniform(0.2, 0.42), 7)
            line = np.stack([x, -0.42 - 0.1 * k + 0.02 * np.cos(x * 5) + rng.normal(0, 0.01, 7)], 1)
            strokes(ink, [curve(self.flat(line))], 80 * max(age - 0.45, 0) + 70 * raised, thin)
        for x0 in (-0.045, 0.045):
            frown = np.array([[x0, -0.22], [x0 * 0.8, -0.15], [x0 * 1.1, -0.1]])
            strokes(ink, [self.flat(frown)], 120 * min(p.expression.squeeze, 1) + 40 * age, thin)
        strokes(ink, [curve(self.flat(f[85] + np.array([[-0.12, 0.07], [0, 0.055], [0.12, 0.07]])))], 70, thin * 2)
        ink = soften(ink, max(0.6, 0.011 * self.density))
        return blend(image, rgb(p.skin.tone) * rgb((0.42, 0.29, 0.26)), coverage(ink) * 0.85)

    # -- hair of the face ----------------------------------------------------------------------------------------

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
            fill(mask, self.flat(np.concatenate([line, low])), 255)
        if skin.beard == "goatee":
            oval = np.array([[-0.2, 0.0], [-0.22, 0.2], [-0.12, 0.5], [0.12, 0.5], [0.22, 0.2], [0.2, 0.0]])
            fill(mask, self.flat(oval + lip_gap), 255)
        if skin.beard in ("goatee", "moustache", "full"):
            top = f[57] + (0, 0.04)
            shape = np.concatenate(
                [
                    f[[76]] + (-0.05, 0.03),
                    f[[77]] + (-0.03, -0.03),
                    top[None],
                    f[[81]] + (0.03, -0.03),
                    f[[82]] + (0.05, 0.03),
                    f[81:76:-1] + (0, 0.012),
                ]
            )
            fill(mask, self.flat(shape), 255)
        soft = soften(mask, max(0.8, (0.05 if skin.beard == "stubble" else 0.03) * self.density))
        amount = rng.uniform(0.15, 0.4) if skin.beard == "stubble" else rng.uniform(0.7, 0.95)
        fine = noise(rng, self.shape, (self.shape[0] / 2.0, self.shape[1] / 1.6))
        coarse = noise(rng, self.shape, (self.shape[0] / 9, self.shape[1] / 5))
        alpha = coverage(soft) * np.clip(amount * (0.9 + 0.35 * fine + 0.2 * coarse), 0, 1)
        hair = rgb(skin.beard_colour) * (1 + 0.35 * fine + 0.15 * coarse)[..., None]
        return to_bytes(blend(image, hair, alpha))

    def window(self, points: np.ndarray, margin: float) -> tuple[slice, slice, np.ndarray]:
        """Rows and columns of the texture round `points` (N, 2), `margin` in face units, and their first corner."""
        low = np.maximum(np.floor(points.min(0) - margin * self.density), 0).astype(int)
        high = (
            np.minimum(np.ceil(points.max(0) + margin * self.density), [self.shape[1] - 1, self.shape[0] - 1]).astype(int) + 1
        )
        return slice(low[1], high[1]), slice(low[0], high[0]), low

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
        line: np.ndarray = np.full(s.shape, hair.line, np.float32)
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
            colour = rgb(p.dress.hat_colour) * (1 + 0.06 * weave + 0.12 * folds)[..., None]
            if hat == "hood":
                s, y = head.ss[None], head.ys[:, None]
                oval = np.sqrt((s / 0.98) ** 2 + ((y - 0.3) / 1.02) ** 2)
                alpha = self._up(smoothstep(oval, 0.96, 1.02))
            elif hat == "cap":
                band = smoothstep(np.abs(head.ys - (p.dress.hat_line - 0.06)), 0.05, 0.03)
                colour *= 1 - 0.12 * self._up(np.repeat(band[:, None], len(head.ss), 1))[..., None]
        else:
            colour = self.hair_texture(self.shape)
        shadow = soften(alpha, 0.045 * self.density)
        image = image * (1 - 0.42 * np.clip(shadow - alpha * 0.3, 0, 1))[..., None]
        return blend(image, np.clip(colour, 0, 255), alpha), alpha

    def hair_texture(self, shape: tuple[int, int]) -> np.ndarray:
        """Streaks or curls of the hair's colour, (H, W, 3) uint8."""
        hair, rng = self.p.hair, self.rng
        long = 3 + 30 * hair.curl
        streak = 0.55 * noise(rng, shape, (long, shape[1] / 3.0)) + 0.45 * noise(rng, shape, (long * 0.7, 26))
        # The colour depends on the streak alone: look it up.
        level = np.linspace(-1.2, 1.2, 256, dtype=np.float32)[:, None]
        table = rgb(hair.colour) * (1 + 0.34 * level) + rgb((26, 22, 18)) * np.maximum(level, 0)
        index = cv2.convertScaleAbs(np.maximum(streak + 1.2, 0), alpha=255 / 2.4)
        return np.asarray(cv2.LUT(cv2.merge([index] * 3), to_bytes(table[None])))

    def _mask(self, image: np.ndarray) -> np.ndarray:
        """A medical mask is cloth on the face itself: it moves with the pose."""
        if self.p.dress.occluder != "mask":
            return image
        f = self.head.flat
        top = np.stack([f[4], f[53] + (-0.22, 0.03), f[53], f[53] + (0.22, 0.03), f[28]])
        edge = np.concatenate([curve(top, 4), f[28:3:-1] * (1.05, 1.04)])
        alpha = np.zeros(self.shape, np.uint8)
        fill(alpha, self.flat(edge), 255)
        pleat = 1 + 0.07 * np.sin(np.arange(self.shape[0]) / self.density * 42)[:, None, None]
        colour = np.clip(rgb(self.p.dress.occluder_colour) * pleat, 0, 255)
        return blend(image, np.broadcast_to(colour, image.shape), coverage(alpha))
