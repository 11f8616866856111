"""A file of JSON lines, one a picture, that several processes fill and that survives the death of any of them.

Each process appends to a part of its own, ``NAME.part-RANK-of-WORLD``. Who finishes last puts the parts together: ``NAME`` then
holds one line for each picture, in the order of the command. A line that was torn by the end of its writer counts for nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from ..engine.run_lock import NO_LOCKS, lock_file
from ..engine.settings import SettingsError
from ..files import FileError, cause, temporary_path

_WAIT = 0.05  # seconds between two tries to get a lock


class Line(NamedTuple):
    """Where the line of a picture stands.

    - `path`, `start`, `length`: file, offset and bytes, the line break included.
    - `faces`: how many were found; None if the picture could not be read.
    """

    path: Path
    start: int
    length: int
    faces: int | None


class JsonLines:
    """The lines of a command's pictures, as a context that holds this process's part.

    Args:
        target: the file.
        names: of all pictures of the command, in order, without repetition.
        about: what every line says besides, such as the model; lines that say something else are not continued.
        rank: which process this is.
        world: of how many.

    Raises:
        SettingsError: on entering, if the file is not from such a command, or another process fills the same part.
        FileError: if the part cannot be written.
    """

    def __init__(self, target: Path, names: Sequence[str], about: Mapping[str, str], rank: int = 0, world: int = 1) -> None:
        self.target, self.names, self.about = target, names, dict(about)
        self.rank, self.world = rank, world
        self.path = part_path(target, rank, world)
        self._file: BinaryIO | None = None

    def __enter__(self) -> JsonLines:
        self.lines()  # refuses what is not from such a command, before anything is made
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab")
        except OSError as error:
            raise FileError(f"cannot write {self.path}: {cause(error)}; choose another --jsonl") from error
        if not _try_lock(self._file):
            self._file.close()
            raise SettingsError(f"another process writes {self.path}; wait for it, or choose another --jsonl")
        whole = max((line.start + line.length for _, line in self._read(self.path)), default=0)
        self._file.truncate(whole)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Lets the part go."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def lines(self) -> dict[str, Line]:
        """The line of each picture that has one. A line with faces is worth more than one that says why there are none.

        Raises:
            SettingsError: for lines of another command.
        """
        known, found = set(self.names), dict[str, Line]()
        # The file itself comes last: parts vanish only after it has taken them in.
        for path in (*self._parts(), self.target):
            for name, line in self._read(path):
                if name not in known:
                    raise SettingsError(
                        f"{path} holds the picture {name[:200]}, which this command does not name; name the same pictures and "
                        "more, or choose another --jsonl"
                    )
                if name not in found or found[name].faces is None:
                    found[name] = line
        return found

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Appends lines, and hands them to the system.

        Args:
            records: each with ``image``, and ``faces`` or ``error``.

        Raises:
            FileError: if they cannot be written.
        """
        assert self._file is not None
        text = "".join(json.dumps({**record, **self.about}) + "\n" for record in records)
        try:
            self._file.write(text.encode())
            self._file.flush()
        except OSError as error:
            raise FileError(
                f"cannot write {self.path}: {cause(error)}; make room, and run the same command to go on"
            ) from error

    def finish(self) -> dict[str, Line] | None:
        """Lets the part go and, if every picture has its line and no other process goes on, puts the parts together.

        Returns:
            The lines of all pictures, or None where another process has to do that, or some pictures are missing.
        """
        self.close()
        with _waiting_lock(self.target.with_name(f"{self.target.name}.lock")):
            parts = self._parts()
            if any(_is_held(part) for part in parts):
                return None
            found = self.lines()
            if any(name not in found for name in self.names):
                return None
            if parts:
                self._merge(found)
                for part in parts:
                    part.unlink(missing_ok=True)
        return found

    def _parts(self) -> list[Path]:
        if not self.target.parent.is_dir():
            return []
        start = f"{self.target.name}.part-"
        return sorted(path for path in self.target.parent.iterdir() if path.name.startswith(start))

    def _read(self, path: Path) -> Iterator[tuple[str, Line]]:
        """The whole lines of a file; a part ends where one is damaged."""
        start = 0
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(open(path, "rb"))
            except FileNotFoundError:  # another process has put the parts together
                return
            for text in file:
                try:
                    record = json.loads(text)
                    name, faces = record["image"], record.get("faces")
                    count = None if faces is None else len(faces)
                    said = {key: record[key] for key in self.about}
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    name, count, said = None, None, {}
                if not isinstance(name, str) or not text.endswith(b"\n"):
                    if path == self.target:
                        raise SettingsError(f"{path} exists, and is not from ldeq predict --jsonl; choose another name")
                    return
                for key, value in self.about.items():
                    if said[key] != value:
                        raise SettingsError(
                            f"{path} was made with {key} {str(said[key])[:80]}, and not {value[:80]}; choose another --jsonl"
                        )
                yield name, Line(path, start, len(text), count)
                start += len(text)

    def _merge(self, found: Mapping[str, Line]) -> None:
        temporary = temporary_path(self.target)
        files: dict[Path, BinaryIO] = {}
        try:
            with contextlib.ExitStack() as stack, open(temporary, "xb") as out:
                for name in self.names:
                    line = found[name]
                    if line.path not in files:
                        files[line.path] = stack.enter_context(open(line.path, "rb"))
                    files[line.path].seek(line.start)
                    out.write(files[line.path].read(line.length))
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, self.target)
        except OSError as error:
            raise FileError(
                f"cannot write {self.target}: {cause(error)}; make room, and run the same command to go on"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


def part_path(target: Path, rank: int, world: int) -> Path:
    """Where one of several processes writes."""
    return target.with_name(f"{target.name}.part-{rank}-of-{world}")


def _try_lock(file: BinaryIO) -> bool:
    try:
        lock_file(file)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def _is_held(path: Path) -> bool:
    """Whether a living process writes a part."""
    try:
        with open(path, "r+b") as file:
            return not _try_lock(file)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _waiting_lock(path: Path) -> Iterator[None]:
    """One process at a time. The file is gone afterwards."""
    while True:
        with open(path, "ab") as file:
            if _try_lock(file) and _is_at(file, path):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
        time.sleep(_WAIT)


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file still lies at a path: its last holder may have deleted it meanwhile."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
