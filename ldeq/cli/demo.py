"""``ldeq demo``."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from ..data import Augmentation, LandmarkDataset, contact_sheet, normalise, open_faces, write_image
from ..engine import Evaluation, Trainer, TrainSettings, evaluate
from ..engine.console import Console
from ..engine.report import error_curve, worst_faces
from ..engine.settings import DataSettings, OptimSettings, RunSettings
from ..engine.weights import save_weights
from ..files import saved_bytes, user_path, write_atomically
from ..models import LDEQ, LDEQConfig
from ..solvers import anderson, fixed_point
from ..threads import limit_to_quota
from .arguments.demo import DemoArguments
from .demo_folder import check_folder, prepare_folder

# Side of the drawn pictures in pixels: half as much again as the crop, so that turned and shifted crops stay sharp.
PICTURE_SIZE = 128

WEIGHTS = "tiny-98-synthetic.safetensors"

CAPTIONS = {
    "faces.png": "drawn faces with their labels",
    "before_after.png": "the same fresh faces, untrained above, trained below",
    "worst.png": "the largest errors",
    "error_curve.png": "share of faces below an error",
    "convergence.png": "residual of the solve against cell evaluations",
}


class Demo(DemoArguments):
    def run(self) -> int:
        begin = time.perf_counter()
        console = Console()
        out = user_path(self.out)
        settings = self._settings(out / "run")
        check_folder(out, (WEIGHTS, *CAPTIONS))
        limit_to_quota()
        trainer = Trainer(settings, console)
        console.say(
            f"LDEQ tiny: {sum(p.numel() for p in trainer.model.parameters()) / 1e6:.2f} M parameters, "
            f"{trainer.layout.count} landmarks, on {trainer.device}"
        )
        console.say(f"drawing {self.faces} faces to train on and {self.test_faces} to score on")
        fresh = LandmarkDataset(
            open_faces(f"synthetic:{self.test_faces}#seed={self.seed},size={PICTURE_SIZE}", "test"),
            trainer.model.config.image_size,
            cache=True,
        )
        prepare_folder(out, {"faces": self.faces, "test_faces": self.test_faces, "epochs": self.epochs, "seed": self.seed})
        before = evaluate(trainer.model, fresh, weights="untrained")
        console.say(f"before training  NME {before.summary['nme']:.2f} %  ({before.protocol})")
        trainer.fit(None)
        model = trainer.evaluated
        after = evaluate(model, fresh, weights="moving average of the weights")
        console.say(f"after training   NME {after.summary['nme']:.2f} %  ({after.protocol})")
        s = after.summary
        console.say(
            f"                 FR10 {s['fr10']:.2f} %, AUC10 {s['auc10']:.3f}, "
            f"{after.evaluations.mean():.1f} cell evaluations a face"
        )

        save_weights(out / WEIGHTS, model, trainer.layout, trainer.settings)
        pictures = {
            "faces.png": lambda path: write_image(path, _faces(fresh)),
            "before_after.png": lambda path: write_image(path, _before_after(before, after, fresh)),
            "worst.png": lambda path: write_image(path, worst_faces(after, fresh, count=12)),
            "error_curve.png": lambda path: error_curve({"untrained": before, "trained": after}, path),
            "convergence.png": lambda path: _convergence(model, fresh, path),
        }
        for name, draw in pictures.items():
            draw(out / name)
            console.say(f"{out / name}: {CAPTIONS[name]}")
        console.say(f"took {(time.perf_counter() - begin) / 60:.1f} minutes")
        return 0

    def _settings(self, run: Path) -> TrainSettings:
        return TrainSettings(
            model=LDEQConfig.tiny(landmarks=98),
            data=DataSettings(
                train=[f"synthetic:{self.faces}#seed={self.seed},size={PICTURE_SIZE}"],
                augmentation=Augmentation.light(),
                cache=True,
                workers=1,
            ),
            optim=OptimSettings(lr=3e-3, ema=0.99, loss="l2"),
            run=RunSettings(out=str(run), epochs=self.epochs, batch=16, seed=self.seed, save_every=self.epochs),
        )


def _crops(dataset: LandmarkDataset, count: int) -> list[np.ndarray]:
    return [dataset[i]["image"].permute(1, 2, 0).numpy() for i in range(min(count, len(dataset)))]


def _faces(dataset: LandmarkDataset, count: int = 24) -> np.ndarray:
    chosen = range(min(count, len(dataset)))
    pictures = [dataset.faces.read(i) for i in chosen]
    return contact_sheet(pictures, [dataset.faces.record(i).points for i in chosen], dataset.layout)


def _before_after(before: Evaluation, after: Evaluation, dataset: LandmarkDataset, count: int = 6) -> np.ndarray:
    pictures = [dataset.faces.read(i) for i in range(min(count, len(dataset)))]
    n = len(pictures)
    titles = [f"{100 * e.errors[i]:.1f} %" for e in (before, after) for i in range(n)]
    points = [*before.predicted[:n], *after.predicted[:n]]
    return contact_sheet(pictures * 2, points, dataset.layout, columns=n, titles=titles)


@torch.no_grad()
def _convergence(model: LDEQ, dataset: LandmarkDataset, path: Path, steps: int = 16) -> None:
    """Residuals of the trained cell under two solvers; the budget of training is marked."""
    from matplotlib.figure import Figure

    images = torch.stack([dataset[i]["image"] for i in range(min(16, len(dataset)))])
    injection = model.cell.prepare(model.stem.eval()(normalise(images.to(next(model.parameters()).device))))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, solver in (("fixed-point iteration", fixed_point), ("Anderson, m = 6", anderson)):
        solution = solver(
            lambda z: model.cell(z, injection), model.initial_state(len(images)), max_iter=steps, tol=0.0, trace=True
        )
        residual = solution.trace.double().mean(1).cpu() if solution.trace is not None else torch.zeros(0)
        axes.semilogy(np.arange(1, len(residual) + 1), residual.numpy(), marker="o", label=name)
    axes.axvline(model.config.max_iter, color="gray", linestyle=":", label="budget in training")
    axes.set(xlabel="cell evaluations", ylabel="relative residual, mean over faces")
    axes.grid(alpha=0.3)
    axes.legend()
    write_atomically(path, saved_bytes(lambda file: figure.savefig(file, dpi=120, format="png")))
