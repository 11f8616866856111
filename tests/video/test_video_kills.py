"""kill -9 at random moments of ldeq video: what was done is on the disk, and no whole file gives way to a part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kill_video import Scene, draw_film, judge, kill_and_judge


def test_a_video_that_is_killed_plays_to_within_a_second_of_its_last_frame(tmp_path: Path) -> None:
    counts = kill_and_judge(kills=3, seed=1, base=tmp_path)
    assert counts["kills"] == 3


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """What a killed run of 30 frames may leave."""
    scene = Scene(tmp_path, ".mp4", compare=False)
    scene.out.mkdir()
    scene.told.write_bytes(b"." * 30)
    draw_film(scene.out / "a.partial.mp4", 25)
    lines = [json.dumps({"frame": i, "time": i / 10, "faces": [{}]}) for i in range(30)]
    (scene.out / "a.json.partial").write_text('{"frames": [\n' + ",\n".join(lines))
    (scene.out / "a.csv.partial").write_text("frame,time\n" + "".join(f"{i},0\n" for i in range(30)))
    return scene


def test_half_a_second_of_film_may_be_lost_and_nothing_else(scene: Scene) -> None:
    assert judge(scene, {}) == []


def test_two_seconds_of_film_that_are_lost_are_told(scene: Scene) -> None:
    draw_film(scene.out / "a.partial.mp4", 10)
    (wrong,) = judge(scene, {})
    assert "plays to 2.00 s before the last frame of 30" in wrong


@pytest.mark.parametrize(
    "name, line", [("a.json.partial", 8), ("a.csv.partial", 8), ("a.json.partial", 30), ("a.csv.partial", 30)]
)
def test_a_frame_that_is_lost_from_a_table_is_told(scene: Scene, name: str, line: int) -> None:
    path = scene.out / name
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:line] + lines[line + 1 :]))
    assert len(judge(scene, {})) >= 1


def test_a_part_in_the_place_of_a_whole_file_is_told(scene: Scene) -> None:
    for part, place in zip(("a.partial.mp4", "a.json.partial", "a.csv.partial"), scene.places, strict=True):
        earlier = {place: b"whole"}
        place.write_bytes(b"whole")
        assert judge(scene, earlier) == []
        content = (scene.out / part).read_bytes()
        (scene.out / part).rename(place)
        if place.suffix == ".json":
            place.write_bytes(content + b'], "complete": false}')
        assert judge(scene, earlier) != []
        place.unlink()
        assert any("is gone" in wrong for wrong in judge(scene, earlier))
        (scene.out / part).write_bytes(content)
