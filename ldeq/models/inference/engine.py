"""Which engine runs the folded network, and the copies of it, one per model and made once per set of weights."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from ...ops.dispatch import transformed
from .folded import Folded, evaluation, fold, injection_term
from .onnxruntime_engine import OnnxRuntimeEngine, onnxruntime_missing
from .packed import PackedOperations, packing_missing
from .snapshot import Snapshot, why_not_foldable

if TYPE_CHECKING:
    from ..ldeq import LDEQ

ENGINES = ("torch", "onnxruntime")

MODULES = "modules"
"""The engine of a model that folds nothing: for comparisons."""


def choose_engine(device: torch.device) -> tuple[str, str]:
    """The fastest engine that is installed, and why it is that one.

    Args:
        device: where the model is.
    """
    if device.type != "cpu":
        return "torch", f"the model runs on {device.type}, and onnxruntime here serves CPUs"
    if missing := onnxruntime_missing():
        return "torch", missing
    return (
        "onnxruntime",
        "faster than torch for a face, within a tenth of it for many, far faster beside other work",
    )


class Engine(Protocol):
    """Runs a folded network on CPU tensors, float32."""

    def term(self, images: Tensor) -> Tensor:
        """Normalised images `(B, 3, S, S)` to the injection term."""

    def evaluate(self, z: Tensor, term: Tensor) -> Tensor:
        """One evaluation: `(B, K, h, h)`, contiguous."""


class FoldedInjection:
    """The injection of a folded network: what `Cell` evaluates in place of its modules."""

    calls_no_modules = True

    def __init__(self, engine: Engine, term: Tensor) -> None:
        self._engine, self._term = engine, term

    def evaluate(self, z: Tensor) -> Tensor:
        return self._engine.evaluate(z, self._term)

    def select(self, rows: Tensor) -> FoldedInjection:
        """That of the samples `rows` `(n,)` int64 alone."""
        return FoldedInjection(self._engine, self._term.index_select(0, rows))


class PackedEngine:
    """The folded network by oneDNN."""

    def __init__(self, folded: Folded) -> None:
        self._folded, self._run = folded, PackedOperations(folded)

    def term(self, images: Tensor) -> Tensor:
        return injection_term(self._run, self._folded, images.contiguous(memory_format=torch.channels_last))

    def evaluate(self, z: Tensor, term: Tensor) -> Tensor:
        return evaluation(self._run, self._folded, z, term)


class _Copies:
    """The engines made of one model's weights, as long as these stay."""

    def __init__(self, model: LDEQ) -> None:
        self.snapshot: Snapshot | None = None
        self.engines: dict[tuple[str, int], Engine] = {}
        reason = why_not_foldable(model) if _is_float32_on_cpu(model) else "its weights are not all float32 on the CPU"
        if reason is not None:
            if model.engine == "onnxruntime":
                warnings.warn(
                    f"engine 'onnxruntime' is not used, since {reason}; the model's own modules run, more slowly",
                    RuntimeWarning,
                    stacklevel=2,
                )
        else:
            self.snapshot = Snapshot(model.stem, model.cell)
            self.folded = fold(model.stem, model.cell, model.config.heatmap_size)

    def engine(self, name: str) -> Engine | None:
        if self.snapshot is None:
            return None
        # A session has threads of its own, and torch's number may go up and down with the load.
        key = (name, torch.get_num_threads() if name == "onnxruntime" else 0)
        if key not in self.engines:
            self.engines[key] = _make(name, self.folded)
        return self.engines[key]


# Not an attribute of the model: what is packed can neither be copied nor saved with it.
_copies: WeakKeyDictionary[nn.Module, _Copies] = WeakKeyDictionary()


def fold_injection(model: LDEQ, images: Tensor) -> FoldedInjection | None:
    """The injection of `images` by the model's engine, or None if only the modules themselves give the right answer.

    That is so where autograd or a compiler records, under autocast, transforms and modes, for hooks and replaced modules, off
    the CPU, and in another dtype than float32.
    """
    if model.engine == MODULES or not _is_plain_inference(images):
        return None
    engine = _engine(model)
    return None if engine is None else FoldedInjection(engine, engine.term(images))


def _engine(model: LDEQ) -> Engine | None:
    if model.engine == "torch" and packing_missing():
        return None
    copies = _copies.get(model.cell)
    # What is kept must outlive an inference mode that this call may be made in.
    with torch.inference_mode(False), torch.no_grad():
        if copies is None or copies.snapshot is None or not copies.snapshot.holds():
            _copies[model.cell] = copies = _Copies(model)
        return copies.engine(model.engine)


def _is_float32_on_cpu(model: LDEQ) -> bool:
    tensors = [*model.parameters(), *model.buffers()]
    return all(t.device.type == "cpu" and t.dtype in (torch.float32, torch.int64) for t in tensors)


def _make(name: str, folded: Folded) -> Engine:
    return PackedEngine(folded) if name == "torch" else OnnxRuntimeEngine(folded, torch.get_num_threads())


def _is_plain_inference(images: Tensor) -> bool:
    return (
        type(images) is Tensor
        and images.device.type == "cpu"
        and images.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch._C._get_tracing_state()
        and not torch.is_autocast_enabled("cpu")
        and not _observed(images)
    )


def _observed(images: Tensor) -> bool:
    """Whether a mode, a transform or a global hook wants to see each operation."""
    hooks: Any = torch.nn.modules.module
    return bool(
        torch._C._len_torch_dispatch_stack()
        # A default device is a mode as well; it says where new tensors go, and these are told so.
        or any(not isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())
        or torch._C._functorch.is_functorch_wrapped_tensor(images)
        or transformed(images)
        or hooks._global_forward_hooks
        or hooks._global_forward_pre_hooks
    )
