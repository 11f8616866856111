"""What is the same throughout a solve and therefore done once: dropout masks, and weights that a parametrisation computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.utils import parametrize

from .dropout import VariationalDropout


class Parts:
    """What a layer's modules hold that a solve must know."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        parameters: dict[int, Tensor] = {}
        self.dropouts: list[VariationalDropout] = []
        self._parametrised: list[nn.Module] = []
        for module in modules:
            for p in module._parameters.values():
                if p is not None and p.requires_grad:
                    parameters[id(p)] = p
            if isinstance(module, VariationalDropout):
                self.dropouts.append(module)
            elif "parametrizations" in module._modules:
                self._parametrised.append(module)
        self.parameters = list(parameters.values())
        """Those that require a gradient, each once."""

    @contextmanager
    def one_solve(self) -> Iterator[None]:
        """New dropout masks, and every parametrised weight computed once.

        Weight and spectral norm are parametrisations (`torch.nn.utils.parametrizations`). They are computed here, while
        autograd still records: the solve would compute them without a graph, and the tracked evaluation would find those.
        """
        for dropout in self.dropouts:
            dropout.new_mask()
        if not self._parametrised:
            yield
            return
        with parametrize.cached():
            for module in self._parametrised:
                for name in module.parametrizations:  # type: ignore[union-attr]
                    getattr(module, name)
            yield
