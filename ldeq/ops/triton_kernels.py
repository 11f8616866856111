"""The Triton kernels as typed modules. This file imports Triton, so `triton_library` imports it at the first launch.

The folder kernels/ lies beside ldeq/ in the source tree and is installed as `ldeq.kernels` (setup.py). Type checkers and
editors read the source tree, so they find it under its own name.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernels import anderson, fixed_point, layout, sample_state, softargmax
else:
    from ldeq.kernels import anderson, fixed_point, layout, sample_state, softargmax

__all__ = ["anderson", "fixed_point", "layout", "sample_state", "softargmax"]
