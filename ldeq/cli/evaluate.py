"""``ldeq eval``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ..data import LandmarkDataset, open_faces
from ..engine import evaluate, load_pretrained
from ..engine.console import Console
from ..engine.device import resolve_device
from ..engine.report import markdown_table, write_report
from ..engine.settings import SettingsError
from ..models import LDEQ


@dataclass
class Eval:
    """Score a model on labelled faces, with the protocol in front of every figure.

    Example: ldeq eval small-68 --data 300w:~/300w --split helen-test --report report/
    """

    model: tyro.conf.Positional[str]
    """A shipped model or a ``.safetensors`` file: weights or a training checkpoint."""
    data: str
    """Where the faces are: 300w:FOLDER, wflw:FOLDER, hih:FOLDER or synthetic:COUNT."""
    split: str | None = None
    """The split, if --data does not name it after a ``#``; ``test`` by default."""
    subsets: str = "all"
    """``all``, ``none``, or names with commas between them, of the attributes that the data carries."""
    crop: str | None = None
    """Crop rule: hih, landmarks, rect. The one the model was trained with by default."""
    crop_scale: float | None = None
    """Side of the crop over the longer side of the box; the one the model was trained with by default."""
    max_iter: int | None = None
    """Cell evaluations of the solve at most; the model's own by default, as for the next two."""
    tol: float | None = None
    """Tolerance of the stop."""
    stop: Literal["relative", "absolute", "landmarks"] | None = None
    """What --tol measures: the residual, or how far the landmarks still move, in pixels of the crop."""
    report: Path | None = None
    """Folder for report.md, report.json, the error curve, the error of each landmark and the worst faces."""
    batch: int = 16
    """Faces at a time."""
    workers: int = 0
    """Loader processes."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    amp: Literal["off", "bf16"] = "off"
    """Autocast."""

    def run(self) -> int:
        device = resolve_device(self.device)
        pretrained = load_pretrained(self.model, device)
        model = _with_solver(pretrained.model, self.max_iter, self.tol, self.stop)
        dataset = LandmarkDataset(
            open_faces(self.data, self.split or "test"),
            model.config.image_size,
            crop=self.crop or pretrained.crop_rule,  # type: ignore[arg-type]
            crop_scale=self.crop_scale or pretrained.crop_scale,
            on_error="replace",
        )
        console = Console()
        with console.counting(f"{pretrained.name} on {device}", len(dataset)) as count:
            evaluation = evaluate(
                model,
                dataset,
                batch=self.batch,
                workers=self.workers,
                amp=self.amp,
                weights=f"model {pretrained.name}",
                progress=count,
            )
        known = [name for name in evaluation.subsets if name != "full"]
        wanted = {"all": known, "none": []}.get(self.subsets, self.subsets.split(","))
        for name in wanted:
            if name not in known:
                raise SettingsError(f"the data has no subset {name!r}; it has {', '.join(known) or 'none'}")
        print(markdown_table(evaluation, wanted), end="")
        if self.report:
            for path in write_report(evaluation, dataset, self.report, wanted):
                console.say(f"wrote {path}")
        return 0


def _with_solver(model: LDEQ, max_iter: int | None, tol: float | None, stop: str | None) -> LDEQ:
    if stop is not None and tol is None and stop != model.config.stop:
        raise SettingsError(
            f"--stop {stop} needs --tol: the model's own, {model.config.tol:g}, is for --stop {model.config.stop}"
        )
    try:
        return model.with_solver(max_iter=max_iter, tol=tol, stop=stop)
    except ValueError as error:
        raise SettingsError(str(error)) from error
