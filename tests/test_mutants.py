"""The faults that are put into the code on purpose still fit it: a list that fits nothing proves nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mutants.mutations import mutants_of, statement_at
from mutants.sabotages import SABOTAGES, Sabotage

ROOT = Path(__file__).parents[1]

SOURCE = '''
LIMIT = 3

def f(x: int | None, box):
    """Text with 5 in it."""
    if x is None:
        raise ValueError(f"{1 + 1}")
    total = 0
    for v, _ in zip(box, box, strict=True):
        if v < LIMIT and v > 0:
            total += v * 2
    box.append(total)
    print("told", 7)
    progress(8)
    name = "one" if total else "two"
    why = "there is no face" if total else f"there are {total} faces"
    return total
'''


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda s: s.name)
def test_a_fault_chosen_by_hand_fits_one_place_and_leaves_python(sabotage: Sabotage) -> None:
    text = (ROOT / sabotage.file).read_text()
    assert text.count(sabotage.old) == 1, f"mend {sabotage.name!r} in tools/mutants/sabotages.py"
    ast.parse(text.replace(sabotage.old, sabotage.new))


def test_faults_are_made_from_what_decides_and_not_from_what_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(SOURCE)
    found = {m.what for m in mutants_of(tmp_path, "m.py")}
    assert {
        "3 -> (4)",
        "x is None -> (x is not None)",
        "v < LIMIT and v > 0 -> (v < LIMIT or v > 0)",
        "v < LIMIT -> (v <= LIMIT)",
        "v > 0 -> (v >= 0)",
        "0 -> (1)",
        "v * 2 -> (v / 2)",
        "2 -> (3)",
        "total += v * 2 -> pass",
        "box.append(total) -> pass",
        '"one" if total else "two" -> (\'one\')',
    } <= found
    assert not any("True" in what for what in found)
    assert not any(word in what for what in found for word in ("told", "progress", "there", "5", "7", "8"))
    assert not any(what.startswith("1 + 1") for what in found)
    for mutant in mutants_of(tmp_path, "m.py"):
        ast.parse(mutant.text)
        assert mutant.text != SOURCE
        assert (mutant.function == "f") == (mutant.line > 3)


def test_a_fault_chosen_by_hand_runs_where_its_own_line_does(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(SOURCE)
    for mutant in mutants_of(tmp_path, "m.py"):
        assert statement_at(SOURCE, mutant.line) == (mutant.function, mutant.begin, mutant.end)
    assert statement_at("try:\n    a\nexcept E:\n    b\n", 4) == ("", 0, 0)
    assert statement_at("def f():\n    try:\n        a\n    except E:\n        b\n", 5) == ("f", 5, 5)
    assert statement_at("def f(x):\n    match x:\n        case 1:\n            b\n", 4) == ("f", 4, 4)


def test_broken_code_cannot_write_outside_of_its_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "kept").write_text("kept")
    program = f"""
import os, pathlib, subprocess, sys
from mutants.confinement import confine
if not confine([pathlib.Path({str(inside)!r})]):
    sys.exit("no Landlock")
inside, outside = pathlib.Path({str(inside)!r}), pathlib.Path({str(outside)!r})
(inside / "folder").mkdir()
(inside / "a").write_text("a")
(inside / "a").rename(inside / "folder" / "b")
(inside / "link").symlink_to(outside)
tries = [
    lambda: (outside / "kept").write_text("changed"),
    lambda: (inside / "link" / "kept").write_text("changed"),
    lambda: (outside / "kept").unlink(),
    lambda: (outside / "new").mkdir(),
    lambda: (inside / "folder" / "b").rename(outside / "b"),
    lambda: os.truncate(outside / "kept", 0),
    lambda: subprocess.run(["rm", outside / "kept"], check=True, stderr=subprocess.DEVNULL),
]
for number, attempt in enumerate(tries):
    try:
        attempt()
    except (OSError, subprocess.CalledProcessError):
        continue
    sys.exit(f"attempt {{number}} went through")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    if "no Landlock" in done.stderr:
        pytest.skip("this system has no Landlock")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in outside.iterdir()] == ["kept"] and (outside / "kept").read_text() == "kept"
