"""Tells whether modules still are what was folded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import chain, repeat
from operator import attrgetter, contains, is_
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..cell import Cell
from ..config import LDEQConfig

SAMPLED = 22
"""Tensors of which a few values are compared: writing through ``.data`` moves no version counter. All of them would cost a
twentieth of an evaluation of the small model."""


class Snapshot:
    """The modules, weights and statistics of a moment.

    A change is seen by the identity, the address and the version counter of each tensor. In-place operations, optimisers and
    `load_state_dict` move the counter. Moving averages are often written through ``.data``, which does not; they change all
    values, so that a sample of them tells.

    Every picture asks, right after a network has emptied the caches. So a question to all modules is one call for all of them,
    and what no answer depends on is not asked: whether a container has parameters of its own, or a layer has children.
    """

    def __init__(self, *roots: nn.Module) -> None:
        self._modules = [module for root in roots for module in root.modules()]
        self._types = list(map(type, self._modules))
        self._attributes = [module.__dict__ for module in self._modules]
        self._hooks = [hooks for m in self._modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self._norms = [module for module in self._modules if isinstance(module, nn.BatchNorm2d)]
        self._settings = [(read, m, read(m)) for m in self._modules if (read := _SETTINGS.get(type(m)))]
        self._registered: list[dict[str, Any]] = [
            entries for m in self._modules for entries in ((m._modules,) if m._modules else (m._parameters, m._buffers))
        ]
        self._counts = list(map(len, self._registered))
        self._held = list(chain.from_iterable(map(_VALUES, self._registered)))
        self._tensors = [part for part in self._held if isinstance(part, Tensor)]
        self._writes = list(map(_VERSION, self._tensors))
        self._addresses = list(map(Tensor.data_ptr, self._tensors))
        floats = [tensor for tensor in self._tensors if tensor.is_floating_point()]
        # Views of the very memory, whose address is compared first. NumPy joins small arrays in a tenth of torch's time.
        self._samples = [_sample(tensor) for tensor in floats[:: -(-len(floats) // SAMPLED)]]
        self._values = np.concatenate(self._samples).tobytes()

    def holds(self) -> bool:
        """Whether nothing has changed, no hook has come, and BatchNorm is in eval mode."""
        return (
            not any(self._hooks)
            and not any(norm.training for norm in self._norms)
            and list(map(type, self._modules)) == self._types
            and not any(map(contains, self._attributes, repeat("forward")))
            and all(map(is_, map(_COMPILED, self._modules), repeat(None)))
            and all(read(module) == chosen for read, module, chosen in self._settings)
            and list(map(len, self._registered)) == self._counts
            and all(map(is_, chain.from_iterable(map(_VALUES, self._registered)), self._held))
            and list(map(_VERSION, self._tensors)) == self._writes
            and list(map(Tensor.data_ptr, self._tensors)) == self._addresses
            and np.concatenate(self._samples).tobytes() == self._values
        )


_VERSION = attrgetter("_version")
_COMPILED = attrgetter("_compiled_call_impl")
_VALUES: Callable[[dict[str, Any]], Iterable[Any]] = dict.values

_SETTINGS: dict[type, Callable[[Any], Any]] = {
    Cell: attrgetter("beta"),
    nn.Conv2d: attrgetter("stride", "padding", "dilation", "groups", "padding_mode"),
    nn.LeakyReLU: attrgetter("negative_slope"),
    nn.MaxPool2d: attrgetter("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    nn.GroupNorm: attrgetter("num_groups", "eps"),
    nn.BatchNorm2d: attrgetter("eps", "track_running_stats"),
}


def settings(module: nn.Module) -> Any:
    """What a module computes by, besides its tensors."""
    read = _SETTINGS.get(type(module))
    return read(module) if read else None


def why_not_plain(module: nn.Module) -> str | None:
    """Why calling `module` may do something else than its class says, or None."""
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has a hook"
    if "forward" in module.__dict__ or module._compiled_call_impl is not None:
        return "its forward has been replaced"
    if module.training and isinstance(module, nn.BatchNorm2d):
        return "it is in training mode"
    return None


def why_not_foldable(model: Any) -> str | None:
    """Why the weights of a model do not say all of what it computes, or None.

    Args:
        model: an `LDEQ`.
    """
    expected = _reference(model.config)
    found = {f"{part}.{name}": m for part in ("stem", "cell") for name, m in getattr(model, part).named_modules()}
    for name, module in found.items():
        label = name.rstrip(".")
        if name not in expected or type(module) is not expected[name].kind:
            return f"{label} is a {type(module).__name__} that the model did not come with"
        if reason := why_not_plain(module):
            return f"{label} is not what its class says: {reason}"
        if settings(module) != expected[name].settings:
            return f"a setting of {label} is not the one that the model came with"
        if _tensors(module) != expected[name].tensors:
            return f"{label} holds other tensors than the model came with"
    return f"{min(expected.keys() - found.keys())} is missing" if expected.keys() - found.keys() else None


class _Expected(NamedTuple):
    kind: type[nn.Module]
    settings: Any
    tensors: dict[str, tuple[int, ...]]


@lru_cache(maxsize=8)
def _reference(config: LDEQConfig) -> dict[str, _Expected]:
    from ..ldeq import LDEQ

    with torch.inference_mode(False), torch.device("meta"):
        model = LDEQ(config)
    parts = {"stem": model.stem, "cell": model.cell}
    return {
        f"{part}.{name}": _Expected(type(module), settings(module), _tensors(module))
        for part, root in parts.items()
        for name, module in root.named_modules()
    }


def _tensors(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the module's own parameters and buffers; (-1,) for subclasses of tensors, which may compute something else,
    and for those made in inference mode, which have no version counter."""
    own = {**module._parameters, **module._buffers}
    plain = (nn.Parameter, Tensor)
    return {
        name: tuple(t.shape) if type(t) in plain and not t.is_inference() else (-1,) for name, t in own.items() if t is not None
    }


def _sample(tensor: Tensor) -> NDArray[Any]:
    """A view of the first and of the middle value in the tensor's memory."""
    if not (tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)):
        return tensor.detach().flatten()[:0].numpy()
    half = max(tensor.numel() // 2, 1)
    return tensor.detach().as_strided((min(2, tensor.numel()),), (half,), tensor.storage_offset()).numpy()
