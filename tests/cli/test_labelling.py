"""`ldeq predict --jsonl`: a data set is labelled once, whatever ends the command and however many processes share it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ldeq.cli import main
from ldeq.cli.json_lines import JsonLines, part_path

Refused = Callable[..., str]


def pictures(folder: Path, count: int) -> list[str]:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i:04d}.png"), rng.integers(0, 255, (24, 24, 3), np.uint8))
    return [str(folder / f"{i:04d}.png") for i in range(count)]


def command(folder: Path, weights: Path, target: Path, *more: str) -> list[str]:
    options = ["--cropped", "--model", str(weights), "--device", "cpu", "--jsonl", str(target)]
    return ["predict", str(folder), *options, "--batch", "16", *more]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers(record: dict[str, Any]) -> np.ndarray:
    return np.array(record["faces"][0]["points"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures(tmp_path / "faces", 40)
    return tmp_path / "faces"


def start(arguments: list[str], **environment: str) -> subprocess.Popen[bytes]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen([sys.executable, "-m", "ldeq", *arguments], env=settings, **quiet)  # type: ignore[call-overload]


def test_a_thousand_pictures_survive_kills_without_a_double_or_a_gap(tmp_path: Path, weights: Path) -> None:
    names, target = pictures(tmp_path / "many", 1000), tmp_path / "labels.jsonl"
    part = part_path(target, 0, 1)
    kept = 0
    for stop_at in (150, 500):
        process = start(command(tmp_path / "many", weights, target))
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if part.exists() and part.read_bytes().count(b"\n") >= stop_at:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not target.exists()
        lines = part.read_bytes().count(b"\n")
        assert kept < stop_at <= lines < 1000
        # What was written before the kill is not written again.
        kept = lines
        # A kill may tear a line.
        with part.open("ab") as file:
            file.write(b'{"image": "' + names[-1].encode() + b'", "faces": [')
    before = part.read_bytes().splitlines()[:kept]
    assert main(command(tmp_path / "many", weights, target)) == 0
    after = target.read_bytes().splitlines()
    assert [json.loads(line)["image"] for line in after] == names
    assert after[:kept] == before
    assert [p.name for p in tmp_path.glob("labels*")] == ["labels.jsonl"]
    # And they are what one picture after another gives.
    assert main(command(tmp_path / "many" / "00*.png", weights, tmp_path / "plain.jsonl", "--batch", "1")) == 0
    for one, other in zip(read(target)[:100], read(tmp_path / "plain.jsonl"), strict=True):
        assert one["image"] == other["image"]
        np.testing.assert_allclose(numbers(one), numbers(other), atol=0.011)  # hundredths, and batched rounding


def test_processes_share_the_pictures_and_the_last_one_writes_the_file(
    folder: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "labels.jsonl"
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank, share in ((1, 13), (0, 14)):
        monkeypatch.setenv("RANK", str(rank))
        assert main(command(folder, weights, target)) == 0
        assert len(read(part_path(target, rank, 3))) == share
        assert not target.exists()
    # The third one was lost. Two go on, of which one has another part of what is left.
    part_path(target, 2, 3).write_text('{"image": "torn')
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = {record["image"] for rank in (0, 1) for record in read(part_path(target, rank, 3))}
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        assert main(command(folder, weights, target)) == 0
        if rank == 0:
            assert not {record["image"] for record in read(part_path(target, 0, 2))} & done
    assert [record["image"] for record in read(target)] == sorted(map(str, folder.iterdir()))
    assert not list(tmp_path.glob("labels.jsonl.*"))


def test_torchrun_labels_every_picture_once(folder: Path, tmp_path: Path, weights: Path) -> None:
    target = tmp_path / "labels.jsonl"
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ldeq"]
    done = subprocess.run([*run, *command(folder, weights, target)], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert [record["image"] for record in read(target)] == sorted(map(str, folder.iterdir()))
    assert not list(tmp_path.glob("labels.jsonl.*"))


def test_a_picture_that_comes_later_is_added_and_nothing_is_done_twice(
    folder: Path, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "labels.jsonl"
    (folder / "broken.png").write_bytes(b"no picture")
    assert main(command(folder, weights, target)) == 2
    assert "1 could not be read" in capsys.readouterr().out
    first = read(target)
    assert [r["image"] for r in first if "error" in r] == [str(folder / "broken.png")]
    pictures(folder, 41)
    cv2.imwrite(str(folder / "broken.png"), np.zeros((24, 24, 3), np.uint8))
    lines = target.read_bytes().splitlines()
    assert main(command(folder, weights, target)) == 0
    after = read(target)
    assert [r["image"] for r in after] == sorted(map(str, folder.iterdir()))
    assert all("faces" in r for r in after)
    assert set(target.read_bytes().splitlines()) > set(lines[:-1])
    # With nothing left to do not even the model is read.
    assert main(command(folder, weights, target)) == 0
    assert read(target) == after


def test_each_line_says_what_made_it(folder: Path, tmp_path: Path, weights: Path) -> None:
    target = tmp_path / "deep" / "labels.jsonl"
    assert main(command(folder, weights, target)) == 0
    record = read(target)[0]
    assert (record["model"], record["boxes"], record["width"], record["height"]) == (str(weights), "cropped", 24, 24)
    assert set(record["faces"][0]) == {"box", "points", "std", "deviation", "score", "pose", "openings"}


def test_what_is_no_file_of_this_command_is_not_touched(folder: Path, tmp_path: Path, weights: Path, refused: Refused) -> None:
    target = tmp_path / "labels.jsonl"
    for content in ("my notes\n", '{"a": 1}\n', '{"image": "x.png", "faces": [], "model": "m", "boxes": "detector"}', "[1]\n"):
        target.write_text(content)
        assert "is not from ldeq predict --jsonl" in refused(*command(folder, weights, target))
        assert target.read_text() == content
    assert [p.name for p in tmp_path.glob("labels*")] == ["labels.jsonl"]
    target.unlink()
    assert main(command(folder, weights, target)) == 0
    before = target.read_bytes()
    more = command(folder, weights, target)
    assert "was made with boxes cropped, and not detector" in refused(*[a for a in more if a != "--cropped"])
    pictures(tmp_path / "others", 2)
    assert "which this command does not name" in refused(*command(tmp_path / "others", weights, target))
    assert target.read_bytes() == before
    for option, value in (("-o", "x"), ("--json", "x.json"), ("--labels", "x.csv")):
        assert "leave out --" in refused(*command(folder, weights, tmp_path / "b.jsonl", option, str(tmp_path / value)))
    assert "is the picture" in refused(*command(folder, weights, folder / "0003.png"))
    for size in ("0", "-1", "100000"):
        assert "--batch must lie between 1 and 4096" in refused("predict", folder, "--batch", size)


def test_several_processes_without_jsonl_are_refused(folder: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would draw and write all pictures, over the files of the others."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "share the pictures with --jsonl FILE alone" in refused("predict", folder, "--cropped")


def test_two_writers_of_one_part_are_refused(folder: Path, tmp_path: Path, weights: Path, refused: Refused) -> None:
    target = tmp_path / "labels.jsonl"
    with JsonLines(target, [], {}):
        assert "another process writes" in refused(*command(folder, weights, target))


def test_a_running_process_keeps_the_others_from_ending_the_file(tmp_path: Path) -> None:
    target, names = tmp_path / "a.jsonl", ["x", "y"]
    with JsonLines(target, names, {}, 0, 2) as running:
        with JsonLines(target, names, {}, 1, 2) as other:
            other.add([{"image": "x", "faces": []}, {"image": "y", "error": "it is gone"}])
        assert other.finish() is None
        running.add([{"image": "y", "faces": []}])
    found = running.finish()
    assert found is not None
    assert read(target) == [{"image": "x", "faces": []}, {"image": "y", "faces": []}]


def test_batches_draw_and_write_what_single_pictures_do(folder: Path, tmp_path: Path, weights: Path) -> None:
    base = ["predict", str(folder), "--cropped", "--model", str(weights), "--device", "cpu"]
    (folder / "0005.png").write_bytes(b"broken")
    for size in ("1", "7"):
        out = tmp_path / size
        assert main([*base, "--batch", size, "-o", str(out / "drawn"), "--json", str(out / "all.json")]) == 2
    assert {p.name for p in (tmp_path / "1" / "drawn").iterdir()} == {p.name for p in (tmp_path / "7" / "drawn").iterdir()}
    one, seven = (json.loads((tmp_path / size / "all.json").read_text())["images"] for size in ("1", "7"))
    assert [r["image"] for r in one] == [r["image"] for r in seven]
    assert len(one) == 39
    for a, b in zip(one, seven, strict=True):
        np.testing.assert_allclose(numbers(a), numbers(b), atol=0.011)


def test_a_box_outside_one_picture_leaves_the_rest_of_its_batch(folder: Path, tmp_path: Path, weights: Path) -> None:
    for i in (0, 1, 3):
        cv2.imwrite(str(folder / f"{i:04d}.png"), np.zeros((400, 400, 3), np.uint8))
    base = ["predict", str(folder / "000[0-3].png"), "--model", str(weights), "--device", "cpu", "--batch", "4"]
    assert main([*base, "--box", "900,900,990,990", "--jsonl", str(tmp_path / "l.jsonl")]) == 2
    records = read(tmp_path / "l.jsonl")
    assert ["error" in r for r in records] == [False, False, True, False]
    assert "must be in pixels of the picture, 24 x 24" in records[2]["error"]


def test_ctrl_c_keeps_what_was_written_and_says_how_to_go_on(
    folder: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target, add = tmp_path / "labels.jsonl", JsonLines.add

    def interrupted(self: JsonLines, records: Any) -> None:
        if part_path(target, 0, 1).stat().st_size:
            raise KeyboardInterrupt
        add(self, records)

    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "add", interrupted)
        assert main(command(folder, weights, target)) == 130
    assert "run the same command again to go on" in capsys.readouterr().out
    assert len(read(part_path(target, 0, 1))) == 16
    assert main(command(folder, weights, target)) == 0
    assert "16 of 40 pictures have their lines" in capsys.readouterr().out
    assert [record["image"] for record in read(target)] == sorted(map(str, folder.iterdir()))


def test_what_cannot_be_continued_is_refused(
    folder: Path, tmp_path: Path, weights: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "cannot be continued after a stop" in refused(*command(folder, weights, Path("/dev/stdout")))
    assert "cannot be continued after a stop" in refused(*command(folder, weights, Path("/dev/null")))
    for rank, world in (("x", "2"), ("2", "2"), ("-1", "2"), ("0", "0"), ("0", "many")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", world)
        assert "start the processes with torchrun" in refused(*command(folder, weights, tmp_path / "l.jsonl"))
        assert "start the processes with torchrun" in refused("predict", folder)


def test_a_link_stays_a_link(folder: Path, tmp_path: Path, weights: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "l.jsonl").symlink_to(tmp_path / "far" / "l.jsonl")
    assert main(command(folder, weights, tmp_path / "l.jsonl")) == 0
    assert (tmp_path / "l.jsonl").is_symlink()
    assert len(read(tmp_path / "far" / "l.jsonl")) == 40
