"""Typed settings of a training run: dataclasses, read from YAML, overridable by ``key.path=value``.

An unknown key is an error that names the nearest known one; types are checked by pydantic.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from ..data import CROP_RULES, Augmentation
from ..files import cause, user_path
from ..models import LDEQConfig
from ..spelling import did_you_mean, nearest
from .settings_checks import SettingsError, check_ranges, near_setting, shortened
from .yaml_reader import LONGEST, YamlError, parse_yaml

__all__ = ["SettingsError", "TrainSettings", "from_mapping", "read", "to_mapping"]

PRESETS = {"paper": LDEQConfig.paper, "paper_video": LDEQConfig.paper_video, "small": LDEQConfig.small, "tiny": LDEQConfig.tiny}


HEATMAP_LOSSES = ("adaptive_wing", "structured")
"""Losses that compare heatmaps; the others compare landmarks."""

PRESET_GROUPS = ("model", "augmentation")
"""Groups that may be the name of a preset alone."""


@dataclass(frozen=True)
class DataSettings:
    train: list[str] = field(default_factory=list)
    """Sources such as ``300w:~/300w#train``, ``wflw:~/WFLW#train``, ``hih:...``, ``synthetic:2000``; several are joined."""
    val: list[str] = field(default_factory=list)
    """Sources that are scored after each `validate_every` epochs; may be empty."""
    crop: str = "landmarks"
    """Crop rule: ``hih``, ``landmarks``, ``rect`` or ``box``."""
    crop_scale: float = 1.2
    """Side of the crop over the longer side of the box."""
    augmentation: Augmentation = field(default_factory=Augmentation.light)
    """Fields of `Augmentation`; ``preset: none | light | paper | strong`` (``light`` if absent) sets the ones not given."""
    cache: bool = False
    """Keep decoded images in memory: faster where decoding is the limit, costs width x height x 3 bytes each."""
    workers: int = 1
    """Loader processes; 0 loads in the training process."""
    sequence: int = 0
    """Frames of a training sample, from 2 upwards: each photo is set in motion (`ldeq.data.clips.SequenceDataset`), its first
    frame is solved from zeros and every later one takes a single evaluation from the state of the frame before, as RwR does on
    a video. 0 trains on single photos. Crops are then those of the rule ``landmarks``."""


@dataclass(frozen=True)
class OptimSettings:
    name: Literal["adam", "adamw"] = "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.0
    """Applied to weights of two dimensions and more, not to biases and norms."""
    schedule: Literal["onecycle", "step", "constant"] = "onecycle"
    """``onecycle``: linear warm-up over `warmup`, then half a cosine to 0; ``step``: x `gamma` at each of `milestones`."""
    warmup: float = 0.1
    """Share of the run."""
    milestones: list[int] = field(default_factory=lambda: [30, 50])
    """Epochs."""
    gamma: float = 0.1
    clip: float = 1.0
    """Largest norm of the gradient; 0 switches clipping off."""
    ema: float = 0.998
    """Decay of the weights' moving average, which is what is evaluated and shipped; 0 switches it off."""
    loss: Literal["l1", "l2", "wing", "adaptive_wing", "structured"] = "l1"
    """On landmarks in unit crop coordinates: mean |dx| + |dy| over 2, mean Euclidean distance, or the Wing loss. On heatmaps,
    without soft-argmax: the adaptive Wing loss, or the smooth hinge of structured prediction. See `ldeq.engine.losses`."""
    sigma: float = 1.0
    """Deviation of the Gaussian that a loss on heatmaps compares them with, in pixels of the heatmap."""
    margin: float = 5.0
    """Of the loss ``structured``, for an error of the heatmap's whole side; 0 makes it the cross entropy."""
    stochastic_iter: bool = False
    """Draw the budget of every step's forward solve from 1 to `model.max_iter`."""
    openings: float = 0.0
    """Weight of the error of openings beside `loss`: of the way between facing landmarks of the lids and of the inner lips."""
    flicker: float = 0.0
    """Weight of the flicker, the change of the error from frame to frame, beside `loss`; for `data.sequence` alone."""


