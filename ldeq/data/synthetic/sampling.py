"""Draws the parameters of a synthetic face by chance.

Everything random about the *parameters* is drawn here, before a single pixel is painted, so that the landmarks and the
attributes of a face can be had without rendering it.
"""

from __future__ import annotations

import numpy as np

from ldeq.data.synthetic.parameters import (
    Camera,
    Colour,
    Difficulty,
    Dress,
    Expression,
    FaceParameters,
    Hair,
    Identity,
    Light,
    Pose,
    Skin,
)

# Anchors of skin albedo (sRGB, 0-255) from very light to very dark; tones between them are interpolated.
SKIN_ANCHORS = np.array(
    [[246, 208, 188], [234, 190, 164], [216, 168, 138], [192, 140, 106], [156, 106, 76], [112, 74, 54], [76, 50, 40]],
    np.float32,
)
HAIR_COLOURS: tuple[Colour, ...] = (
    (24, 20, 20), (38, 28, 24), (62, 42, 30), (92, 62, 40), (132, 96, 60), (186, 150, 100), (214, 188, 142),
    (128, 62, 34), (128, 124, 120), (206, 204, 200),
)  # fmt: skip
HAIR_WEIGHTS = np.array([0.26, 0.2, 0.14, 0.1, 0.07, 0.06, 0.04, 0.04, 0.05, 0.04])
IRIS_COLOURS: tuple[Colour, ...] = (
    (42, 26, 18), (62, 38, 24), (92, 60, 36), (98, 104, 70), (86, 112, 132), (118, 136, 146),
)  # fmt: skip
IRIS_WEIGHTS = np.array([0.34, 0.26, 0.14, 0.1, 0.1, 0.06])


def sample_parameters(rng: np.random.Generator, difficulty: Difficulty) -> FaceParameters:
    """Draw one face. The order of the draws is part of the format: a change gives other faces for the same seed."""
    identity = _identity(rng)
    pose = _pose(rng, difficulty)
    expression = _expression(rng, difficulty)
    feminine = rng.random() < 0.5
    skin = _skin(rng, feminine)
    hair = _hair(rng, feminine, skin)
    light = _light(rng, difficulty)
    dress = _dress(rng, difficulty)
    return FaceParameters(pose, identity, expression, skin, hair, light, dress, _camera(rng, difficulty))


def _around(rng: np.random.Generator, mean: float, deviation: float, reach: float = 2.3) -> float:
    """A normal draw cut at `reach` deviations: identities far out of the human range teach nothing."""
    return float(mean + deviation * np.clip(rng.standard_normal(), -reach, reach))


def _colour(rng: np.random.Generator, base: Colour, spread: float) -> Colour:
    r, g, b = np.clip(np.asarray(base) * (1 + spread * rng.standard_normal()) + 60 * spread * rng.standard_normal(3), 4, 252)
    return float(r), float(g), float(b)


def _any_colour(rng: np.random.Generator) -> Colour:
    # Clothes are more often dull or dark than pure, hence the square of the saturation.
    value, grey = rng.uniform(15, 245), rng.random() ** 2
    r, g, b = value * (1 - grey + grey * rng.random(3))
    return float(r), float(g), float(b)


def _pose(rng: np.random.Generator, d: Difficulty) -> Pose:
    wide = rng.random() < 0.4
    yaw = rng.uniform(-50, 50) if wide else _around(rng, 0, 13)
    pitch = _around(rng, 1.0, 9.0)
    roll = _around(rng, 0, 9.0)
    return Pose(
        yaw=float(np.clip(yaw * d.pose, -58, 58)),
        pitch=float(np.clip(pitch * d.pose, -26, 26)),
        roll=float(roll * d.pose),
        distance=float(rng.uniform(6, 16)),
        fill=float(rng.uniform(0.56, 0.74)),
        shift=(float(rng.uniform(-0.05, 0.05)), float(rng.uniform(-0.03, 0.07))),
    )


