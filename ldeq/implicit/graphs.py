"""CUDA graphs of an implicit layer: a whole forward solve in one, a whole backward solve in another.

The forward graph holds the solve and the evaluation that autograd records; the backward graph the adjoint solve, through that
recorded evaluation, and the gradients of the parameters and of the injection. Both are captured together, as
`torch.cuda.make_graphed_callables` does it, and replayed for every later call with the same shapes.

The recorded evaluation lies in the graphs' own memory, so that a graph serves one step at a time, from its forward to its
backward. A second forward before that backward (two views of a batch in one loss) takes a second capture.
"""

from __future__ import annotations

import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils import _pytree as pytree

from ..errors import LdeqError
from ..ops import current_backend
from ..solvers import Solution, as_solver
from .adjoint import leaves_behind
from .recorder import Outputs, Recorder, recorder_for

MAX_GRAPHS = 8
"""Captures that one layer keeps; each holds the memory of a training step of its own."""


class Adjoint(Protocol):
    """The adjoint solve behind a recorded evaluation."""

    z_star: Tensor
    """Where the evaluation was recorded."""

    def __call__(self, grad: Tensor) -> tuple[Tensor, Solution]: ...


Solve = Callable[[Tensor, Any], tuple[Tensor, Solution, Adjoint | None]]
"""(z0, x) to z, the forward solution and, where autograd records and the gradient is implicit, the adjoint solve."""


class SolveGraphs:
    """The captures of one implicit layer, by shapes and modes; the least recently used goes when there are too many."""

    def __init__(self, size: int = MAX_GRAPHS) -> None:
        self.size = size
        self.recorder_for: Callable[[torch.device], Recorder | str] = recorder_for
        self.reason: str | None = None
        """Why the last call was not served by a graph, None if it was."""
        self._captured: OrderedDict[Hashable, list[SolveGraph]] = OrderedDict()
        self._storage: Hashable = None
        self._refused: dict[Hashable, str] = {}
        self._warned: set[str] = set()

    def __reduce__(self) -> tuple[type[SolveGraphs], tuple[int]]:
        # A copy of a model (an average of its weights, another process) captures anew: a graph knows addresses.
        return SolveGraphs, (self.size,)

    def __len__(self) -> int:
        return sum(map(len, self._captured.values()))

    def __call__(
        self, solve: Solve, cell: Any, solvers: Sequence[Any], z0: Tensor, x: Any, variant: Hashable = None
    ) -> tuple[Tensor, Solution] | None:
        """
        Args:
            solve: the work to capture.
            cell: whose parameters it reads.
            solvers: that it runs.
            z0, x: what it is given.
            variant: whatever else the work depends on, such as its budget, hashable: a capture serves one.

        Returns:
            z and the solution, or None where a capture is impossible: `reason` then says why, and a warning does so once.
        """
        self.reason = self._obstacle(cell, solvers, z0, x)
        if self.reason is None:
            graph = self._find(solve, cell, z0, x, (variant, *solvers))
            if graph is not None:
                return graph(z0, x)
        if self.reason is not None and self.reason not in self._warned:
            self._warned.add(self.reason)
            warnings.warn(f"cuda_graphs: this solve runs without a graph: {self.reason}", RuntimeWarning, stacklevel=4)
        return None

    def _obstacle(self, cell: Any, solvers: Sequence[Any], z0: Tensor, x: Any) -> str | None:
        for solver in solvers:
            reason = _polls(solver)
            if reason is not None:
                return reason
        if not isinstance(cell, nn.Module):
            return f"the cell must be a torch.nn.Module, whose parameters are known, not {type(cell).__name__}"
        if under_transform():
            return "a torch.func transform is active"
        if torch.is_grad_enabled() and torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            return "hooks on saved tensors are active (checkpointing or offloading), which a replay would not call"
        if torch.is_anomaly_enabled():
            return "anomaly detection is on"
        if getattr(cell, "_is_replica", False):
            return "the cell is a replica of nn.DataParallel, whose parameters move every step"
        for name, module in cell.named_modules():
            where = f"cell.{name}" if name else "cell"
            if any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)):
                return f"{where} has hooks, which a replay would not call"
            if module.training and isinstance(module, _BatchNorm | _DropoutNd):
                return f"{where} is {type(module).__name__} in training mode, which a warm-up would change or draw from"
        for name, p in cell.named_parameters():
            if type(p) not in (nn.Parameter, Tensor) or p.device != z0.device or not p.is_leaf:
                return f"cell.{name} is not a plain parameter on {z0.device}"
            if p._backward_hooks:
                return f"cell.{name} has a gradient hook, which a replay would not call"
        for leaf in pytree.tree_leaves(x):
            if isinstance(leaf, Tensor):
                if type(leaf) not in (nn.Parameter, Tensor) or leaf.device != z0.device:
                    return f"x holds a {type(leaf).__name__} on {leaf.device}, not a plain tensor on {z0.device}"
            elif not isinstance(leaf, int | float | str | None):
                return f"x holds a {type(leaf).__name__}, whose tensors cannot be seen"
        return None

    def _find(self, solve: Solve, cell: nn.Module, z0: Tensor, x: Any, variant: Hashable) -> SolveGraph | None:
        # The object as well as its address: a new parameter that shares the memory of the old one must get the gradient.
        tensors = (*cell.parameters(), *cell.buffers())
        storage = (cell, *((id(t), t.data_ptr(), t.dtype, t.requires_grad) for t in tensors))
        if storage != self._storage:
            # Optimizers write in place; `.to()` and loading with assign=True move, and every graph reads the old addresses.
            self._captured.clear()
            self._refused.clear()
            self._storage = storage
        leaves, spec = pytree.tree_flatten(x)
        kind = z0.device.type
        key: Hashable = (
            variant,
            _layout(z0, False),
            tuple(_layout(t, torch.is_grad_enabled()) if isinstance(t, Tensor) else t for t in leaves),
            str(spec),
            torch.is_grad_enabled(),
            torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind),
            *_precisions(),
            tuple(module.training for module in cell.modules()),
            current_backend(),
        )
        self.reason = self._refused.get(key)
        if self.reason is not None:
            return None
        graphs = self._captured.setdefault(key, [])
        self._captured.move_to_end(key)
        free = next((g for g in graphs if not g.busy), None)
        if free is not None:
            return free
        if len(self) >= self.size and not self._drop_oldest():
            self.reason = f"all {self.size} graphs hold evaluations of steps whose backward has not run"
            return None
        recorder = self.recorder_for(z0.device)
        if isinstance(recorder, str):
            self.reason = recorder
            return None
        try:
            graph = SolveGraph(recorder, solve, cell, z0, x)
        except (CaptureError, RuntimeError) as error:
            message = str(error) or type(error).__name__
            self.reason = self._refused[key] = f"the capture failed: {message.splitlines()[0]}"
            return None
        graphs.append(graph)
        return graph

    def _drop_oldest(self) -> bool:
        for key, graphs in self._captured.items():
            for graph in graphs:
                if not graph.busy:
                    graphs.remove(graph)
                    if not graphs and key != next(reversed(self._captured)):
                        del self._captured[key]
                    return True
        return False


