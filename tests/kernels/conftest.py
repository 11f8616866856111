"""The kernels compiled ahead of time; tests/device runs them."""

import pytest

pytest.importorskip("triton", reason="the Triton kernels need triton; pip install triton")