def _identity(rng: np.random.Generator) -> Identity:
    child = rng.random() ** 3  # most faces are adult; 1 is a small child
    return Identity(
        width=_around(rng, 1.035, 0.05),
        jaw=_around(rng, 1.0 - 0.02 * child, 0.045),
        chin=_around(rng, -0.025 - 0.05 * child, 0.065),
        chin_round=_around(rng, 0.0, 0.3),
        crown=_around(rng, -1.28 - 0.1 * child, 0.05),
        eye_size=_around(rng, 1.0 + 0.06 * child, 0.05),
        eye_open=_around(rng, 1.0 + 0.15 * child, 0.17),
        eye_gap=_around(rng, 0.0, 0.012),
        eye_tilt=_around(rng, 0.01, 0.06),
        brow_y=_around(rng, 0.0, 0.03),
        brow_arch=_around(rng, 0.0, 0.022),
        brow_thick=_around(rng, 1.0, 0.2),
        brow_length=_around(rng, 1.0, 0.05),
        nose_length=_around(rng, 1.0 - 0.1 * child, 0.06),
        nose_width=_around(rng, 1.0, 0.11),
        nose_depth=_around(rng, 1.0 - 0.25 * child, 0.15),
        nose_bridge=_around(rng, 1.0 - 0.5 * child, 0.3),
        mouth_y=_around(rng, -0.03 * child, 0.03),
        mouth_width=_around(rng, 1.0 - 0.06 * child, 0.08),
        upper_lip=_around(rng, 1.0, 0.28),
        lower_lip=_around(rng, 1.0, 0.25),
        cheek=_around(rng, 1.0 + 0.6 * child, 0.4),
        socket=_around(rng, 1.0 - 0.4 * child, 0.3),
        flat=_around(rng, 0.95, 0.08),
        depth=_around(rng, 1.0, 0.06),
    )


def _expression(rng: np.random.Generator, d: Difficulty) -> Expression:
    kind = rng.choice(["rest", "smile", "laugh", "speak", "shout", "sad", "kiss"], p=[0.28, 0.18, 0.26, 0.13, 0.06, 0.05, 0.04])
    smile = _around(rng, 0.0, 0.12)
    drop = max(0.0, _around(rng, 0.0, 0.012))
    pucker = 0.0
    if kind == "smile":
        smile = rng.uniform(0.2, 0.9)
    elif kind == "laugh":
        smile, drop = rng.uniform(0.5, 1.1), rng.uniform(0.04, 0.2)
    elif kind == "speak":
        drop = rng.uniform(0.03, 0.16)
    elif kind == "shout":
        drop, smile = rng.uniform(0.2, 0.46), rng.uniform(-0.3, 0.6)
    elif kind == "sad":
        smile = rng.uniform(-0.6, -0.2)
    elif kind == "kiss":
        pucker = rng.uniform(0.4, 1.0)
    brow = _around(rng, 0.35 if kind == "shout" else 0.0, 0.3)
    both = rng.uniform(0.9, 1.0) if rng.random() < 0.05 else max(0.0, _around(rng, 0.05 + 0.2 * max(smile, 0), 0.12))
    wink = rng.uniform(0.7, 1.0) if rng.random() < 0.02 else 0.0
    side = rng.random() < 0.5
    s = d.expression
    return Expression(
        smile=float(smile * s),
        open=float(drop * s),
        pucker=float(pucker * min(s, 1.2)),
        skew=_around(rng, 0.0, 0.012 * s),
        raise_left=float(np.clip(brow * s + _around(rng, 0, 0.08), -1, 1.2)),
        raise_right=float(np.clip(brow * s + _around(rng, 0, 0.08), -1, 1.2)),
        squeeze=float(max(0.0, _around(rng, 0.0, 0.3)) * s),
        blink_left=float(min(1.0, max(both, wink if side else 0.0))),
        blink_right=float(min(1.0, max(both, 0.0 if side else wink))),
        gaze=(_around(rng, 0.0, 0.024), _around(rng, 0.0, 0.008)),
    )


