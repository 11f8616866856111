"""The schema of every operator, defined once for all backends.

Python defines the operators, and the native libraries only implement them: `_C` for the CPU and `_C_cuda` for CUDA, as
`torch.ops.ldeq.<name>`. The Triton kernels implement `torch.ops.ldeq.<name>_triton`. What the arguments mean is described where
the public functions are: `ldeq.ops.softargmax` and `ldeq.ops.solve_step`.
"""

from __future__ import annotations

import torch

_AXES = "float scale_x, float offset_x, float scale_y, float offset_y"
_STOP = "float tol, bool relative, bool batch_stop"

SCHEMAS: dict[str, str] = {
    "softargmax_forward": (
        f"(Tensor logits, Tensor? betas, float beta, float eps, {_AXES}, bool want_heatmap) "
        "-> (Tensor heatmap, Tensor xy, Tensor std, Tensor stats)"
    ),
    "softargmax_backward": (
        "(Tensor? grad_heatmap, Tensor? grad_xy, Tensor? grad_std, Tensor logits, Tensor? betas, float beta, Tensor stats, "
        f"{_AXES}) -> (Tensor grad_logits, Tensor grad_betas)"
    ),
    "heatmap_readout_forward": f"(Tensor heatmap, float eps, {_AXES}) -> (Tensor xy, Tensor std, Tensor stats)",
    "heatmap_readout_backward": f"(Tensor? grad_xy, Tensor? grad_std, Tensor heatmap, Tensor stats, {_AXES}) -> Tensor",
    "anderson_step": (
        "(Tensor x, Tensor[] f_ring, Tensor? evicted, Tensor(a!) g_ring, Tensor(b!) gram, Tensor(c!) measurements, "
        "Tensor(d!) flags, Tensor(e!) saved_best, Tensor(f!)? x_next, Tensor(g!)? x_cast, int slot, float beta, float ridge, "
        f"{_STOP}, bool safeguards) -> ()"
    ),
    "fixed_point_step": (
        "(Tensor x, Tensor f, Tensor? evicted, Tensor(a!) measurements, Tensor(b!) flags, Tensor(c!) saved_best, "
        f"Tensor(d!)? x_next, Tensor(e!)? x_cast, int slot, float beta, {_STOP}) -> ()"
    ),
    "best_so_far": "(Tensor[] ring, Tensor saved_best, Tensor start, Tensor flags) -> Tensor",
}


def define(namespace: str = "ldeq", suffix: str = "") -> torch.library.Library:
    """Defines every operator as `torch.ops.<namespace>.<name><suffix>`; they last as long as the object returned is kept."""
    library = torch.library.Library(namespace, "FRAGMENT")
    for name, schema in SCHEMAS.items():
        library.define(f"{name}{suffix}{schema}")
    return library


# Before any native library is loaded, and kept for the life of the process.
NATIVE = define()
TRITON = define(suffix="_triton")
