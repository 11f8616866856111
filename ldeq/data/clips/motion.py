"""How a face moves in a made clip: head and camera below 1 Hz, speech at 3 to 8 Hz, blinks of a fifth of a second."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difficulty:
    """How far things go in a clip; angles in degrees, lengths as fractions of the face's side.

    Attributes:
        roll, yaw, pitch: largest turn to either side.
        shift: largest way of the face from the middle of the frame.
        zoom: largest relative change of size.
        pace: highest frequency of head and camera in Hz.
        shake: deviation of the trembling of the hand that holds the camera (2 to 5 Hz).
        speech: range of the widest opening that a jaw makes.
        blink_pause: range of the seconds between blinks.
        noise: range of the deviation of the sensor's noise in grey levels.
        gain: largest change of the light, in stops.
        shading: largest side light, as the gain across the frame.
        exposure: range of the exposure as a part of the time between frames; motion blurs over it.
        defocus: range of the deviation of the blur of the lens at its worst, in pixels.
        occluders: range of the number of things that pass before the face.
    """

    roll: float
    yaw: float
    pitch: float
    shift: float
    zoom: float
    pace: float
    shake: float
    speech: tuple[float, float]
    blink_pause: tuple[float, float]
    noise: tuple[float, float]
    gain: float
    shading: float
    exposure: tuple[float, float]
    defocus: tuple[float, float]
    occluders: tuple[int, int]


DIFFICULTIES: dict[str, Difficulty] = {
    "easy": Difficulty(
        roll=6, yaw=9, pitch=6, shift=0.07, zoom=0.05, pace=0.6, shake=0.0, speech=(0.05, 0.11), blink_pause=(1.5, 4.0),
        noise=(1.0, 3.0), gain=0.15, shading=0.1, exposure=(0.2, 0.4), defocus=(0.0, 0.0), occluders=(0, 0),
    ),
    "hard": Difficulty(
        roll=15, yaw=17, pitch=11, shift=0.16, zoom=0.14, pace=1.0, shake=0.004, speech=(0.08, 0.17), blink_pause=(0.8, 2.5),
        noise=(4.0, 10.0), gain=0.7, shading=0.35, exposure=(0.5, 1.0), defocus=(0.0, 1.6), occluders=(1, 2),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Motion:
    """Everything that changes in a clip of T frames; each attribute `(T,)` unless said.

    Attributes:
        roll, yaw, pitch: radians.
        shift: `(T, 2)`, fractions of the face's side.
        zoom: factor of the size.
        jaw: 0 for the lips at rest to 1 for the widest opening.
        rounding: -1 for spread lips to 1 for pursed ones.
        closure: 0 for open eyes to 1 for closed ones.
        brows: -1 for lowered to 1 for raised.
        gain: light, in stops.
        shading: `(T, 2)`, gain from the middle to the right and to the lower edge of the frame.
        blur: 0 for the sharpest to 1 for the most blurred moment of the lens.
    """

    roll: Array
    yaw: Array
    pitch: Array
    shift: Array
    zoom: Array
    jaw: Array
    rounding: Array
    closure: Array
    brows: Array
    gain: Array
    shading: Array
    blur: Array

    def part(self, first: int, stop: int) -> Motion:
        """The frames from `first` up to, not including, `stop`."""
        return Motion(**{name: value[first:stop] for name, value in vars(self).items()})


def draw_motion(rng: np.random.Generator, frames: int, fps: float, difficulty: Difficulty) -> Motion:
    """A motion of `frames` frames at `fps` frames a second."""
    time, d = np.arange(frames) / fps, difficulty
    roll, yaw, pitch = (math.radians(a) * drift(rng, time, 0.1, d.pace) for a in (d.roll, d.yaw, d.pitch))
    shift = d.shift * np.stack([drift(rng, time, 0.1, d.pace), 0.7 * drift(rng, time, 0.1, d.pace)], 1)
    shake = d.shake * np.stack([drift(rng, time, 2.0, 5.0), drift(rng, time, 2.0, 5.0)], 1)
    zoom = np.exp(d.zoom * drift(rng, time, 0.05, 0.6 * d.pace))
    jaw, rounding = speak(rng, time)
    return Motion(
        roll=roll,
        yaw=yaw,
        pitch=pitch,
        shift=shift + 2 * shake,
        zoom=zoom,
        jaw=jaw,
        rounding=rounding,
        closure=blink(rng, time, d.blink_pause),
        brows=drift(rng, time, 0.2, 2.0),
        # Less often too bright than too dark: cameras protect the lights.
        gain=d.gain * (drift(rng, time, 0.1, 1.5) - 0.25),
        shading=d.shading * np.stack([drift(rng, time, 0.1, 0.8), drift(rng, time, 0.1, 0.8)], 1),
        blur=np.maximum(0.0, drift(rng, time, 0.2, 1.0)),
    )


def drift(rng: np.random.Generator, time: Array, low: float, high: float) -> Array:
    """Smooth wandering between -1 and 1 with frequencies from `low` to `high` Hz: `(T,)` seconds -> `(T,)`."""
    frequency = np.exp(rng.uniform(math.log(low), math.log(high), 5))
    # Slow motion reaches farther than fast motion, as in people and hands.
    amplitude = rng.uniform(0.5, 1.0, 5) / np.sqrt(frequency)
    phase = rng.uniform(0, 2 * math.pi, 5)
    waves = amplitude @ np.sin(2 * math.pi * frequency[:, None] * time + phase[:, None])
    return np.tanh(1.2 * waves / np.sqrt((amplitude**2).sum()))


def speak(rng: np.random.Generator, time: Array) -> tuple[Array, Array]:
    """Jaw and lips of someone who speaks: phrases of syllables, 3 to 7.5 a second, with pauses between them.

    Syllable rates of speech peak near 5 Hz (Chandrasekaran et al., PLoS Comput. Biol. 2009, on the mouth's area).

    Returns:
        Opening in [0, 1] and rounding in [-1, 1], `(T,)` each.
    """
    jaw, rounding = np.zeros_like(time), np.zeros_like(time)
    start, end = float(rng.uniform(-0.3, 0.4)), float(time[-1]) if len(time) else 0.0
    while start < end:
        for _ in range(int(rng.integers(3, 10))):
            length = 1.0 / float(rng.uniform(3.0, 7.5))
            phase = (time - start) / length
            pulse = np.where((phase > 0) & (phase < 1), np.sin(math.pi * phase) ** 2, 0.0)
            jaw += float(rng.uniform(0.25, 1.0)) * pulse
            rounding += float(rng.uniform(-0.6, 1.0)) * pulse
            # The next syllable starts before the mouth has closed.
            start += float(rng.uniform(0.75, 1.0)) * length
        start += float(rng.uniform(0.15, 0.8))
    return np.minimum(jaw, 1.0), np.clip(rounding, -1.0, 1.0)


def blink(rng: np.random.Generator, time: Array, pause: tuple[float, float]) -> Array:
    """Closure of the eyes in [0, 1], `(T,)`: blinks of 150 to 250 ms, the lids falling faster than they rise."""
    closure = np.zeros_like(time)
    start, end = float(rng.uniform(0.1, pause[1] / 2)), float(time[-1]) if len(time) else 0.0
    while start < end:
        length, depth = float(rng.uniform(0.15, 0.25)), float(rng.uniform(0.85, 1.0))
        phase = (time - start) / length
        falling, rising = smoothstep(phase / 0.38), smoothstep((1 - phase) / 0.5)
        closure = np.maximum(closure, depth * np.minimum(falling, rising))
        start += length + float(rng.uniform(*pause))
    return closure


def smoothstep(x: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """0 below 0, 1 above 1, and between them 3 x^2 - 2 x^3: no slope at either end."""
    x = np.clip(x, 0.0, 1.0)
    return np.asarray(x * x * (3 - 2 * x))
