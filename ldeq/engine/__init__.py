"""Training, evaluation, checkpoints."""

from .checkpoint import CheckpointError
from .evaluate import Evaluation, evaluate
from .settings import SettingsError, TrainSettings
from .train import Trainer, TrainingError
from .weights import Pretrained, load_pretrained, shipped_models

__all__ = [
    "CheckpointError",
    "Evaluation",
    "Pretrained",
    "SettingsError",
    "TrainSettings",
    "Trainer",
    "TrainingError",
    "evaluate",
    "load_pretrained",
    "shipped_models",
]
