"""The layer under `torch.compile`: the solve stays in Python, and its cell is compiled.

How often a solve evaluates its cell is known only when it runs, so that no graph can hold the solve. What can be compiled, and
what takes the time, is the cell: one graph, used by every evaluation. A solve with ``check_every=0`` has a fixed number of
evaluations. It is traced into the graph around it, if no backward solve is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

try:
    from torch._C._dynamo.eval_frame import get_eval_frame_callback, set_eval_frame
except ImportError:  # another version of PyTorch: the cell then runs as it is
    get_eval_frame_callback = None  # type: ignore[assignment]

REASON = (
    "the solve of a DEQ stops when it has converged, which no graph can hold; compile without fullgraph=True (the cell then "
    "becomes one graph), or compile the cell alone with deq.cell.compile(fullgraph=True)"
)


def with_compiled_cell(run: Callable[..., Any], cell: Any, *args: Any) -> Any:
    """run(cell, *args) in Python, with a cell that the compiler at work around this call compiles."""
    return _run(run, cell, *args)


def _run_uncompiled(run: Callable[..., Any], cell: Any, *args: Any) -> Any:
    if get_eval_frame_callback is None:
        return run(cell, *args)
    callback = get_eval_frame_callback()
    set_eval_frame(None)
    try:
        return run(_Compiled(cell, callback), *args)
    finally:
        set_eval_frame(callback)


# Not recursive: that would hide which compiler is at work.
_run = torch.compiler.disable(_run_uncompiled, recursive=get_eval_frame_callback is None, reason=REASON)


class _Compiled:
    """A cell that a compiler looks at, called from code that it does not."""

    def __init__(self, cell: Any, callback: Any) -> None:
        self.cell, self.callback = cell, callback

    def __call__(self, z: Any, x: Any) -> Any:
        set_eval_frame(self.callback)
        try:
            return self.cell(z, x)
        finally:
            set_eval_frame(None)
