"""How often the tests launched which kernel, for the last lines of a run."""

from __future__ import annotations

import re
from collections import Counter

_ELEMENTS = re.compile(r"\b(float|double|half|bf16)\b")

counts: dict[tuple[str, str], Counter[str]] = {}
"""By compiler and architecture: launches by kernel."""


def note(compiler: str, architecture: str, launched: Counter[str]) -> None:
    counts.setdefault((compiler, architecture), Counter()).update(launched)


def lines() -> list[str]:
    """One line for each compiler, architecture and type of elements: how many kernels ran, and how often each of them."""
    out = []
    for (compiler, architecture), launched in counts.items():
        by_type: dict[str, Counter[str]] = {}
        for kernel, times in launched.items():
            found = _ELEMENTS.search(kernel)
            by_type.setdefault(found[1] if found else "all types", Counter())[kernel] += times
        for element, kernels in by_type.items():
            names: dict[str, list[int]] = {}
            for kernel, times in kernels.items():
                names.setdefault(kernel.partition("<")[0], []).append(times)
            each = ", ".join(f"{name} {len(times)} ({sum(times)})" for name, times in sorted(names.items()))
            out.append(f"{compiler} {architecture} {element}: {len(kernels)} kernels, {sum(kernels.values())} launches: {each}")
    return out
