"""Capturing work on a CUDA device once and replaying it, so that its launches cost the host next to nothing.

What is captured reads and writes the same memory at every replay: inputs are copied into place before, outputs out of it
after. Nothing here knows of solves; `ldeq.implicit.graphs` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

# Lazy initialisations (cuBLAS handles, cuDNN plans, autotuned kernels) must not fall into a capture; PyTorch's own
# make_graphed_callables runs as many.
WARM_UPS = 3

Outputs = Sequence[Tensor | None]


class Recorder(Protocol):
    """What records and replays; on a CUDA device `CudaRecorder`."""

    def warm_up(self, run: Callable[[], Outputs]) -> None: ...

    def capture(self, run: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        """Records `run`; returns its outputs, whose memory is written by every call of the function returned with them."""
        ...


class CudaRecorder:
    """CUDA graphs that share one pool of memory, which nothing else allocates from.

    Graphs of one recorder must be replayed in the order in which they were captured: memory that one is done with is used by
    the next.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool = torch.cuda.graph_pool_handle()

    def warm_up(self, run: Callable[[], Outputs]) -> None:
        with torch.cuda.device(self.device):
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    run()
            current.wait_stream(side)

    def capture(self, run: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls are watched: others, such as one that pins memory for a loader, go on meanwhile.
        with (
            torch.cuda.device(self.device),
            torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"),
        ):
            outputs = run()
        return outputs, graph.replay


def recorder_for(device: torch.device) -> Recorder | str:
    """A recorder for a device, or why it has none."""
    if device.type != "cuda":
        return f"the state is on {device}, and only CUDA devices have graphs"
    if not hasattr(torch.cuda, "CUDAGraph") or torch.version.cuda is None:
        return "this build of PyTorch has no CUDA graphs"
    return CudaRecorder(device)
