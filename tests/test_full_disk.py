"""A disk that fills at each possible page: nothing whole is replaced by something partial, and every run ends in a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from clips import drawn, moving, read_clip, tight, write_clip
from small_disk import PAGE, SmallDisk, small_disk

from ldeq import LDEQConfig
from ldeq.cli import main
from ldeq.data import IBUG68, write_image
from ldeq.engine import CheckpointError, checkpoint, load_pretrained
from ldeq.engine.settings import TrainSettings
from ldeq.engine.weights import save_weights
from ldeq.models import LDEQ

CONFIG = LDEQConfig.tiny(landmarks=68, image_size=32, width=16, depth=1, groups=4)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as made:
        yield made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    torch.manual_seed(0)
    save_weights(path, LDEQ(CONFIG), IBUG68, TrainSettings(model=CONFIG))
    return path


def box() -> str:
    return ",".join(f"{v:.0f}" for v in tight(drawn(3)[1]))


def rooms(most: int = 2**20) -> Iterator[int]:
    """Room for no page, for one, and so on; who takes them stops once there was enough."""
    yield from range(0, most, PAGE)
    raise AssertionError("there was never enough room")


def check_ending(status: int, capsys: pytest.CaptureFixture[str], names: list[str]) -> None:
    error = capsys.readouterr().err
    if status:
        assert status == 2
        (sentence,) = [line for line in error.splitlines() if line.startswith("error: ")]
        assert any(name in sentence for name in names), sentence
        assert "is the disk full?" in sentence or "disk is full" in sentence or "No space left" in sentence, sentence
    assert "Traceback" not in error


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_video_on_a_full_disk_replaces_no_film_and_no_table_by_a_part(
    tmp_path: Path, disk: SmallDisk, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    frames = [cv2.resize(image, (128, 128)) for image in moving(3, 8)]
    write_clip(tmp_path / "in.mp4", frames, sound="aac")  # type: ignore[arg-type]
    small = ",".join(f"{float(v) / 2:.0f}" for v in box().split(","))
    names = [f"a{suffix}", "a.json", "a.csv"]

    def follow(folder: Path, film: str = "in.mp4") -> int:
        video, table, rows = (str(folder / name) for name in names)
        arguments = ["video", str(tmp_path / film), "-o", video, "--json", table, "--csv", rows, "--box", small]
        return main([*arguments, "--views", "1", "--device", "cpu"])

    write_clip(tmp_path / "short.mp4", frames[:3], sound="aac")  # type: ignore[arg-type]
    assert follow(tmp_path / "earlier", "short.mp4") == 0
    assert follow(tmp_path / "whole") == 0
    earlier, whole = ({name: (tmp_path / kind / name).read_bytes() for name in names} for kind in ("earlier", "whole"))
    statuses = []
    for room in rooms():
        for path in disk.files():
            (disk.folder / path).unlink()
        for name, content in earlier.items():
            (disk.folder / name).write_bytes(content)
        disk.leave(room)
        capsys.readouterr()
        statuses.append(follow(disk.folder))
        check_ending(statuses[-1], capsys, names + [f"a.partial{suffix}"])
        left = disk.files()
        for name in names[1:]:
            assert left[name] in (earlier[name], whole[name]), f"{name} with room for {room} bytes"
        if left[names[0]] != earlier[names[0]]:
            assert len(read_clip(disk.folder / names[0])) == 8, f"{names[0]} with room for {room} bytes"
        assert left.keys() <= {*names, f"a.partial{suffix}", "a.json.partial", "a.csv.partial"}
        if statuses[-1] == 0:
            assert all(left[name] != earlier[name] for name in names)
            break
    assert statuses.count(2) > 6  # the first four fail where the command tries whether it can write


def test_a_picture_and_its_points_on_a_full_disk_are_whole_or_the_earlier_ones(
    tmp_path: Path, disk: SmallDisk, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "face.png", drawn(3)[0])
    names = ["a.png", "a.json", "a.gif"]

    def predict(folder: Path) -> int:
        picture, points, film = (str(folder / name) for name in names)
        arguments = ["predict", str(tmp_path / "face.png"), "-o", picture, "--json", points, "--converge", film]
        return main([*arguments, "--box", box(), "--model", str(model), "--device", "cpu"])

    (tmp_path / "whole").mkdir()
    assert predict(tmp_path / "whole") == 0
    whole = {name: (tmp_path / "whole" / name).read_bytes() for name in names}
    # As long as the new ones, so that the disk has no more room once they are replaced.
    earlier = {name: bytes(reversed(content)) for name, content in whole.items()}
    failed = 0
    for room in rooms():
        for name, content in earlier.items():
            (disk.folder / name).write_bytes(content)
        disk.leave(room)
        capsys.readouterr()
        status = predict(disk.folder)
        check_ending(status, capsys, names)
        left = disk.files()
        assert left.keys() == earlier.keys()
        assert all(left[name] in (earlier[name], whole[name]) for name in names), f"with room for {room} bytes"
        if status == 0:
            assert left == whole
            break
        failed += 1
    assert failed > 4


@pytest.mark.parametrize("kind", ["checkpoint", "weights"])
def test_a_checkpoint_on_a_full_disk_is_the_earlier_one_bit_for_bit(disk: SmallDisk, kind: str) -> None:
    path = disk.folder / "a.safetensors"
    models = [LDEQ(CONFIG), LDEQ(CONFIG)]

    def save(model: LDEQ) -> None:
        if kind == "weights":
            save_weights(path, model, IBUG68, TrainSettings(model=CONFIG))
        else:
            checkpoint.save(path, {"model": model.state_dict()}, {"saved": 1})

    save(models[0])
    earlier = path.read_bytes()
    failed = 0
    for room in rooms():
        disk.leave(room)
        try:
            save(models[1])
        except CheckpointError as error:
            assert str(path) in str(error) and "the disk is full" in str(error)
            assert disk.files() == {"a.safetensors": earlier}
            failed += 1
        else:
            break
    assert failed == -(-len(earlier) // PAGE)
    loaded = load_pretrained(path).model.state_dict() if kind == "weights" else checkpoint.load(path)[0]["model"]
    for name, tensor in models[1].state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(loaded[name], tensor)


def test_a_training_on_a_full_disk_keeps_every_earlier_file_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One more epoch than the run has, with room for more and more of its checkpoint, its weights and its pictures."""
    config = tmp_path / "config.yaml"
    model = {"preset": "tiny", "landmarks": 98, "image_size": 32, "width": 16, "width_increment": 8, "depth": 1, "groups": 4}
    data = {"train": ["synthetic:4#size=48"], "val": ["synthetic:2#size=48"], "workers": 0, "cache": True}
    config.write_text(yaml.safe_dump({"model": model, "data": data, "run": {"batch": 4, "device": "cpu"}}))

    def train(folder: Path, epochs: int) -> int:
        settings = [f"run.out={folder}", f"run.epochs={epochs}"]
        return main(["train", str(config), "--resume", "auto", *(word for s in settings for word in ("--set", s))])

    with small_disk(tmp_path / "disk", 3 * 2**20) as disk:
        run = disk.folder / "run"
        assert train(tmp_path / "run", 1) == 0
        earlier = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
        statuses = []
        for room in (0, PAGE, 2**17, 2**18, 2**19 - PAGE, 2**19, 5 * 2**17, 2**20, 2**21):
            shutil.rmtree(run, ignore_errors=True)
            disk.leave(2**21)
            shutil.copytree(tmp_path / "run", run)
            disk.leave(room)
            capsys.readouterr()
            statuses.append(train(run, 2))
            check_ending(statuses[-1], capsys, [str(run)])
            check_run(run, earlier, f"with room for {room} bytes")
            if statuses[-1] == 0:
                break
    assert statuses[0] == 2 and statuses[-1] == 0 and statuses.count(2) > 2


def check_run(run: Path, earlier: dict[str, bytes], where: str) -> None:
    """Everything in the folder of a run is what it was before, or new and whole."""
    left = {path.name: path.read_bytes() for path in run.iterdir()}
    assert not [name for name in left if name.endswith(".tmp")], where
    assert left["log.jsonl"].startswith(earlier["log.jsonl"]), where
    checkpoints = [name for name in left if name.startswith("step-")]
    assert checkpoints, where
    for name, content in left.items():
        if content == earlier.get(name) or name == ".lock":
            continue
        if name == "best.safetensors":
            load_pretrained(run / name)
        elif name in checkpoints:
            checkpoint.load(run / name)
        elif name.endswith(".png"):
            assert cv2.imread(str(run / name)) is not None, where
        elif name.endswith(".json"):
            json.loads(content)
        elif name.endswith(".yaml"):
            yaml.safe_load(content)
        else:
            assert name == "log.jsonl", f"{name} {where}"
