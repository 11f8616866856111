"""Arguments that ``ldeq video`` and ``ldeq webcam`` share."""

from __future__ import annotations

from dataclasses import dataclass

from ._optional import OptionalCount, OptionalNumber


@dataclass
class PipelineArguments:
    """How faces are followed and smoothed."""

    rwr: bool = True
    """Recurrence without recurrence: each frame starts from the last one's state. Off solves each frame alone."""
    released: bool = False
    """RwR as the paper's release runs it: one view, two evaluations a frame, the first included, and no checks."""
    iters: int = 1
    """Cell evaluations a frame and view with RwR."""
    views: int = 4
    """Ways in which each face is looked at, 1, 2 or 4: 4 flicker least, and cost as much as each frame alone."""
    smooth: str = "auto"
    """auto, none, or a causal filter: ema, one-euro, mediapipe (its settings), savgol-causal, face-frame. With settings if
    wanted, for parts of the face, too: one-euro,min_cutoff=5,mouth.beta=60."""
    detector: str = "auto"
    """centerface (the extra detection), haar, yunet:FILE with a YuNet ONNX file, or auto, the best one that is installed (ldeq
    doctor)."""
    detect_every: int = 0
    """Frames between two searches for faces that came in; 0 searches only where there is no face."""
    max_faces: OptionalCount = None
    """The largest so many faces are followed; all of them if absent."""
    min_score: OptionalNumber = None
    """What scores lower in several full solves in a row is no face; if absent, the model's own limit. 0 is no limit."""
    model: str = "small-68"
    """A shipped model or a ``.safetensors`` file."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    engine: str = "auto"
    """What evaluates the network on a CPU: torch, onnxruntime, or auto, the faster one that is installed (ldeq doctor)."""
