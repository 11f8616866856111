"""Training, evaluation, checkpoints."""

from .checkpoint import CheckpointError
from .distributed import ProcessLost
from .evaluate import Evaluation, evaluate
from .loading import LoaderError
from .run_lock import FolderInUse
from .settings import SettingsError, TrainSettings
from .train import Trainer, TrainingError
from .weights import Pretrained, load_pretrained, shipped_models

__all__ = [
    "CheckpointError",
    "Evaluation",
    "FolderInUse",
    "LoaderError",
    "Pretrained",
    "ProcessLost",
    "SettingsError",
    "TrainSettings",
    "Trainer",
    "TrainingError",
    "evaluate",
    "load_pretrained",
    "shipped_models",
]