class CaptureError(LdeqError):
    """The solve cannot be captured, for the reason given."""


class SolveGraph:
    """One capture: static inputs, the graphs, static outputs."""

    def __init__(self, recorder: Recorder, solve: Solve, cell: nn.Module, z0: Tensor, x: Any) -> None:
        self.tracked = torch.is_grad_enabled()
        self._holder: weakref.ref[_Step] | None = None
        self.generation = 0
        with torch.inference_mode(False), torch.enable_grad():
            self._z0 = torch.empty_like(z0, requires_grad=False)
            leaves, spec = pytree.tree_flatten(x)
            self._x = [_static(leaf, self.tracked) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            self._inputs = [leaf for leaf in self._x if isinstance(leaf, Tensor)]
            self._parameters = list(cell.parameters()) if self.tracked else []
            self._targets = [t for t in (*self._inputs, *self._parameters) if self.tracked and t.requires_grad]
            self._fill(z0, leaves)

            def forward() -> Outputs:
                with _autocast_without_cache(z0.device.type), torch.set_grad_enabled(self.tracked):
                    self._z, self._solution, self._adjoint = solve(self._z0, pytree.tree_unflatten(self._x, spec))
                return [self._z.detach(), *_tensors(self._solution)]

            def backward() -> Outputs:
                u: Tensor = self._grad
                solution: Solution | None = None
                # A backward pass runs outside of the autocast of its forward.
                with torch.autocast(z0.device.type, enabled=False):
                    if self._adjoint is not None:
                        u, solution = self._adjoint(self._grad)
                    # The recorded evaluation is kept: a second backward of the same step replays this again.
                    grads = torch.autograd.grad(self._z, self._targets, u, retain_graph=True, allow_unused=True)
                self._adjoint_solution = solution
                return [*grads, *(_tensors(solution) if solution else [])]

            def both() -> Outputs:
                outputs = forward()
                if self._targets and self._z.requires_grad:
                    self._grad = torch.zeros_like(self._z).detach()
                    self._check_leaves()
                    backward()
                return outputs

            recorder.warm_up(both)
            self._outputs, self._replay_forward = recorder.capture(forward)
            self._forward_solution = self._solution
            self._replay_backward: Callable[[], None] | None = None
            if self._targets and self._z.requires_grad:
                self._grad = torch.zeros_like(self._z).detach()
                self._gradients, self._replay_backward = recorder.capture(backward)

    @property
    def busy(self) -> bool:
        """Whether a step holds the recorded evaluation: its backward has not run, and its result is still alive."""
        step = self._holder() if self._holder is not None else None
        return step is not None and not step.spent

    def __call__(self, z0: Tensor, x: Any) -> tuple[Tensor, Solution]:
        leaves = pytree.tree_leaves(x)
        with torch.no_grad():
            self._fill(z0, leaves)
            self._replay_forward()
            z, *rest = (None if t is None else t.clone() for t in self._outputs)
        assert z is not None
        self.generation += 1
        solution = _with_tensors(self._forward_solution, rest)
        if self._replay_backward is None:
            return z, solution
        step = _Step(self, solution)
        self._holder = weakref.ref(step)
        inputs = [t for t in leaves if isinstance(t, Tensor)]
        return _Replay.apply(z, step, *inputs, *self._parameters), solution

    def backward(self, grad: Tensor) -> tuple[list[Tensor | None], Solution | None]:
        """Gradients of the inputs and parameters, None where there is none, and the adjoint solution."""
        assert self._replay_backward is not None
        self._grad.copy_(grad)
        self._replay_backward()
        # Copies: a gradient that becomes `p.grad` would be overwritten by the next replay.
        outputs = [None if t is None else t.clone() for t in self._gradients]
        found = dict(zip(map(id, self._targets), outputs, strict=False))
        solution = self._adjoint_solution
        if solution is not None:
            solution = _with_tensors(solution, outputs[len(self._targets) :])
        return [found.get(id(t)) for t in (*self._inputs, *self._parameters)], solution

    def _fill(self, z0: Tensor, leaves: Sequence[Any]) -> None:
        self._z0.copy_(z0.detach())
        for static, leaf in zip(self._x, leaves, strict=True):
            if isinstance(leaf, Tensor):
                static.detach().copy_(leaf.detach())

    def _check_leaves(self) -> None:
        """What autograd recorded must end in static inputs and parameters: a gradient to anything else would be lost."""
        known = {id(t) for t in (*self._inputs, *self._parameters)}
        if self._adjoint is not None:
            known.add(id(self._adjoint.z_star))
        for leaf in leaves_behind(self._z):
            if id(leaf) not in known:
                raise CaptureError(
                    f"the cell uses a tensor of shape {tuple(leaf.shape)} that requires a gradient and is neither a parameter "
                    "of it nor part of x"
                )


class _Step:
    """One forward through a capture, until its backward."""

    def __init__(self, graph: SolveGraph, solution: Solution) -> None:
        self.graph, self.solution, self.generation = graph, solution, graph.generation
        self.spent = False

    def backward(self, grad: Tensor) -> list[Tensor | None]:
        if self.generation != self.graph.generation:
            raise RuntimeError(
                "cuda_graphs: a second backward through a step whose recorded evaluation a later forward has overwritten; run "
                "it before the next forward, or set cuda_graphs=False"
            )
        self.spent = True
        grads, adjoint = self.graph.backward(grad)
        if adjoint is not None:
            self.solution.adjoint = replace(adjoint, value=adjoint.value.new_empty(0))
        return grads


class _Replay(torch.autograd.Function):
    """Identity on the z of a replay; backward replays the backward graph."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, step: _Step, *inputs: Tensor) -> Tensor:
        ctx.step = step
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            # The gradients of a replay have no graph: whatever is computed from them would be taken for a constant.
            raise RuntimeError(
                "create_graph=True was asked for through a replayed CUDA graph, which computes a first derivative only; set "
                "cuda_graphs=False"
            )
        return None, None, *ctx.step.backward(grad)


def _polls(chosen: Any) -> str | None:
    """Why a solver may wait for the device, None if it does not."""
    solver = as_solver(chosen)
    if solver is None:
        return "the solver is not one of ldeq.solvers: it may look at the host"
    return solver.host_work


def under_transform() -> bool:
    """Whether a transform of torch.func is at work; a compiler that looks on cannot tell, and is answered no."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def _precisions() -> tuple[Hashable, ...]:
    """How float32 is multiplied, and whether runs repeat. Not `get_float32_matmul_precision`, an error where these were set."""
    b = torch.backends
    settings = (b, b.cuda.matmul, b.cudnn, b.cudnn.conv)  # type: ignore[attr-defined]
    return *(s.fp32_precision for s in settings), torch.are_deterministic_algorithms_enabled()


def _layout(t: Tensor, grads: bool) -> Hashable:
    return tuple(t.shape), t.stride(), t.dtype, t.device, grads and t.requires_grad


def _static(t: Tensor, grads: bool) -> Tensor:
    return torch.empty_like(t, requires_grad=grads and t.requires_grad)


@contextmanager
def _autocast_without_cache(kind: str) -> Iterator[None]:
    """Autocast as it is, but for its cache: a replay must cast the weights that it finds, not those of the capture."""
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    with torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False):
        yield


_TENSORS = [f.name for f in fields(Solution) if f.name != "adjoint"]


def _tensors(solution: Solution) -> list[Tensor | None]:
    return [getattr(solution, name) for name in _TENSORS]


def _with_tensors(solution: Solution, tensors: Sequence[Tensor | None]) -> Solution:
    changes: dict[str, Any] = dict(zip(_TENSORS, tensors, strict=True))
    return replace(solution, **changes, adjoint=None)
