"""Writes a `build.ninja` for a table of units and runs ninja, which compiles what has changed and no more."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .errors import BuildError
from .toolchain import ROOT

# Of a compiler, and of a linker.
_ERROR = re.compile(r"\berror\b|cannot find|undefined reference", re.IGNORECASE)


@dataclass(frozen=True)
class Unit:
    """One source file and the flags that it has besides those of its target."""

    source: Path
    flags: Sequence[str] = ()


@dataclass(frozen=True)
class Target:
    """A library or a program: the command that compiles each unit, and the one that links the objects.

    Args:
        name: the file's name.
        compile: the compiler and the flags that all units share; `Unit.flags`, source and object follow them.
        units: what is compiled.
        link: the linker's command up to the objects.
        libraries: what follows the objects.
    """

    name: str
    compile: Sequence[str]
    units: Sequence[Unit]
    link: Sequence[str]
    libraries: Sequence[str] = field(default=())

    @property
    def rule(self) -> str:
        return self.name.split(".")[0]

    def lines(self, folder: Path) -> list[str]:
        """This target in ninja's language, its objects and itself in `folder`."""
        lines = [
            f"rule compile_{self.rule}",
            f"  command = {_shell(self.compile)} $flags -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = $in",
            "",
            f"rule link_{self.rule}",
            f"  command = {_shell(self.link)} $in {_shell(self.libraries)} -o $out",
            "  description = $out",
            "",
        ]
        objects = []
        for unit in self.units:
            # Two targets may compile one source, each in its own way.
            source = unit.source.relative_to(ROOT) if unit.source.is_relative_to(ROOT) else Path(unit.source.name)
            target = folder / "objects" / self.rule / source.with_suffix(".o")
            objects.append(_path(target))
            lines += [f"build {objects[-1]}: compile_{self.rule} {_path(unit.source)}", f"  flags = {_shell(unit.flags)}"]
        return [*lines, f"build {_path(folder / self.name)}: link_{self.rule} {' '.join(objects)}", ""]


def build(targets: Sequence[Target], folder: Path) -> None:
    """Compiles and links `targets` into `folder`, whose `build.ninja` says how; files that are up to date stay.

    Raises:
        BuildError: there is no ninja, or a command failed; the message quotes the first error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["ninja_required_version = 1.8", f"builddir = {_path(folder)}", ""]
    for target in targets:
        lines += target.lines(folder)
    file = folder / "build.ninja"
    text = "\n".join(lines)
    if not file.exists() or file.read_text() != text:
        file.write_text(text)
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    # From the root, so that objects name their sources as csrc/...; messages and asserts quote those names.
    command = [_ninja(), "-f", str(_relative(file)), "-j", jobs]
    said = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            said.append(line.rstrip("\n"))
            # Progress; gcc 12 has thousands of wrong warnings for its own header of AVX-512.
            if line.startswith("["):
                print(line, end="", flush=True)
    if process.returncode:
        print(*said, sep="\n")
        raise BuildError(_first_error(said))


def compile_commands(targets: Sequence[Target], folder: Path) -> str:
    """The contents of a `compile_commands.json`, by which editors know how each file is compiled."""
    rules = [f"compile_{target.rule}" for target in targets]
    command = [_ninja(), "-f", str(_relative(folder / "build.ninja")), "-t", "compdb", *rules]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _ninja() -> str:
    """The program of the PyPI package, or the system's."""
    try:
        from ninja import BIN_DIR
    except ImportError:
        BIN_DIR = ""
    found = shutil.which("ninja", path=BIN_DIR or None) or shutil.which("ninja")
    if found is None:
        raise BuildError("the build saw no ninja; pip install ninja, then use pip install --no-build-isolation")
    return found


def _first_error(lines: list[str]) -> str:
    """One line for what ninja printed: ``FAILED: object``, the command, then what the compiler said of it."""
    failed = next((i for i, line in enumerate(lines) if line.startswith("FAILED:")), None)
    if failed is None:
        return f"ninja failed: {next((line for line in lines if 'error' in line), 'it said nothing')}"
    command, said = shlex.split(lines[failed + 1])[0], lines[failed + 2 :]
    first = next((line for line in said if _ERROR.search(line)), said[0] if said else "it said nothing")
    return f"the compiler failed ({Path(command).name}): {first}"


def _relative(path: Path) -> Path:
    """From the root, where it lies below it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def _path(path: Path) -> str:
    """As a path of a build line, where ninja would take a space or a colon for its own."""
    return re.sub(r"([$ :])", r"$\1", str(_relative(path)))


def _shell(words: Sequence[str]) -> str:
    return shlex.join(words).replace("$", "$$")
