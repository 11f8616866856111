"""The native libraries of this installation: what is in them, where they load, and what is said where they cannot."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ldeq
from ldeq.ops import library

PACKAGE = Path(ldeq.__file__).parent
LIBRARIES = [path for path in (PACKAGE / "_C.so", PACKAGE / "_C_cuda.so") if path.exists()]
OPERATORS = [
    "softargmax_forward",
    "softargmax_backward",
    "heatmap_readout_forward",
    "heatmap_readout_backward",
    "anderson_step",
    "fixed_point_step",
    "best_so_far",
]


@pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: path.name)
def test_a_library_serves_every_python_and_names_no_machine(path):
    content = path.read_bytes()
    assert path.stat().st_size < 6e6
    assert b"Py_Initialize" not in content and b"PyObject" not in content
    # Torch's headers are quoted in errors, by their names alone.
    assert re.search(rb"/[\w./-]+/torch/(csrc|headeronly)/", content) is None
    # By this one the symbols of a CUDA build of torch are found.
    assert path.name == "_C.so" or b"\0libtorch.so\0" in content


@pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: path.name)
def test_a_library_is_stable_abi_from_torch_2_10(path):
    folders = (str(Path(sys.executable).parent), os.environ.get("PATH", ""))
    audit = shutil.which("torch-abi-audit", path=os.pathsep.join(folders))
    if audit is None or shutil.which("nm") is None:
        pytest.skip("torch-abi-audit, or nm of the binutils, is not installed")
    said = subprocess.run([audit, "--check", "torch", str(path)], capture_output=True, text=True)
    assert said.returncode == 0 and "2.10" in said.stdout, said.stdout + said.stderr


def test_a_library_of_another_state_of_the_package_is_not_loaded(monkeypatch):
    if not LIBRARIES:
        pytest.skip("this installation has no compiled library")
    assert library.build_report()["interface"] == library.interface()
    for report in ({"cpu": "built"}, {"cpu": "built", "interface": "0" * 16}):
        monkeypatch.setattr(library, "build_report", lambda report=report: report)
        assert "build it anew" in (library._load(LIBRARIES[0].name) or "it was loaded")


def test_every_symbol_is_in_this_torch_and_every_operator_has_its_kernels():
    """Also in a CPU build of torch, which loads the CUDA kernels and never calls them."""
    keys = [key for key, path in (("CPU", "_C.so"), ("CUDA", "_C_cuda.so")) if PACKAGE / path in LIBRARIES]
    code = (
        f"import torch; [torch.ops.load_library(str(p)) for p in {[str(p) for p in LIBRARIES]}]; "
        "has = torch._C._dispatch_has_kernel_for_dispatch_key; "
        f"print([(n, k) for n in {OPERATORS} for k in {keys} if not has('ldeq::' + n, k)])"
    )
    # Lazy binding would hide a missing symbol until it is called.
    environment = {**os.environ, "LD_BIND_NOW": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_configuration_says_what_is_inside(capsys):
    found = ldeq.show_config()
    assert capsys.readouterr().out.splitlines()[0].split()[-1] == found["sources"]
    assert (found["cpu runs"] == "yes") == (library.MISSING is None)
    assert (found["cuda runs"] == "yes") == (library.CUDA_MISSING is None)
    if PACKAGE / "_C_cuda.so" in LIBRARIES:
        assert "nvcc" in found["cuda"] and "driver" in found["cuda needs"]
    assert ldeq.show_config(verbose=False) == found and capsys.readouterr().out == ""


REPORT = {"cuda_archs": "7.5 8.0 9.0 12.0+PTX", "toolkit": "13.0"}


@pytest.mark.parametrize(
    ("driver", "gpus", "says"),
    [
        (13000, [(9, 0)], None),
        (13010, [(8, 6)], None),  # machine code of 8.0 serves all of 8.x
        (13000, [(12, 1)], None),
        (13000, [(15, 0)], None),  # by PTX
        (13000, None, None),
        (13000, [(7, 0), (9, 0)], None),
        (13000, [(7, 0)], "no kernel image for a GPU of compute capability 7.0"),
        (13000, [(11, 0)], "compute capability 11.0"),
        (13000, [], "no NVIDIA GPU"),
        (12080, [(9, 0)], "need a driver for CUDA 13.0 (driver 580 or newer), and this one serves CUDA 12.8"),
        (None, None, "no NVIDIA driver"),
    ],
)
def test_where_cuda_kernels_can_run(driver, gpus, says):
    reason = library.unsupported(REPORT, driver, gpus)
    assert (reason is None) if says is None else (reason is not None and says in reason)


def test_cuda_kernels_need_a_cuda_build_of_torch(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "without CUDA" in str(library._load_cuda())


def test_capabilities_are_read_from_the_management_library():
    class Nvml:
        """Two GPUs, of 8.6 and 9.0."""

        def nvmlDeviceGetCount_v2(self, count):
            count._obj.value = 2
            return 0

        def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
            handle._obj.value = index + 1
            return 0

        def nvmlDeviceGetCudaComputeCapability(self, handle, major, minor):
            major._obj.value, minor._obj.value = ((8, 6), (9, 0))[handle.value - 1]
            return 0

    assert library._capabilities(Nvml()) == [(8, 6), (9, 0)]

    class Unknown(Nvml):
        def nvmlDeviceGetCount_v2(self, count):
            return 3

    assert library._capabilities(Unknown()) is None