def _skin(rng: np.random.Generator, feminine: bool) -> Skin:
    darkness = float(rng.beta(1.1, 1.5))
    tone = np.array([np.interp(darkness * (len(SKIN_ANCHORS) - 1), np.arange(len(SKIN_ANCHORS)), c) for c in SKIN_ANCHORS.T])
    tone = np.clip(tone * _around(rng, 1.0, 0.04) + rng.standard_normal(3) * 2.5, 20, 250)
    makeup = float(rng.random()) if feminine and rng.random() < 0.5 else 0.0
    natural = tone * np.array([0.94, 0.64, 0.67]) + np.array([5, -2, 1])
    paint = np.array([rng.uniform(130, 215), rng.uniform(15, 70), rng.uniform(30, 95)])
    lip = natural * (1 - 0.85 * makeup) + paint * 0.85 * makeup if makeup > 0.3 else natural
    lip = lip + rng.standard_normal(3) * 5
    dark_hair = np.array(HAIR_COLOURS[int(rng.integers(0, 4))])
    beards = ["none", "stubble", "full", "goatee", "moustache"]
    beard = "none" if feminine else str(rng.choice(beards, p=[0.42, 0.28, 0.14, 0.09, 0.07]))
    iris_weights = IRIS_WEIGHTS * np.where(np.arange(len(IRIS_WEIGHTS)) > 2, max(0.05, 1.2 - 1.6 * darkness), 1)
    iris = IRIS_COLOURS[int(rng.choice(len(IRIS_COLOURS), p=iris_weights / iris_weights.sum()))]
    return Skin(
        tone=(float(tone[0]), float(tone[1]), float(tone[2])),
        darkness=darkness,
        red=float(rng.uniform(0.1, 1.0) * (1 - 0.6 * darkness)),
        mottle=float(rng.uniform(0.2, 1.0)),
        freckles=float(rng.random()) if rng.random() < 0.15 else 0.0,
        age=float(rng.random() ** 1.6),
        oil=float(rng.random()),
        makeup=makeup,
        shadow_colour=_colour(rng, (110, 70, 80), 0.25),
        lip=(float(np.clip(lip[0], 20, 240)), float(np.clip(lip[1], 8, 200)), float(np.clip(lip[2], 8, 200))),
        iris=_colour(rng, iris, 0.1),
        brow=_colour(rng, tuple(dark_hair * 0.9), 0.08),
        brow_density=float(rng.uniform(0.45, 1.0)),
        lashes=float(np.clip(rng.uniform(0.2, 0.6) + 0.4 * makeup, 0, 1)),
        beard=beard,
        beard_colour=_colour(rng, tuple(dark_hair), 0.1),
    )


def _hair(rng: np.random.Generator, feminine: bool, skin: Skin) -> Hair:
    weights = HAIR_WEIGHTS * np.where(np.arange(len(HAIR_WEIGHTS)) < 3, 1 + 3 * skin.darkness, 1)
    colour = HAIR_COLOURS[int(rng.choice(len(HAIR_COLOURS), p=weights / weights.sum()))]
    if rng.random() < 0.02:
        colour = _any_colour(rng)
    styles = ["bald", "receding", "short", "fringe", "parted", "long", "afro"]
    odds = [0.01, 0.02, 0.1, 0.14, 0.21, 0.46, 0.06] if feminine else [0.1, 0.13, 0.4, 0.14, 0.13, 0.04, 0.06]
    style = str(rng.choice(styles, p=odds))
    line = _around(rng, -0.82, 0.07)
    if style == "receding":
        line -= 0.17
    volume = {"bald": 0.0, "receding": 0.05, "short": 0.11, "afro": 0.32}.get(style, 0.16)
    long = style == "long" or (feminine and style in ("fringe", "parted") and rng.random() < 0.75)
    return Hair(
        style=style,
        colour=_colour(rng, colour, 0.12),
        line=line,
        volume=volume * float(rng.uniform(0.7, 1.35)),
        parting=float(rng.uniform(-0.35, 0.35)),
        curl=float(rng.uniform(0.8, 1.0)) if style == "afro" else float(rng.random() ** 2),
        length=float(rng.uniform(0.9, 3.0)) if long else -1.0,
        cover=float(rng.random() ** 1.3) if long else 0.0,
    )


