r"""The deep equilibrium layer: a forward solve, and three ways to its gradient.

With z* = f(z*, x) and a loss L, the implicit function theorem gives (Bai, Kolter and Koltun 2019, theorem 1)

$$ dL/d\theta = u^T \, \partial f / \partial \theta, \quad u = J^T u + dL/dz, \quad J = \partial f / \partial z, $$

so training memory holds one evaluation of f, however many the solve took.

How a gradient flows here: the solve runs without a graph; one tracked evaluation z = f(z*, x) follows; a node behind it
replaces the incoming dL/dz by u, and autograd then goes on through that one evaluation. The node refers to the graph
upstream of itself and nothing refers back to it, so a graph whose backward never runs is freed like any other (a hook on z
that closes over z would keep it for ever).

Second derivatives take the dependence of u and of z* on everything else as well; `ldeq.implicit.second` says how.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.utils import _pytree as pytree

from .. import solvers
from ..errors import ArgumentError
from ..ops import use_backend
from ..solvers import Injected, Solution, Status, as_solver, fixed_point
from ..solvers.solver import check_choice
from .adjoint import (
    AdjointSolve,
    Solver,
    leaves_behind,
    nodes_of,
    pull_back_through,
    refuse_second_derivative,
    replace_gradient,
)
from .graphs import SolveGraphs, under_transform
from .once import Parts
from .repeat import CHECKPOINT, Repeatable, saved_tensor_hooks
from .structure import PackedCell, PackedObserve, Structure
from .watch import ConvergenceWatch

Cell = Callable[[Any, Any], Any]
"""(z, x) to a new z. z is a tensor `(B, ...)` or a structure of such tensors, x any structure of tensors."""

GRADIENTS = ("implicit", "jfb", "unrolled")


class DEQ(nn.Module):
    """Solves z = cell(z, x) and differentiates the solution.

    ```python
    deq = DEQ(cell, Anderson(m=6, max_iter=5), gradient="implicit")
    z, sol = deq(torch.zeros(4, 98, 64, 64), x)

    z, sol = deq({"low": torch.zeros(4, 64, 8, 8), "high": torch.zeros(4, 32, 16, 16)}, x)  # a cell on dictionaries
    ```

    The result does not depend on `training`: gradients flow whenever autograd records, in eval mode too.
    """

    def __init__(
        self,
        cell: Cell,
        solver: Solver = fixed_point,
        *,
        gradient: str = "implicit",
        backward_solver: Solver | None = None,
        params: Any = None,
        phantom_steps: int = 1,
        tau: float = 1.0,
        n_states: int = 1,
        final_evaluation: bool = True,
        cuda_graphs: bool = False,
    ) -> None:
        """
        Args:
            cell: maps the state and the injection x to a new state like the one it is given; a module or a function. A state
                is a tensor `(B, ...)`, or a structure of such tensors with one dtype, which is solved as one: a tuple, a
                dictionary, or a data class registered by `torch.export.register_dataclass`. x is a tensor or any structure of
                tensors.
            solver: an `Anderson`, `FixedPoint` or `Broyden`, or anything called as ``solver(f, z0) -> Solution``. Its f can be
                narrowed to some samples (`compact`) if x can, see `Injected`.
            gradient: ``"implicit"``, by the backward solve; ``"jfb"``, Jacobian-free (Fung et al. 2022): the last
                `phantom_steps` evaluations are differentiated and nothing else, for first derivatives only; ``"unrolled"``,
                through every step of the solver.
            backward_solver: solver of u = J^T u + dL/dz, from zeros; the forward one if None. The first evaluation at
                zeros is dL/dz itself and costs nothing. Its stop should be relative: gradients have no scale of their own.
                It returns f, whatever its `returns` says: where J expands, the best x can be the start, a gradient
                of zero. With `compact`, the solver's own work shrinks, but not the vector-Jacobian
                product: it is that of one recorded evaluation of the whole batch.
            params: modules or parameters that the cell uses without being their parent, in any structure, such as those that a
                function closes over. They become part of this module: `parameters()`, `to()` and `state_dict()` see them. An
                empty tuple says that the cell needs none.
            phantom_steps: tracked evaluations at the end for ``"jfb"``, and after each of the `n_states`, >= 1 (phantom
                gradients, Geng et al. 2021).
            tau: damping of the phantom steps, z <- (1 - tau) z + tau f(z), in (0, 1].
            n_states: above 1, `Solution.states` holds ``n_states - 1`` states on the way, at equal distances in the budget,
                for a loss on each (fixed-point correction, Bai et al. 2022). Each has the gradient of `phantom_steps`
                evaluations. If the solve has ended before, the state is the solution. None if autograd does not record.
            final_evaluation: evaluate the cell once more at the solution (`phantom_steps` times for ``"jfb"``) when autograd
                does not record, so that training and inference give the same numbers. Off saves that evaluation.
            cuda_graphs: on a CUDA device, capture the forward solve and the backward solve, each whole, and replay them for
                later calls with the same shapes, dtypes and modes (up to 8 of them). Needs solvers with ``check_every=0`` and
                a cell that reads nothing but its parameters and buffers, z and x. Where a capture is impossible the solve
                runs as it would without, one warning says why, and so does ``deq.graphs.reason``.

        Raises:
            ValueError: for an unknown `gradient`, a number out of range, an option of a solver out of range, a backward solve
                with ``stop="motion"``, or an option that has no effect with another.
            TypeError: for an unknown option of a solver, or for `params` that are neither modules nor parameters.
        """
        super().__init__()
        check_choice("gradient", gradient, GRADIENTS)
        if phantom_steps < 1:
            raise ArgumentError(f"phantom_steps must be >= 1, got {phantom_steps}")
        if not 0 < tau <= 1:
            raise ArgumentError(f"tau must lie in (0, 1], got {tau}")
        if tau != 1 and gradient != "jfb" and n_states == 1:
            raise ArgumentError(f"tau = {tau} has no effect with gradient {gradient!r} and n_states 1; leave it at 1")
        if not callable(cell):
            raise ArgumentError(f"cell must be a module or a function of z and x, got {type(cell).__name__}")
        for name, chosen in (("solver", solver), ("backward_solver", backward_solver)):
            if chosen is not None or name == "solver":
                _check_solver(name, chosen)
        self.cell = cell
        self.modules_of_cell, self.parameters_of_cell = _registered(params)
        # Options out of range are told here and not at the first call.
        self.solver = as_solver(solver) or solver
        self.gradient = gradient
        self.backward_solver = as_solver(backward_solver or solver) or backward_solver or solver
        if gradient == "implicit":
            self.backward_solver = _backward_solver(self.backward_solver)
        self.phantom_steps = phantom_steps
        self.tau = tau
        self.n_states = n_states
        if n_states != 1:
            _check_states(n_states, gradient, self.solver, cuda_graphs)
        self.final_evaluation = final_evaluation
        self.graphs = SolveGraphs() if cuda_graphs else None
        self._watch = ConvergenceWatch(self.solver)
        self._learns = False
        """Whether an evaluation was seen to require a gradient although no known parameter does."""
        self._asks = params is None and not isinstance(cell, nn.Module)
        """Whether to ask, at the first recorded evaluation, for parameters that the cell closes over."""

    def forward(self, z0: Any, x: Any, max_iter: int | None = None) -> tuple[Any, Solution]:
        """
        Args:
            z0: `(B, ...)`, the start, or a structure of such tensors. It receives a gradient from ``"unrolled"`` alone: the
                fixed point does not depend on it.
            x: the injection, handed to the cell as it is.
            max_iter: the forward solver's budget in this call, in place of its own. 0 takes z0 as the solution: what is left
                is the final evaluation.

        Returns:
            the state, like z0, and the forward `Solution`, whose `adjoint` is filled once backward has run. Its `value` and
            `trajectory` have the structure of z0.

        Raises:
            ValueError: for a start of several batch sizes, dtypes or devices, and for a cell that returns another structure.
            TypeError: for a start that holds something else than tensors.
        """
        if torch.compiler.is_compiling() and not self._can_be_traced():
            from .compiled import with_compiled_cell  # imports the compiler, which is at work already

            return with_compiled_cell(self._on_structures, self.cell, z0, x, max_iter)
        return self._on_structures(self.cell, z0, x, max_iter)

    def _on_structures(self, cell: Cell, z0: Any, x: Any, max_iter: int | None) -> tuple[Any, Solution]:
        if isinstance(z0, Tensor):
            return self._run(cell, z0, x, max_iter, None)
        structure = Structure(z0)
        z, solution = self._run(PackedCell(cell, structure), structure.pack(z0), x, max_iter, structure)
        structure.unpack_solution(solution)
        return structure.unpack(z), solution

    def _can_be_traced(self) -> bool:
        """Whether a graph can hold the layer: an export, or a solve without polls that needs no backward solve."""
        if torch.compiler.is_exporting():
            return True
        polls = getattr(self.solver, "check_every", 1)
        return not polls and not (self.gradient == "implicit" and torch.is_grad_enabled())

    def _run(self, f: Cell, z0: Tensor, x: Any, max_iter: int | None, structure: Structure | None) -> tuple[Tensor, Solution]:
        """`forward` on a start `(B, ...)`, with f the cell on such states."""
        if torch.is_grad_enabled() and not torch.compiler.is_compiling() and z0.is_inference():
            z0 = z0.clone()  # autograd may not keep a tensor made in inference mode
        if self.gradient == "unrolled":
            with self._parts(x).one_solve():
                sol = self._iterate(f, z0, x, max_iter, structure)
                return (f(sol.value, x) if self.final_evaluation else sol.value), sol
        elsewhere = _recorded_elsewhere(z0)
        if self.graphs is not None and not elsewhere:
            solvers = [self.solver]
            if torch.is_grad_enabled() and self.gradient == "implicit":
                solvers.append(self.backward_solver)
            solve = partial(self._solve, f, max_iter=max_iter, structure=structure)
            key = None if structure is None else structure.key
            variant = (max_iter, self.gradient, self.phantom_steps, self.tau, self.final_evaluation, key)
            replayed = self.graphs(solve, self.cell, solvers, z0, x, variant)
            if replayed is not None:
                return replayed
        z, sol, adjoint = self._solve(f, z0, x, max_iter, structure)
        if z.requires_grad and max_iter != 0 and not elsewhere and not under_transform():
            self._watch(sol, self.cell)
        if adjoint is not None:
            return replace_gradient(z, adjoint, sol), sol
        if self.gradient == "jfb" and not torch.compiler.is_compiling():
            z = refuse_second_derivative(z, "DEQ(gradient='jfb')")
        return z, sol

    def _solve(
        self, f: Cell, z0: Tensor, x: Any, max_iter: int | None, structure: Structure | None
    ) -> tuple[Tensor, Solution, AdjointSolve | None]:
        """The solve without a graph, and the evaluations after it. An adjoint solve must then replace the gradient of z."""
        parts = self._parts(x)
        with parts.one_solve():
            recording = torch.is_grad_enabled() and not torch.compiler.is_exporting()
            seen = _Seen(f, self._marks(max_iter)) if recording and self.n_states > 1 else None
            with torch.no_grad():
                sol = self._iterate(seen or f, z0, x, max_iter, structure)
            if seen is not None:
                sol.states = tuple(self._phantom(f, state, x) for state in seen.states(sol.value))
            if self.gradient == "jfb":
                return (self._phantom(f, sol.value, x) if recording or self.final_evaluation else sol.value), sol, None
            if not recording:
                return (f(sol.value, x) if self.final_evaluation else sol.value), sol, None
            return self._tracked(f, sol, x, parts)

    def _tracked(self, f: Cell, sol: Solution, x: Any, parts: Parts) -> tuple[Tensor, Solution, AdjointSolve | None]:
        """The tracked evaluation at the solution, and the adjoint solve behind it."""
        z_star = sol.value.detach()
        if under_transform():  # torch.func does not let a tensor be marked for autograd
            z, pull_back = torch.func.vjp(lambda z: f(z, x), z_star)  # type: ignore[misc]
            with _plain_under_transform():
                return z, sol, AdjointSolve(z_star, lambda u: pull_back(u)[0], self.backward_solver)
        if not (self._learns or parts.parameters or any(_wanted(leaf) for leaf in pytree.tree_leaves(x))):
            # A frozen model: a graph that only ends in z* would be kept for nothing.
            z = f(z_star, x)
            if not z.requires_grad:
                return z, sol, None
            self._learns = True
        capturing = z_star.is_cuda and torch.cuda.is_current_stream_capturing()
        random = z_star.device if self.training and not capturing else None
        evaluation = Repeatable(f, x, parts.parameters, parts.dropouts, random)
        z_star.requires_grad_()
        z = f(z_star, x)
        if not z.requires_grad:  # a cell that ignores its state, and nothing else to differentiate
            return z, sol, None
        if self._asks:
            self._asks = False
            _ask_for_params(z, (z_star, *evaluation.inputs))
        checkpointed = saved_tensor_hooks() == CHECKPOINT
        pull_back = partial(pull_back_through, get_gradient_edge(z), z_star)
        return z, sol, AdjointSolve(z_star, pull_back, self.backward_solver, evaluation, checkpointed)

    def _phantom(self, f: Cell, z: Tensor, x: Any) -> Tensor:
        """The phantom steps from z."""
        for _ in range(self.phantom_steps):
            z = f(z, x) if self.tau == 1 else torch.lerp(z, f(z, x).to(z.dtype), self.tau)
        return z

    def _iterate(self, f: Cell, z0: Tensor, x: Any, max_iter: int | None, structure: Structure | None) -> Solution:
        if max_iter == 0:
            batch, device = z0.shape[0], z0.device
            unknown = torch.full((batch,), torch.inf, device=device)
            status = torch.full((batch,), int(Status.MAX_ITER), device=device)
            return Solution(z0, unknown, torch.zeros(batch, dtype=torch.int64, device=device), status)
        options: dict[str, Any] = {} if max_iter is None else {"max_iter": max_iter}
        if torch.compiler.is_exporting() and as_solver(self.solver) is not None:
            options |= {"check_every": 0, "compact": 0.0}  # an exported graph cannot wait for a result
        observe = getattr(self.solver, "observe", None)
        if structure is not None and observe is not None:
            options["observe"] = PackedObserve(observe, structure)
        with _plain_under_transform():
            return self.solver(Injected(f, x), z0, **options)

    def _parts(self, x: Any) -> Parts:
        # An injection may bring its own way to evaluate the cell, whose modules are not called then.
        return Parts(() if getattr(x, "calls_no_modules", False) else self.modules())

    def _marks(self, max_iter: int | None) -> list[int]:
        """After which evaluations a state is wanted."""
        budget = cast(solvers.Solver, self.solver).max_iter if max_iter is None else max_iter
        return [k * budget // self.n_states for k in range(1, self.n_states)]


class _Seen:
    """A cell that keeps what it returned in some of its evaluations, counted from 1."""

    def __init__(self, f: Cell, marks: list[int]) -> None:
        self.f, self.marks = f, marks
        self.calls = 0
        self.kept: dict[int, Tensor] = {}

    def __call__(self, z: Tensor, x: Any) -> Tensor:
        z = self.f(z, x)
        self.calls += 1
        if self.calls in self.marks:
            self.kept[self.calls] = z.detach()
        return z

    def states(self, solution: Tensor) -> list[Tensor]:
        """One for each mark; the solution for those beyond the end of the solve."""
        return [self.kept[mark].to(solution.dtype) if mark in self.kept else solution for mark in self.marks]


def _registered(params: Any) -> tuple[nn.ModuleList, nn.ParameterList]:
    """Modules and parameters as parts of a module, so that whoever asks it for its parameters gets them."""
    given = pytree.tree_leaves(list(params) if isinstance(params, Iterator) else params)
    modules, parameters = nn.ModuleList(), nn.ParameterList()
    for part in given:
        if isinstance(part, nn.Module):
            modules.append(part)
        elif isinstance(part, nn.Parameter):
            parameters.append(part)
        elif part is not None:
            raise TypeError(
                f"params must hold modules and parameters, got a {type(part).__name__}; make a tensor a torch.nn.Parameter, or "
                "give it in x"
            )
    return modules, parameters


def _ask_for_params(z: Tensor, known: tuple[Tensor, ...]) -> None:
    """Warns if a function's evaluation ends in tensors that nobody who asks the layer for its parameters will find."""
    found = list(leaves_behind(z, nodes_of(known)))
    if found:
        warnings.warn(
            f"the cell of this DEQ is a function that uses {len(found)} tensors which require a gradient and are no parameters "
            "of the DEQ: an optimizer over deq.parameters() will not train them, and to() and state_dict() pass them by; name "
            "the modules or parameters in DEQ(params=...), or say params=() if this is meant",
            UserWarning,
            stacklevel=8,
        )


