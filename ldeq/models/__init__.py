"""The landmark model and its configurations."""

from .config import LDEQConfig
from .ldeq import LDEQ, LDEQOutput

__all__ = ["LDEQ", "LDEQConfig", "LDEQOutput"]
