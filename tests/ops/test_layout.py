"""The columns of a solve's state have the same names and numbers in Python, Triton and C++."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ldeq.ops import layout

CSRC = Path(__file__).resolve().parents[2] / "csrc" / "layout.h"
MEASUREMENTS = ("RESIDUAL", "NORM", "FIRST_NORM", "LOWEST", "LAST", "MARK", "LIMIT", "MEASUREMENTS")
FLAGS = ("STATUS", "ITERATIONS", "ACTIVE", "BEST", "MIXED", "STALLED", "FLAGS")


def enum_of(name: str) -> dict[str, int]:
    """Members of a C++ enum as `UPPER_CASE` names."""
    if not CSRC.exists():
        pytest.skip("needs the source tree")
    found = re.search(rf"enum {name} : \w+ {{(.*?)}};", CSRC.read_text(), flags=re.DOTALL)
    assert found, f"csrc/layout.h has no enum {name}"
    members = [member.strip().removeprefix("k") for member in found[1].split(",")]
    return {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", member).upper(): i for i, member in enumerate(members)}


def constant_of(name: str) -> int:
    found = re.search(rf"\b{name} = (-?\d+)", CSRC.read_text())
    assert found, f"csrc/layout.h has no {name}"
    return int(found[1])


@pytest.mark.parametrize(("enum", "names"), [("Measurement", MEASUREMENTS), ("Flag", FLAGS)])
def test_columns_are_those_of_cpp(enum: str, names: tuple[str, ...]) -> None:
    assert enum_of(enum) == {name: getattr(layout, name) for name in names}


def test_statuses_and_places_are_those_of_cpp() -> None:
    assert {name.replace("_", ""): value for name, value in enum_of("Status").items()} == {
        status.name.replace("_", ""): status.value for status in layout.Status
    }
    assert (constant_of("kInSaved"), constant_of("kInStart")) == (layout.IN_SAVED, layout.IN_START)
    assert constant_of("kMaxHistory") == layout.MAX_HISTORY


def test_columns_are_those_of_triton() -> None:
    pytest.importorskip("triton")
    from ldeq.ops.triton_kernels import layout as triton_layout

    for name in (*MEASUREMENTS, *FLAGS, "IN_SAVED", "IN_START"):
        assert getattr(triton_layout, name).value == getattr(layout, name), name
    for status in ("CONVERGED", "DIVERGED", "NONFINITE"):
        assert getattr(triton_layout, status).value == layout.Status[status]
