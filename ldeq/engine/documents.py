"""The JSON documents in weights and checkpoints: one reader that says in a sentence what is wrong with one.

Every field has a type and a range, unknown and missing fields are refused, and no number is so large that a file of a few
bytes could ask for all memory.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..confidence import Calibration
from ..data.crop import CROP_RULES
from ..data.layouts import LAYOUTS
from ..models import LDEQConfig
from ..spelling import did_you_mean
from .checkpoint import CheckpointError
from .settings import SettingsError, TrainSettings, from_mapping
from .settings_checks import RANGES

Count = Annotated[int, Field(ge=0, le=10**12)]

_LARGEST = {name.removeprefix("model."): int(high) for name, (_, high) in RANGES.items() if name.startswith("model.")}
"""The largest value of each count of a model: far above any use, and far below what would exhaust a machine."""

_ARCHITECTURE = ("landmarks", "image_size", "width", "width_increment", "depth", "groups", "beta")
"""Fields that every file has held. Files of older versions may lack the others, which then have their defaults."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False)


class CropDocument(_Document):
    """How the crops were made that a model was trained on."""

    rule: str
    scale: Annotated[float, Field(gt=0, le=100)]


class CalibrationDocument(_Document):
    """The fields of a `Calibration`."""

    bias: float
    residual: float
    spread: float
    min_score: Annotated[float, Field(ge=0, le=1)]
    offsets: list[float]
    by_std: float
    by_residual: float
    by_spread: float
    data: str = ""


class WeightsDocument(_Document):
    """What a file of weights says about itself; `layout_definition` is a layout that does not come with the package."""

    format: int
    kind: Literal["weights"]
    model: dict[str, Any]
    layout: str
    layout_definition: Any = None
    crop: CropDocument
    card: dict[str, Any] = {}
    validation: dict[str, float] = {}
    calibration: CalibrationDocument | None = None


class Position(_Document):
    """How far a run has come."""

    epoch: Count
    step_in_epoch: Count
    steps_per_epoch: Annotated[int, Field(ge=1, le=10**12)]


class TrainingDocument(_Document):
    """What a training checkpoint says about itself.

    Attributes:
        saved: counts the saves of the run, over all its resumes; 0 in files of older versions.
        validation_due: whether the validation at this position has not been done.
        best: the lowest validation NME so far, in percent.
    """

    format: int
    kind: Literal["training"]
    settings: dict[str, Any]
    layout: str
    layout_definition: Any = None
    position: Position
    world: Annotated[int, Field(ge=1, le=10**6)]
    best: float | None
    bad_steps: Count
    skipped: dict[str, str]
    saved: Count = 0
    validation_due: bool = False


_D = TypeVar("_D", bound=_Document)


def weights_document(path: Path, document: dict[str, Any]) -> tuple[WeightsDocument, LDEQConfig]:
    """The document of a file of weights, and the configuration of its model.

    Raises:
        CheckpointError: if it cannot be used; the sentence names the file and the field.
    """
    found = _parse(WeightsDocument, path, document)
    _check_layout(path, found.layout, found.layout_definition)
    if found.crop.rule not in CROP_RULES:
        raise _unusable(path, f"crop.rule is {found.crop.rule!r}, known are {', '.join(CROP_RULES)}")
    return found, _configuration(path, found.model)


def calibration_in(path: Path, found: WeightsDocument, config: LDEQConfig) -> Calibration | None:
    """The calibration in a file of weights, or None if it has none.

    Raises:
        CheckpointError: if it was fitted for another number of landmarks.
    """
    if found.calibration is None:
        return None
    if (count := len(found.calibration.offsets)) != config.landmarks:
        raise _unusable(path, f"calibration.offsets has {count} numbers, and the model {config.landmarks} landmarks")
    fields = found.calibration.model_dump()
    return Calibration(**{**fields, "offsets": tuple(fields["offsets"])})


def training_document(path: Path, document: dict[str, Any]) -> tuple[TrainingDocument, TrainSettings]:
    """The document of a training checkpoint, and the settings of its run.

    Raises:
        CheckpointError: if it holds weights only, or cannot be used; the sentence names the file and the field.
    """
    if document.get("kind") == "weights":
        raise CheckpointError(f"{path} holds weights only, and a run cannot go on from it; use a step-*.safetensors file")
    found = _parse(TrainingDocument, path, document)
    _check_layout(path, found.layout, found.layout_definition)
    model = found.settings.get("model")
    if isinstance(model, dict):
        _check_model(path, model, "settings.model")
    try:
        return found, from_mapping(found.settings)
    except SettingsError as error:
        raise _unusable(path, f"settings: {error}") from error


def check_weights_document(document: dict[str, Any]) -> None:
    """Refuses to write what could not be read again.

    Raises:
        CheckpointError: if the document has a field that `WeightsDocument` does not know, or a wrong value.
    """
    _parse(WeightsDocument, Path("the file"), {"format": 1, **document})


def _parse(kind: type[_D], path: Path, document: dict[str, Any]) -> _D:
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        raise _unusable(path, f"its document lacks {where}")
    if first["type"] == "extra_forbidden":
        raise _unusable(path, f"its document holds {where[:60]}, which this version does not know")
    raise _unusable(path, f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, found {_short(first['input'])}")


def _configuration(path: Path, model: dict[str, Any]) -> LDEQConfig:
    _check_model(path, model, "model")
    missing = [name for name in _ARCHITECTURE if name not in model]
    if missing:
        raise _unusable(path, f"its document lacks model.{missing[0]}")
    defaults = dataclasses.asdict(LDEQConfig())
    try:
        return from_mapping({"model": {**defaults, **model}}).model
    except SettingsError as error:
        raise _unusable(path, str(error)) from error


def _check_model(path: Path, model: dict[str, Any], where: str) -> None:
    known = [f.name for f in dataclasses.fields(LDEQConfig)]
    for name, value in model.items():
        if name not in known:
            hint = did_you_mean(name, known)
            raise _unusable(path, f"{where} holds {str(name)[:60]!r}, which this version does not know{hint}")
        if name in _LARGEST and isinstance(value, int | float) and not abs(value) <= _LARGEST[name]:
            raise _unusable(path, f"{where}.{name} is {_short(value)}, more than {_LARGEST[name]}")


def _check_layout(path: Path, name: str, definition: object) -> None:
    if definition is None and name not in LAYOUTS:
        raise _unusable(path, f"its layout is {_short(name)}, known are {', '.join(LAYOUTS)}")


def _short(value: object) -> str:
    if isinstance(value, int) and abs(value) >= 10**20:
        return "an integer of more than 20 digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unusable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} cannot be used: {why}; update ldeq if a newer version wrote it, else it is damaged")