def _wanted(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad


def _check_states(n_states: int, gradient: str, solver: Any, cuda_graphs: bool) -> None:
    if n_states < 1:
        raise ArgumentError(f"n_states must be >= 1, got {n_states}")
    if gradient == "unrolled":
        raise ArgumentError(
            f"n_states = {n_states} has no effect with gradient 'unrolled'; a solver with trajectory=True keeps every state"
        )
    known = as_solver(solver)
    if known is None:
        raise ArgumentError(f"n_states = {n_states} needs a solver of ldeq.solvers, whose budget is known")
    if n_states > known.max_iter:
        raise ArgumentError(f"n_states must be at most max_iter = {known.max_iter} of the solver, got {n_states}")
    if known.compact:
        raise ArgumentError(f"n_states = {n_states} needs compact = 0, got {known.compact}: a state is that of all samples")
    if cuda_graphs:
        raise ArgumentError(f"n_states = {n_states} needs cuda_graphs = False")


def _plain_under_transform() -> AbstractContextManager[object]:
    """Solves in plain PyTorch inside of torch.func, whose tensors have no memory that a compiled step could be given."""
    return use_backend("torch") if under_transform() else nullcontext()


def _backward_solver(chosen: Solver) -> Solver:
    solver = as_solver(chosen)
    if solver is None:
        return chosen
    if solver.stop == "motion":
        raise ArgumentError(
            "backward_solver cannot have stop='motion', whose tolerance is in units of the forward state; give it "
            "stop='relative' and a tol of its own"
        )
    # As documented of `backward_solver`; and nothing could reach the trajectory.
    return replace(solver, returns="f", trajectory=False)


def _recorded_elsewhere(tensor: Tensor) -> bool:
    """Whether a graph or a compiler is at work that this layer is part of."""
    return torch.compiler.is_compiling() or (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def _check_solver(name: str, chosen: Any) -> None:
    """
    Raises:
        ValueError: for what is no solver: its first call would fail, long after it was given.
    """
    kind = chosen.func if isinstance(chosen, partial) else chosen
    if isinstance(kind, type):
        raise ArgumentError(f"{name} must be a solver and not its class; write {kind.__name__}(...)")
    if not callable(chosen):
        raise ArgumentError(
            f"{name} must be Anderson(...), FixedPoint(...), Broyden(...) or a function of f and z0, got {chosen!r:.60}"
        )
