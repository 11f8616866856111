"""The suite of solve steps on the CUDA kernels, built for the CPU."""

from __future__ import annotations

import re

import pytest
from native import step_arguments
from solve_step_suite import *  # noqa: F403


@pytest.mark.parametrize("changes", [{"slot": 1}, {"f_ring": []}, {"gram": None}], ids=str)
def test_errors_are_those_of_the_cpu_operator(target, changes, cpu_operators):
    if changes.get("gram", 0) is None:
        changes = {"gram": step_arguments()[4][:, :2]}
    said = []
    for operators in (target.operator("anderson_step"), cpu_operators.anderson_step):
        with pytest.raises(RuntimeError) as error:
            operators(*step_arguments(**changes))
        said.append(re.sub(r"^.*?\.h:\d+, ", "", str(error.value).splitlines()[0]))
    assert said[0] == said[1]