@dataclass(frozen=True)
class RunSettings:
    out: str = "runs/ldeq"
    """Folder of checkpoints, log and pictures."""
    start: str | None = None
    """Weights to start from, a shipped model or a ``.safetensors`` file of the same `model`; drawn at random if absent."""
    epochs: int = 60
    batch: int = 16
    """Samples a step and process."""
    seed: int = 0
    amp: Literal["off", "bf16"] = "off"
    """Autocast of convolutions; state, readout and loss stay in float32."""
    device: str = "auto"
    """``auto`` takes CUDA where it is available."""
    validate_every: int = 5
    """Epochs between validations; the last epoch is always validated."""
    save_every: int = 1
    """Epochs between checkpoints."""
    keep: int = 2
    """Checkpoints kept, besides ``best.safetensors``."""
    log_every: int = 10
    """Steps between lines of ``log.jsonl``."""
    tensorboard: bool = False
    """Write the numbers of those lines for TensorBoard, too; needs the package tensorboard."""


@dataclass(frozen=True)
class TrainSettings:
    """Everything that defines a training run."""

    model: LDEQConfig = field(default_factory=LDEQConfig.small)
    """Fields of `LDEQConfig`; ``preset: paper | paper_video | small | tiny`` (``small`` if absent) sets the ones not given."""
    data: DataSettings = field(default_factory=DataSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        check_ranges({name: asdict(getattr(self, name)) for name in ("model", "data", "optim", "run")})
        if self.data.crop not in CROP_RULES:
            hint = did_you_mean(self.data.crop, CROP_RULES)
            raise SettingsError(f"data.crop must be one of {', '.join(CROP_RULES)}, got {shortened(self.data.crop)}{hint}")
        if not self.run.out.strip():
            raise SettingsError("run.out is empty; name a folder, for example runs/first")
        if self.data.sequence < 0 or self.data.sequence == 1:
            raise SettingsError(f"data.sequence must be 0 or a number of frames from 2 upwards, got {self.data.sequence}")
        if self.data.sequence and (self.data.cache or self.data.crop != "landmarks"):
            raise SettingsError(
                "data.sequence makes its frames anew and crops by landmarks; leave out data.cache and data.crop"
            )
        if self.data.sequence and self.optim.loss in HEATMAP_LOSSES:
            raise SettingsError(
                f"optim.loss {self.optim.loss} compares the heatmaps of single photos; with data.sequence take l1, l2 or wing"
            )
        if self.data.sequence and self.optim.stochastic_iter:
            raise SettingsError("optim.stochastic_iter is for single photos; leave it out with data.sequence")
        if self.optim.flicker and not self.data.sequence:
            raise SettingsError("optim.flicker compares frames; set data.sequence, for example to 5")


HEADER = "# Written by ldeq train: the settings of the run in this folder, defaults included.\n"


def dump(settings: TrainSettings) -> str:
    """The settings as a YAML file that `read` reads."""
    return HEADER + yaml.safe_dump(to_mapping(settings), sort_keys=False)


def is_dump(path: Path) -> bool:
    """Whether a file came from `dump`: nobody's own words are lost with it."""
    try:
        text = path.read_text(encoding="utf-8")
        document = parse_yaml(text)
        # Without the header, as older versions wrote it: every setting, and no word besides.
        return text.startswith(HEADER) or ("#" not in text and to_mapping(from_mapping(document)) == document)
    except (OSError, ValueError):
        return False


def read(path: Path, overrides: Sequence[str] = ()) -> TrainSettings:
    """Settings from a YAML file and ``key.path=value`` overrides (values are YAML, too).

    Raises:
        SettingsError: if the file is missing, no mapping, or holds an unknown key or a value of a wrong type.
    """
    path = user_path(path)
    try:
        with path.open("rb") as file:
            document = parse_yaml(file.read(LONGEST + 1))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {cause(error)}{_near_recipe(path)}; check the path") from error
    except YamlError as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from error
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise SettingsError(f"{path} must hold a mapping such as 'run: {{epochs: 60}}', found {type(document).__name__}")
    for override in overrides:
        _override(document, override)
    return from_mapping(document)


def _near_recipe(path: Path) -> str:
    """The file that was probably meant: in the same folder, or in ``configs``, where the recipes of this project are."""
    folders = [folder for folder in (path.parent, path.parent / "configs") if folder.is_dir()]
    found = {file.stem.lower(): file for folder in reversed(folders) for file in folder.glob("*.y*ml")}
    near = nearest(path.stem, found)
    return f" (did you mean {found[near]}?)" if near else ""


def _override(document: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    *parents, leaf = (part.strip() for part in key.split("."))
    if not separator or not leaf or not all(parents):
        raise SettingsError(f"--set takes key=value, for example --set optim.lr=5e-4; got {shortened(override)}")
    try:
        value = parse_yaml(text)
    except YamlError as error:
        raise SettingsError(f"--set {key}: the value {shortened(text)} is not valid YAML: {error}") from error
    place = document
    for parent in parents:
        inner = place.get(parent)
        if inner is None:
            inner = {}
        elif isinstance(inner, str) and parent in PRESET_GROUPS:  # augmentation: strong
            inner = {"preset": inner}
        elif not isinstance(inner, dict):
            raise SettingsError(f"--set {key}: {parent!r} is a value, not a group of settings")
        # A group may be one that an alias shares with another.
        place[parent] = place = dict(inner)
    place[leaf] = value


def from_mapping(document: Mapping[str, Any]) -> TrainSettings:
    """Settings from nested mappings, as YAML or a checkpoint holds them.

    Raises:
        SettingsError: as `read`.
    """
    if not isinstance(document, Mapping):
        raise SettingsError(f"settings must be a mapping such as {{'run': {{'epochs': 60}}}}, got {type(document).__name__}")
    # A group whose settings are all commented out is None.
    filled = {key: dict(value) if isinstance(value, Mapping) else value for key, value in document.items() if value is not None}
    _fill_preset(filled, "model", {name: lambda make=make: asdict(make()) for name, make in PRESETS.items()}, "small")
    data = filled.get("data")
    if isinstance(data, dict):
        names = ("none", "light", "paper", "strong")
        augmentations = {name: lambda name=name: asdict(Augmentation.preset(name)) for name in names}
        if data.get("augmentation", "") is None:
            del data["augmentation"]
        _fill_preset(data, "augmentation", augmentations, "light", "data.")
    _check_keys(TrainSettings, filled, "")
    check_ranges(filled)
    try:
        return TypeAdapter(TrainSettings).validate_python(filled)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{where}: {message}") from error
    except ValueError as error:
        raise SettingsError(str(error)) from error


def to_mapping(settings: TrainSettings) -> dict[str, Any]:
    """Plain nested dicts: what `from_mapping` reads, and what goes into YAML and checkpoints."""
    return asdict(settings)


def _fill_preset(document: dict[str, Any], key: str, presets: Mapping[str, Any], default: str, prefix: str = "") -> None:
    group = document.get(key)
    if isinstance(group, str):  # augmentation: strong
        group = {"preset": group}
    if not isinstance(group, Mapping):
        return
    group = dict(group)
    preset = group.pop("preset", default)
    if not isinstance(preset, str) or preset not in presets:
        hint = did_you_mean(preset, presets)
        raise SettingsError(
            f"{prefix}{key}.preset: unknown preset {shortened(preset)}{hint}; choose one of {', '.join(presets)}"
        )
    document[key] = {**presets[preset](), **group}


def _check_keys(kind: type, document: Mapping[Any, Any], prefix: str) -> None:
    """Refuses unknown settings, values in the place of groups, and true and false in the place of numbers."""
    hints = typing.get_type_hints(kind)
    for key, value in document.items():
        if key not in hints:
            raise SettingsError(_unknown(kind, str(key), prefix))
        hint = hints[key]
        if isinstance(value, bool) and hint in (int, float):
            raise SettingsError(f"{prefix}{key} must be a number, got {str(value).lower()}")
        if isinstance(hint, types.UnionType) or not dataclasses.is_dataclass(hint):
            continue
        if not isinstance(value, Mapping):
            raise SettingsError(f"{prefix}{key} must be a group of settings, got {shortened(value)}")
        _check_keys(typing.cast(type, hint), value, f"{prefix}{key}.")


def _unknown(kind: type, key: str, prefix: str) -> str:
    known = list(typing.get_type_hints(kind))
    groups = {group: [f.name for f in dataclasses.fields(hint)] for group, hint in typing.get_type_hints(TrainSettings).items()}
    elsewhere = [f"{group}.{key}" for group, names in groups.items() if key in names]
    near = near_setting(key, known)
    if elsewhere:  # under another group, or without one
        hint = f"did you mean {elsewhere[0]}?"
    elif near:
        hint = f"did you mean {prefix}{near}?"
    else:
        hint = f"known are {', '.join(known)}"
    told = shortened(key).strip("'\"")
    return f"unknown setting {prefix}{told}; {hint}"