def _light(rng: np.random.Generator, d: Difficulty) -> Light:
    harsh = float(np.clip(rng.random() ** 1.3 * d.light, 0, 1.1))
    azimuth = rng.normal(0, 0.75)
    height = rng.normal(0.5, 0.35)
    direction = np.array([np.sin(azimuth) * np.cos(height), -np.sin(height), np.cos(azimuth) * np.cos(height)])
    # A light behind the head lights nothing that is seen; turn it to the side.
    direction[2] = max(direction[2], 0.12)
    direction /= np.linalg.norm(direction)
    warm = rng.normal(0, 0.07)
    key = rng.uniform(0.42, 0.7) + 0.38 * harsh
    return Light(
        direction=(float(direction[0]), float(direction[1]), float(direction[2])),
        key=float(key),
        ambient=float(np.clip(rng.uniform(0.5, 0.75) - 0.42 * harsh, 0.12, 1)),
        key_colour=(float(1 + warm), 1.0, float(1 - 1.3 * warm)),
        ambient_colour=(float(rng.normal(0.98, 0.05)), 1.0, float(rng.normal(1.03, 0.06))),
        cast=float(np.clip(0.15 + 0.7 * harsh, 0, 0.85)),
        specular=float(rng.uniform(0.2, 1.0)),
    )


def _dress(rng: np.random.Generator, d: Difficulty) -> Dress:
    glasses = str(rng.choice(["none", "thin", "thick", "half", "sun"], p=[0.78, 0.07, 0.07, 0.04, 0.04]))
    hat = str(rng.choice(["none", "beanie", "cap", "hood"], p=[0.86, 0.05, 0.05, 0.04]))
    occluder = "none"
    if rng.random() < d.occlusion:
        occluder = str(rng.choice(["hand", "bar", "patch", "mask"], p=[0.35, 0.2, 0.35, 0.1]))
    tone = SKIN_ANCHORS[int(rng.integers(0, len(SKIN_ANCHORS)))]
    frame = _any_colour(rng) if rng.random() < 0.35 else _colour(rng, (28, 24, 24), 0.3)
    return Dress(
        glasses=glasses,
        glasses_colour=frame,
        hat=hat,
        hat_colour=_any_colour(rng),
        hat_line=float(rng.uniform(-0.75, -0.42)),
        clothes=_any_colour(rng),
        occluder=occluder,
        occluder_colour=_colour(rng, tuple(tone), 0.05) if occluder == "hand" else _any_colour(rng),
    )


def _camera(rng: np.random.Generator, d: Difficulty) -> Camera:
    chance = min(1.0, d.camera)
    blur = abs(rng.normal(0, 0.0075)) if rng.random() < 0.35 * chance else rng.uniform(0.0, 0.002)
    motion = rng.uniform(0.01, 0.04) if rng.random() < 0.05 * chance else 0.0
    grey = rng.random() < 0.1
    cast = 1 + np.clip(rng.normal(0, 0.035 * chance, 3), -0.09, 0.09)
    return Camera(
        blur=float(blur),
        motion=float(motion),
        motion_angle=float(rng.uniform(0, 180)),
        noise=float(rng.uniform(0, 9) * chance) if rng.random() < 0.5 else 1.0,
        jpeg=int(rng.integers(25, 95)) if rng.random() < 0.5 * chance else 0,
        gamma=float(np.exp(rng.normal(0, 0.18 * chance))),
        gain=float(np.exp(rng.normal(0.02, 0.16 * chance))),
        cast=(float(cast[0]), float(cast[1]), float(cast[2])),
        saturation=0.0 if grey else float(rng.uniform(0.75, 1.3)),
        defocus=float(rng.uniform(0, 0.03)),
    )
