"""Imports run one way: nothing imports what is built on it, and no two modules need each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "ldeq"

# What stands on what; a part may import those to its left. `data` and `metrics` know nothing of models.
LEVELS = (
    {"_version", "errors", "startup", "spelling", "brief"},
    {"inputs", "files", "threads", "waiting"},
    {"ops", "data"},
    {"solvers", "metrics", "pose", "detection", "confidence"},
    {"face"},
    {"implicit", "compat"},
    {"models"},
    {"engine"},
    {"export", "label_files"},
    {"video"},
    {"landmarker", "web", "calibration"},
    {"cli"},
    {"__main__"},
)
WITHOUT_MODELS = {"data", "metrics", "ops", "solvers"}


def modules() -> dict[str, Path]:
    """Module names like ``solvers.loop``, each with its file."""
    paths = {path.relative_to(PACKAGE).with_suffix(""): path for path in PACKAGE.rglob("*.py")}
    return {".".join(p.parts).removesuffix(".__init__").removesuffix("__init__"): path for p, path in paths.items()}


def imports(name: str, path: Path, *, at_once: bool) -> Iterator[str]:
    """Modules of the package that a module imports: with `at_once` those that it needs to be imported itself."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in nodes(ast.parse(path.read_text()), at_once):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [part for part in package if part][: len([p for p in package if p]) + 1 - node.level]
            target = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                full = ".".join([*target, alias.name])
                yield full if full in ALL else ".".join(target)


def nodes(tree: ast.AST, at_once: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if at_once and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield node
        yield from nodes(node, at_once)


ALL = modules()


def level(part: str) -> int:
    return next(i for i, parts in enumerate(LEVELS) if part in parts)


def test_no_import_runs_upward() -> None:
    wrong = []
    for name, path in ALL.items():
        part = name.split(".")[0]
        if not part:
            continue
        for target in imports(name, path, at_once=False):
            other = target.split(".")[0]
            if other and other != part and level(other) >= level(part):
                wrong.append(f"{name} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_what_knows_nothing_of_models_imports_none() -> None:
    for name, path in ALL.items():
        if name.split(".")[0] in WITHOUT_MODELS:
            assert not {t.split(".")[0] for t in imports(name, path, at_once=False)} & {"models", "engine", "implicit", "video"}


def test_no_two_modules_need_each_other() -> None:
    graph = {name: {t for t in imports(name, path, at_once=True) if t and t != name} for name, path in ALL.items() if name}
    # A package's own file imports its modules, and they do not import it: names are taken from the modules.
    TopologicalSorter(graph).prepare()
