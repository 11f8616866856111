"""What a synthetic face is made of: who it is, how it is posed, lit, dressed and photographed.

Lengths are in *face units*: 1 is about the distance between the outer eye corners of an average adult face.
"""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Difficulty:
    """How far the generator goes from a calm studio portrait.

    Args:
        pose: factor on the head rotation.
        expression: factor on the strength of expressions.
        light: factor on the contrast of the light, 0 is flat light.
        occlusion: probability of an occluder in front of the face.
        camera: factor on the probability of every camera fault.
    """

    pose: float
    expression: float
    light: float
    occlusion: float
    camera: float


DIFFICULTIES: dict[str, Difficulty] = {
    "easy": Difficulty(pose=0.5, expression=0.6, light=0.6, occlusion=0.0, camera=0.3),
    "normal": Difficulty(pose=1.0, expression=1.0, light=1.0, occlusion=0.12, camera=1.0),
    "hard": Difficulty(pose=1.25, expression=1.3, light=1.3, occlusion=0.4, camera=1.6),
}


@dataclass(frozen=True)
class Pose:
    """Angles in degrees: yaw > 0 turns the nose to the right, pitch > 0 lowers it, roll > 0 is clockwise."""

    yaw: float
    pitch: float
    roll: float
    distance: float  # camera to head, face units
    fill: float  # longest side of the landmark box over the side of the image
    shift: tuple[float, float]  # centre of the landmark box from the centre of the image, over the side


@dataclass(frozen=True)
class Identity:
    """Proportions; factors are about 1, offsets about 0 and in face units."""

    width: float
    jaw: float  # factor on the width at the jaw
    chin: float  # offset of the chin, downwards
    chin_round: float  # > 0 a broad chin
    crown: float  # y of the top of the skull
    eye_size: float
    eye_open: float
    eye_gap: float  # offset of each eye, outwards
    eye_tilt: float  # radians, > 0 raises the outer corners
    brow_y: float
    brow_arch: float
    brow_thick: float
    brow_length: float
    nose_length: float
    nose_width: float
    nose_depth: float
    nose_bridge: float  # factor on the height of the bridge
    mouth_y: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    cheek: float
    socket: float
    flat: float  # exponent of the cross-section: low is a flat face
    depth: float  # factor on the depth of the head


@dataclass(frozen=True)
class Expression:
    """Strengths, 0 is rest and 1 is strong, unless stated."""

    smile: float  # -0.6 sad ... 1.2 laughing
    open: float  # drop of the lower lip, face units
    pucker: float
    skew: float  # sideways pull of the mouth, face units
    raise_left: float  # brows, -1 frown ... 1 raised
    raise_right: float
    squeeze: float  # brows pulled together
    blink_left: float  # 1 is closed
    blink_right: float
    gaze: tuple[float, float]  # shift of the iris, face units


@dataclass(frozen=True)
class Skin:
    """Surface of the face; colours are sRGB 0-255 albedo, the rest strengths 0-1."""

    tone: Colour
    darkness: float  # 0 the lightest, 1 the darkest human tone
    red: float
    mottle: float
    freckles: float
    age: float
    oil: float
    makeup: float
    shadow_colour: Colour  # eye shadow
    lip: Colour
    iris: Colour
    brow: Colour
    brow_density: float
    lashes: float
    beard: str  # none, stubble, full, goatee, moustache
    beard_colour: Colour


@dataclass(frozen=True)
class Hair:
    """Hair on the head; lengths in face units."""

    style: str  # bald, receding, short, fringe, parted, long, afro
    colour: Colour
    line: float  # y of the hair line on the forehead
    volume: float
    parting: float  # x of the parting
    curl: float  # 0 straight streaks, 1 curls
    length: float  # y at which long hair ends
    cover: float  # how far side hair comes over the cheeks, 0-1


@dataclass(frozen=True)
class Light:
    """One key light, a coloured ambient light, and what they do to the skin."""

    direction: tuple[float, float, float]  # towards the light, camera axes: right, down, to the viewer; unit length
    key: float
    ambient: float
    key_colour: Colour  # factors about 1
    ambient_colour: Colour
    cast: float  # darkness of cast shadows, 0-1
    specular: float


@dataclass(frozen=True)
class Dress:
    """What is worn and what hides the face."""

    glasses: str  # none, thin, thick, half, sun
    glasses_colour: Colour
    hat: str  # none, beanie, cap, hood
    hat_colour: Colour
    hat_line: float  # y of its lower edge on the forehead
    clothes: Colour
    occluder: str  # none, hand, bar, patch, mask
    occluder_colour: Colour


@dataclass(frozen=True)
class Camera:
    """Faults of the photograph; lengths over the side of the image."""

    blur: float  # sigma
    motion: float  # length of the streak
    motion_angle: float  # degrees
    noise: float  # standard deviation, grey levels
    jpeg: int  # quality, 0 is none
    gamma: float
    gain: float
    cast: Colour
    saturation: float
    defocus: float  # blur of the background alone


@dataclass(frozen=True)
class FaceParameters:
    """All that is decided before painting starts."""

    pose: Pose
    identity: Identity
    expression: Expression
    skin: Skin
    hair: Hair
    light: Light
    dress: Dress
    camera: Camera

    def attributes(self) -> tuple[int, int, int, int, int, int]:
        """WFLW flags in the order of its files: pose, expression, illumination, make-up, occlusion, blur."""
        p, e, li, c = self.pose, self.expression, self.light, self.camera
        pose = abs(p.yaw) > 33 or abs(p.pitch) > 19 or abs(p.roll) > 30
        expression = e.open > 0.2 or e.smile > 0.8 or e.pucker > 0.7 or max(abs(e.raise_left), abs(e.raise_right)) > 0.85
        total = c.gain * (li.key + li.ambient)
        illumination = li.ambient < 0.3 or total < 0.6 or total > 1.5
        makeup = self.skin.makeup > 0.6
        occlusion = self.dress.occluder != "none" or self.dress.glasses == "sun" or self.hair.cover > 0.6
        blur = c.blur > 0.008 or c.motion > 0.02
        return (int(pose), int(expression), int(illumination), int(makeup), int(occlusion), int(blur))
