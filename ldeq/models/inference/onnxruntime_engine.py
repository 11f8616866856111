"""The folded network by onnxruntime: one session for the injection term, one for an evaluation.

The solver stays ldeq's own, with its stop, its status and its history, since it calls an evaluation at a time.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .folded import Folded, evaluation, injection_term


@lru_cache(maxsize=1)
def onnxruntime_missing() -> str | None:
    """Why this engine cannot run, or None."""
    for package in ("onnx", "onnxruntime"):
        try:
            import_module(package)
        except ImportError as error:
            return f"{package} cannot be imported ({error}); run: pip install 'ldeq[onnxruntime]'"
    return None


class OnnxRuntimeEngine:
    """Sessions with `threads` threads each."""

    def __init__(self, folded: Folded, threads: int) -> None:
        from .onnx_graph import FLOAT, OnnxGraph

        h, landmarks, width = folded.head.size, folded.head.kernel.shape[0], folded.injection.kernel.shape[0]
        images, state, term = ("batch", 3, 4 * h, 4 * h), ("batch", landmarks, h, h), ("batch", width, h, h)
        graph = OnnxGraph()
        graph.op("Identity", injection_term(graph, folded, "images"), output="term")
        self._stem = open_session(graph.model([("images", FLOAT, images)], [("term", FLOAT, term)]), threads)
        graph = OnnxGraph()
        graph.op("Identity", evaluation(graph, folded, "z0", "term"), output="z")
        self._cell = open_session(graph.model([("z0", FLOAT, state), ("term", FLOAT, term)], [("z", FLOAT, state)]), threads)

    def term(self, images: Tensor) -> Tensor:
        (term,) = self._stem.run(None, {"images": images.contiguous().numpy()})
        return torch.from_numpy(term)

    def evaluate(self, z: Tensor, term: Tensor) -> Tensor:
        (found,) = self._cell.run(None, {"z0": z.contiguous().numpy(), "term": term.numpy()})
        return torch.from_numpy(found)


def open_session(model: Any, threads: int) -> Any:
    """A session of onnxruntime on the CPU, for an `onnx.ModelProto`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin between two evaluations take the cores from the solver, the filter and the video's decoder.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
