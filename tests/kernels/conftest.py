"""Runs the Triton kernels in Triton's interpreter, which must be chosen before they are imported."""

import os

import pytest

# Without this a machine with a GPU would compile them instead, and one without could not run them at all.
os.environ["TRITON_INTERPRET"] = "1"

pytest.importorskip("triton", reason="the Triton kernels need triton; pip install triton")
