"""Arguments of ``ldeq eval``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from ._optional import OptionalCount, OptionalNumber, OptionalPath, OptionalText


@dataclass
class EvalArguments:
    """Score a model on labelled faces or videos, with the protocol in front of every figure.

    Example: ldeq eval small-68 --data 300w:~/300w --split helen-test --report report/

    Example: ldeq eval small-68 --data wflw-v:~/WFLW_V --split hard --rwr --baseline one-euro
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A shipped model or a ``.safetensors`` file: weights or a training checkpoint."""
    data: str
    """Where the faces are: 300w:FOLDER, wflw:FOLDER, hih:FOLDER or synthetic:COUNT; or the videos, wflw-v:FOLDER."""
    split: OptionalText = None
    """The split, if --data does not name it after a ``#``; ``test`` by default, for videos ``all``."""
    subsets: str = "all"
    """``all``, ``none``, or names with commas between them, of the attributes that the data carries."""
    crop: OptionalText = None
    """Crop rule: hih, landmarks, rect. The one the model was trained with by default."""
    crop_scale: OptionalNumber = None
    """Side of the crop over the longer side of the box; the one the model was trained with by default."""
    max_iter: OptionalCount = None
    """Cell evaluations of the solve at most; the model's own by default, as for the next two."""
    tol: OptionalNumber = None
    """Tolerance of the stop."""
    stop: Literal["relative", "absolute", "landmarks"] | None = None
    """What --tol measures: the residual, or how far the landmarks still move, in pixels of the crop."""
    report: OptionalPath = None
    """Folder for report.md, report.json, the error curve, the error of each landmark and the worst faces."""
    batch: int = 16
    """Faces at a time."""
    workers: int = 0
    """Loader processes."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    engine: str = "auto"
    """What evaluates the network on a CPU: torch, onnxruntime, or auto, the faster one that is installed (ldeq doctor)."""
    amp: Literal["off", "bf16"] = "off"
    """Autocast, for pictures."""
    rwr: bool = False
    """Videos: also start each frame from the last one's state (recurrence without recurrence)."""
    released: bool = False
    """Videos: also RwR as the paper's release runs it: two evaluations a frame, the first included, and no checks. Published
    figures are for --boxes given."""
    iters: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Videos: cell evaluations a frame with --rwr."""
    baseline: OptionalText = None
    """Videos: filters, with commas between them, to put behind each frame alone; for example one-euro,ema. Settings follow the
    name: one-euro,beta=20,ema. Without settings, they are those tuned for the least flicker at no larger error."""
    smooth: OptionalText = None
    """Videos: filters to put behind --rwr and --released, or behind each frame alone without them."""
    boxes: Literal["given", "tracked"] = "tracked"
    """Videos: crop every frame by its own labelled box, or follow the landmarks from the first one."""
    jitter: float = 0.0
    """Videos: noise on the labelled boxes, as a part of their side."""

    def run(self) -> int:
        from ..evaluate import Eval

        return Eval(**vars(self)).run()
