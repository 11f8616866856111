"""Memory that a solve on a CPU hands to the next one.

The history of residuals is the largest thing that a solve allocates, and nobody but the solver sees it. The C library hands
memory of that size back to the system as soon as it is freed, so that the next solve would meet every page of it anew
(`benchmarks/NOTES.md` says what that costs). A CUDA device has PyTorch's caching allocator for this.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

# Bytes that a thread may hold between two solves. Where a history is larger, so is f, and the pages no longer count.
LIMIT = 128 << 20

# Solves of several threads, and a solve inside the f of another, each find memory of their own or none.
_released = threading.local()


def acquire(shape: Sequence[int], dtype: torch.dtype, like: Tensor) -> Tensor:
    """A tensor on the device of `like`, not initialised; in memory that `release` kept, where that is large enough."""
    storage: torch.UntypedStorage | None = getattr(_released, "storage", None)
    if storage is None or type(like) is not Tensor or like.device.type != "cpu":
        return like.new_empty(shape, dtype=dtype)
    if not 0 < math.prod(shape) * dtype.itemsize <= storage.nbytes():
        return like.new_empty(shape, dtype=dtype)
    _released.storage = None
    return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape))  # type: ignore[call-overload]


def release(t: Tensor) -> None:
    """Keeps the memory of `t`, of which no other tensor may be alive, for the next `acquire` of this thread."""
    # Fake tensors and the like have no memory to keep.
    if type(t) is not Tensor or t.device.type != "cpu":
        return
    storage, before = t.untyped_storage(), getattr(_released, "storage", None)
    if storage.nbytes() <= LIMIT and (before is None or before.nbytes() < storage.nbytes()):
        _released.storage = storage
