"""Training, evaluation, checkpoints."""

from .checkpoint import CheckpointError
from .evaluate import Evaluation, evaluate
from .settings import SettingsError, TrainSettings
from .train import Trainer, TrainingError

__all__ = ["CheckpointError", "Evaluation", "SettingsError", "TrainSettings", "Trainer", "TrainingError", "evaluate"]
