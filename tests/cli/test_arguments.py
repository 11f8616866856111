"""What is said of arguments where no torch is loaded, against what the commands do."""

from __future__ import annotations

import ast
from pathlib import Path

import ldeq.calibration
from ldeq.cli import arguments
from ldeq.cli.arguments.calibrate import CalibrateArguments

FOLDER = Path(arguments.__file__).parent


def test_the_default_count_of_calibration_faces_is_that_of_the_library() -> None:
    assert CalibrateArguments.faces == ldeq.calibration.MOST


def test_every_module_of_arguments_belongs_to_one_that_runs_them() -> None:
    for path in FOLDER.glob("[!_]*.py"):
        tree = ast.parse((FOLDER.parent / path.name).read_text())
        run = {
            base.id for node in tree.body if isinstance(node, ast.ClassDef) for base in node.bases if isinstance(base, ast.Name)
        }
        read = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)}
        assert read - run <= {"DataArguments"}, f"{read - run} of {path.name} is run by nothing"
