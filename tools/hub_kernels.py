"""Lays the Triton kernels out as a universal repository of Hugging Face's `kernels`.

    python tools/hub_kernels.py build/hub

The folder can be uploaded as it is. `kernels.get_kernel("OWNER/ldeq-kernels", version=1)` then gives the module, without an
installation of ldeq, a compiler or an autotuning at the first call.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = "ldeq_kernels"
VERSION = 1
MODULES = ("anderson", "fixed_point", "layout", "sample_state", "softargmax")

INTERFACE = '''"""Triton kernels of ldeq: heatmap soft-argmax, and the steps of Anderson mixing and of fixed-point iteration.

`softargmax` is differentiable. `anderson_step` and `fixed_point_step` write into the state of a solve; the modules of the same
names say what each argument is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import anderson, fixed_point
from . import softargmax as _softargmax

anderson_step = anderson.launch_step
fixed_point_step = fixed_point.launch_step

__all__ = ["anderson_step", "fixed_point_step", "softargmax"]


class _SoftArgmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, beta: float, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        axes = (1 / logits.shape[3], 0.0, 1 / logits.shape[2], 0.0)
        heatmap, xy, std, stats = _softargmax.launch_forward(logits, beta, eps, axes, True)
        ctx.save_for_backward(logits, stats)
        ctx.beta, ctx.axes = beta, axes
        return heatmap, xy, std

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits, stats = ctx.saved_tensors
        given = (grad.contiguous() for grad in grads)
        grad, _ = _softargmax.launch_backward(*given, logits, ctx.beta, stats, ctx.axes)
        return grad, None, None


def softargmax(logits: Tensor, beta: float = 1.0, eps: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Heatmap, expected place and its standard deviation.

    Args:
        logits: `(B, K, H, W)`, float32, float16 or bfloat16, any strides.
        beta: inverse temperature, multiplies the logits.
        eps: added to the sum of each map.

    Returns:
        heatmap `(B, K, H, W)` of peak 1, xy `(B, K, 2)` in column / W and row / H, std `(B, K)` in the unit of x.

    Raises:
        TypeError: for another type.
        ValueError: for another shape.
    """
    if logits.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(f"logits must be float32, float16 or bfloat16, got {logits.dtype}")
    if logits.ndim != 4 or 0 in logits.shape[2:]:
        raise ValueError(f"logits must have shape (B, K, H, W), got {tuple(logits.shape)}")
    return _SoftArgmax.apply(logits, float(beta), float(eps))
'''

# Older versions of `kernels` look for a folder with the name of the repository.
OLDER = '''"""The same module, for older versions of `kernels`."""

import importlib.util
import sys
from pathlib import Path

_name = f"{__name__}_root"
_spec = importlib.util.spec_from_file_location(_name, Path(__file__).parents[1] / "__init__.py")
_module = importlib.util.module_from_spec(_spec)
sys.modules[_name] = _module
_spec.loader.exec_module(_module)
globals().update({name: getattr(_module, name) for name in _module.__all__})
__all__ = _module.__all__
'''

BUILD = f'''[general]
name = "{NAME}"
version = {VERSION}
license = "apache-2.0"
universal = true
backends = ["cuda", "rocm"]
'''

CARD = """---
license: apache-2.0
tags: [kernels, triton]
---

# ldeq kernels

Triton kernels for deep equilibrium models and heatmap landmarks: `softargmax` (forward and backward in one pass each),
`anderson_step`, `fixed_point_step`. Launch shapes come from a table, so that the first call is as fast as the last.

```python
from kernels import get_kernel

ldeq = get_kernel("OWNER/ldeq-kernels", version=1)
heatmap, xy, std = ldeq.softargmax(logits, beta=0.3, eps=1e-4)
```

They have been tested in Triton's interpreter and compiled ahead of time, not yet on a GPU.
"""


def write(out: Path) -> Path:
    """Writes the repository into a new folder.

    Args:
        out: the folder; it must not exist.

    Returns:
        The folder of the module.
    """
    if out.exists():
        raise SystemExit(f"{out} exists; choose a new folder")
    source, built = out / "torch-ext" / NAME, out / "build" / "torch-universal"
    for folder in (source, built):
        folder.mkdir(parents=True)
        for module in MODULES:
            shutil.copy(ROOT / "kernels" / f"{module}.py", folder)
        (folder / "__init__.py").write_text(INTERFACE)
    (built / NAME).mkdir()
    (built / NAME / "__init__.py").write_text(OLDER)
    about = {"version": VERSION, "license": "apache-2.0", "backend": {"type": "universal"}, "python-depends": []}
    (built / "metadata.json").write_text(json.dumps(about, indent=1) + "\n")
    (out / "build.toml").write_text(BUILD)
    (out / "README.md").write_text(CARD)
    shutil.copy(ROOT / "LICENSE", out)
    return built


if __name__ == "__main__":
    print(f"wrote {write(Path(sys.argv[1])).parents[1]}")
