"""Each setting of a run does what it says: a run that ignores one is caught here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldeq.data import Augmentation, LandmarkDataset, crop_box, crop_matrix, normalise, open_faces
from ldeq.engine import Trainer, TrainSettings, checkpoint, evaluate, load_pretrained
from ldeq.engine import evaluate as evaluate_function
from ldeq.engine import train as train_module
from ldeq.engine.console import Console
from ldeq.engine.optimization import make_optimizer
from ldeq.models import LDEQ

Make = Callable[..., TrainSettings]

# Eight faces, two steps an epoch.
FACES = {"train": ["synthetic:8#size=48"], "val": []}


@pytest.fixture
def make(make_settings: Make) -> Make:
    def small(**run: Any) -> TrainSettings:
        return make_settings(**{"epochs": 1, **run, "data": {**FACES, **run.get("data", {})}})

    return small


def trainer_of(settings: TrainSettings) -> Trainer:
    return Trainer(settings, Console(False))


def batch_of(trainer: Trainer, epoch: int = 0, number: int = 0) -> dict[str, Any]:
    return next(iter(trainer.data.batches(epoch, number)))


def weights_of(trainer: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def gradient_norm(trainer: Trainer) -> float:
    grads = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    return float(torch.cat(grads).norm())


def test_gradients_longer_than_clip_are_cut_to_its_length(make: Make) -> None:
    trainer = trainer_of(make(optim={"clip": 0.01}))
    row = trainer.train_step(batch_of(trainer), 1e-3)
    assert row["grad_norm"] > 0.1  # the length before it is cut, which is what is logged
    assert gradient_norm(trainer) == pytest.approx(0.01, rel=1e-3)


def test_clip_0_leaves_gradients_as_they_are(make: Make) -> None:
    trainer = trainer_of(make(optim={"clip": 0.0}))
    row = trainer.train_step(batch_of(trainer), 1e-3)
    assert gradient_norm(trainer) == pytest.approx(row["grad_norm"], rel=1e-4)


def test_bf16_of_the_settings_reaches_the_convolutions_of_a_step(make: Make) -> None:
    for amp, dtype in (("off", torch.float32), ("bf16", torch.bfloat16)):
        trainer, seen = trainer_of(make(amp=amp)), []
        convolution = next(m for m in trainer.model.stem.modules() if isinstance(m, torch.nn.Conv2d))
        convolution.register_forward_hook(lambda m, i, out, seen=seen: seen.append(out.dtype))
        trainer.train_step(batch_of(trainer), 1e-3)
        assert set(seen) == {dtype}


def test_bf16_of_the_settings_reaches_the_validation_of_a_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def noting(*args: Any, **options: Any) -> Any:
        asked.append(options["amp"])
        return evaluate_function(*args, **options)

    monkeypatch.setattr(train_module, "evaluate", noting)
    trainer_of(make(amp="bf16", data={"val": ["synthetic:2#size=48"]})).fit(None)
    assert asked == ["bf16"]


def test_an_evaluation_in_bf16_runs_its_convolutions_in_bf16(make: Make) -> None:
    model = LDEQ(make().model)
    data = LandmarkDataset(open_faces("synthetic:2#size=48"), 32)
    seen: list[torch.dtype] = []
    convolution = next(m for m in model.stem.modules() if isinstance(m, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    full = evaluate(model, data)
    half = evaluate(model, data, amp="bf16")
    assert seen == [torch.float32, torch.bfloat16]
    assert not np.array_equal(full.predicted, half.predicted)
    # bf16 has eight bits of mantissa: the answer is another, and not by much.
    np.testing.assert_allclose(full.predicted, half.predicted, rtol=0, atol=0.05 * 48)


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_the_loss_of_the_settings_is_the_one_that_is_lowered(make: Make, kind: str) -> None:
    trainer = trainer_of(make(optim={"loss": kind}))
    item = batch_of(trainer)
    with torch.no_grad():
        out = trainer.model.train()(normalise(item["image"]))
    difference = out.landmarks - item["landmarks"]
    expected = {"l1": difference.abs().mean(), "l2": difference.norm(dim=-1).mean()}
    row = trainer_of(make(optim={"loss": kind})).train_step(item, 1e-3)
    assert row["loss"] == pytest.approx(float(expected[kind]), rel=1e-4)
    assert expected["l1"] != pytest.approx(float(expected["l2"]), rel=0.1)


def test_the_moving_average_is_what_is_scored_and_what_is_shipped(make: Make, tmp_path: Path) -> None:
    settings = make(epochs=2, optim={"ema": 0.9, "lr": 1e-2}, data={"val": ["synthetic:3#size=48"]})
    trainer = trainer_of(settings)
    result = trainer.fit(None)
    assert trainer.ema is not None and result is not None
    average, trained = trainer.ema.module.state_dict(), trainer.model.state_dict()
    name = next(n for n, t in average.items() if t.ndim == 4)
    assert not torch.equal(average[name], trained[name])
    folder = tmp_path / "run"
    best = load_pretrained(folder / "best.safetensors")
    last = load_pretrained(checkpoint.checkpoints(folder)[-1])
    for shipped in (best.model, last.model):
        assert torch.equal(shipped.state_dict()[name], average[name])
    # The score is that of the file, and not that of the weights as trained.
    again = evaluate(best.model, trainer.data.val_sets[0], batch=4)
    np.testing.assert_allclose(again.predicted, result.predicted, rtol=0, atol=1e-4)
    other = evaluate(trainer.model, trainer.data.val_sets[0], batch=4)
    assert np.abs(other.predicted - result.predicted).max() > 0.01
    assert "moving average" in result.protocol


def test_without_a_moving_average_the_trained_weights_are_shipped(make: Make, tmp_path: Path) -> None:
    trainer = trainer_of(make(optim={"ema": 0.0}, data={"val": ["synthetic:2#size=48"]}))
    result = trainer.fit(None)
    best = load_pretrained(tmp_path / "run" / "best.safetensors").model.state_dict()
    assert all(torch.equal(best[n], t) for n, t in trainer.model.state_dict().items() if n in best and t.ndim == 4)
    assert result is not None and "weights as trained" in result.protocol


def test_each_epoch_sees_every_face_once_in_an_order_of_its_own(make: Make) -> None:
    trainer = trainer_of(make(epochs=3))
    orders = [[i for item in trainer.data.batches(epoch, 0) for i in item["index"].tolist()] for epoch in range(3)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert all(order != list(range(8)) for order in orders)
    again = [i for item in trainer.data.batches(1, 0) for i in item["index"].tolist()]
    assert again == orders[1]
    other = trainer_of(make(seed=1))
    assert [i for item in other.data.batches(0, 0) for i in item["index"].tolist()] != orders[0]


@pytest.mark.parametrize("sequence", [0, 2])
def test_a_face_varies_from_epoch_to_epoch(make: Make, monkeypatch: pytest.MonkeyPatch, sequence: int) -> None:
    data: dict[str, Any] = {"augmentation": "light"}
    if sequence:
        monkeypatch.setattr("ldeq.data.clips.clip.usable", lambda points, layout, size, **_: None)
        data |= {"sequence": sequence, "cache": False, "train": ["synthetic:4#size=96"]}
    trainer = trainer_of(make(data=data))

    def face(epoch: int) -> Tensor:
        for item in trainer.data.batches(epoch, 0):
            if 0 in item["index"].tolist():
                return item["landmarks"][item["index"].tolist().index(0)]
        raise AssertionError("face 0 is not in the epoch")

    first, second = face(0), face(1)
    assert (first - second).abs().max() > 1e-3
    assert torch.equal(face(0), first)


def test_crop_scale_and_rule_of_the_settings_make_the_crops_of_training_and_validation(make: Make) -> None:
    none = {"augmentation": "none", "val": ["synthetic:2#size=48"], "cache": False}
    # A drawn face's rectangle is the extent of its landmarks: of the rules that it serves, "hih" alone makes another crop.
    for rule, scale in (("landmarks", 1.2), ("landmarks", 1.7), ("hih", 1.4)):
        trainer = trainer_of(make(data={**none, "crop": rule, "crop_scale": scale}))
        for dataset in (trainer.data.train_sets[0], trainer.data.val_sets[0]):
            record = dataset.faces.record(1)
            square = crop_box(rule, points=record.points, rect=record.rect, scale=scale)
            np.testing.assert_allclose(dataset[1]["matrix"].numpy(), crop_matrix(square, 32), atol=1e-9)


def test_crop_rule_and_scale_of_a_run_are_kept_in_its_weights(make: Make, tmp_path: Path) -> None:
    data = {"crop": "rect", "crop_scale": 1.5, "val": ["synthetic:2#size=48"]}
    trainer_of(make(data=data)).fit(None)
    for name in ("best.safetensors", "step-00000002.safetensors"):
        found = load_pretrained(tmp_path / "run" / name)
        assert (found.crop_rule, found.crop_scale) == ("rect", 1.5)


def test_the_augmentation_of_the_settings_varies_training_and_leaves_validation_alone(make: Make) -> None:
    data = {"val": ["synthetic:2#size=48"], "augmentation": {"preset": "none", "flip_p": 1.0}}
    trainer = trainer_of(make(data=data))
    assert all(item["flipped"] for item in (trainer.data.train_sets[0][i] for i in range(8)))
    assert not any(item["flipped"] for item in (trainer.data.val_sets[0][i] for i in range(2)))
    assert trainer.data.val_sets[0].augmentation == Augmentation.none()
    strong = trainer_of(make(data={"augmentation": "strong"})).data.train_sets[0].augmentation
    assert strong == Augmentation.strong()


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_weight_decay_pulls_weights_and_no_biases(make: Make, name: str) -> None:
    model = LDEQ(make().model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = make_optimizer(model, make(optim={"name": name, "weight_decay": 0.5, "lr": 0.1}).optim)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for n, p in model.named_parameters():
        if p.ndim > 1:
            if name == "adamw":
                torch.testing.assert_close(p.detach(), before[n] * (1 - 0.1 * 0.5))
            assert not torch.equal(p.detach(), before[n]), n
        else:
            assert torch.equal(p.detach(), before[n]), n


def test_weight_decay_of_the_settings_reaches_a_step(make: Make) -> None:
    ends = []
    for decay in (0.0, 0.9):
        trainer = trainer_of(make(optim={"weight_decay": decay}))
        before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
        trainer.train_step(batch_of(trainer), 0.1)
        ends.append(dict(trainer.model.named_parameters()))
    for name, start in before.items():
        # AdamW takes lr x decay of a weight off it, beside the step that the gradient asks for.
        torch.testing.assert_close(ends[1][name] - ends[0][name], -0.09 * start * (start.ndim > 1), rtol=1e-3, atol=1e-6)


def test_the_learning_rate_of_the_settings_is_the_length_of_a_step(make: Make) -> None:
    moved = []
    for lr in (1e-4, 1e-3):
        trainer = trainer_of(make())
        before = weights_of(trainer)
        row = trainer.train_step(batch_of(trainer), lr)
        assert row["lr"] == lr
        # The first step of Adam is lr for every weight that has a gradient.
        moved.append(float((weights_of(trainer) - before).abs().max()))
    assert moved == pytest.approx([1e-4, 1e-3], rel=0.01)


def test_a_run_follows_its_schedule(make: Make, tmp_path: Path) -> None:
    import json

    trainer_of(make(epochs=3, optim={"schedule": "step", "milestones": [1], "gamma": 0.5, "lr": 0.01})).fit(None)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["lr"] for r in rows] == [0.01, 0.01, 0.005, 0.005, 0.005, 0.005]


def test_the_seed_of_the_settings_draws_the_weights(make: Make) -> None:
    a, b, c = (weights_of(trainer_of(make(seed=s))) for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_validations_and_saves_come_as_often_as_the_settings_say(make: Make, tmp_path: Path) -> None:
    import json

    settings = make(epochs=5, validate_every=2, save_every=3, keep=9, log_every=2, data={"val": ["synthetic:2#size=48"]})
    trainer_of(settings).fit(None)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "val" in r] == [4, 8, 10]
    assert [r["step"] for r in rows if "loss" in r] == [2, 4, 6, 8, 10]
    # Before each validation there is a save as well.
    names = [p.name for p in checkpoint.checkpoints(tmp_path / "run")]
    assert names == [f"step-{step:08d}.safetensors" for step in (4, 6, 8, 10)]
