"""A published checkpoint becomes weights that answer alike, and a file that is none is refused without being run."""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_model import Released, anderson_loop, fixed_point_loop, published_file, seeded

from ldeq.cli import main
from ldeq.engine import load_pretrained
from ldeq.engine.published import read_published

Refused = Callable[..., str]
SMALL = {"width": 32, "step": 8, "depth": 2}
STILLS = {"beta": 0.3, "solver": "anderson", "lr": 1e-4, "crop_p": 0.5, "data": "wflw"}


@pytest.fixture
def released() -> Released:
    return seeded(Released(**SMALL))


@pytest.fixture
def published(tmp_path: Path, released: Released) -> Path:
    return published_file(tmp_path / "final.pth.tar", released, **STILLS)


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 256, 256, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", ["stills", "video"])
def test_converted_weights_give_the_published_landmarks(variant: str, tmp_path: Path) -> None:
    beta, solver, solve = (0.3, "anderson", anderson_loop) if variant == "stills" else (0.4, "fpi", fixed_point_loop)
    plain = seeded(Released(beta=beta, **SMALL))
    published_file(tmp_path / "final.pth.tar", plain, beta=beta, solver=solver)
    assert main(["convert", str(tmp_path / "final.pth.tar")]) == 0
    loaded = load_pretrained(tmp_path / "final.safetensors")
    expected = plain(images(), solve)
    assert expected.std() > 0.01  # landmarks differ, and so the comparison can fail
    torch.testing.assert_close(loaded.model(images()).landmarks, expected, atol=1e-5, rtol=0)
    # Beyond rounding they are one model.
    exact = loaded.model.double()(images().double()).landmarks
    torch.testing.assert_close(exact, plain.double()(images().double(), solve), atol=1e-9, rtol=0)
    assert loaded.layout.name == "wflw-98"
    assert loaded.crop_rule == ("hih" if variant == "stills" else "landmarks")


def test_the_model_of_published_size_is_converted(tmp_path: Path) -> None:
    plain = seeded(Released())
    published_file(tmp_path / "final.pth.tar", plain, **STILLS)
    assert main(["convert", str(tmp_path / "final.pth.tar"), "--out", str(tmp_path / "w.safetensors")]) == 0
    model = load_pretrained(tmp_path / "w.safetensors").model
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in plain.parameters()) == 21_825_146
    torch.testing.assert_close(model(images(1)).landmarks, plain(images(1), anderson_loop), atol=1e-5, rtol=0)


def test_the_card_carries_the_licence_and_where_the_weights_come_from(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(published)]) == 0
    assert "research use only" in capsys.readouterr().out
    card = load_pretrained(published.with_name("final.safetensors")).card
    assert card["licence"].startswith("research use only")
    origin = card["converted_from"]
    assert origin["file"] == "final.pth.tar" and len(origin["sha256"]) == 64 and origin["variant"] == "stills"
    assert origin["arguments"] == {"beta": 0.3, "lr": 1e-4, "crop_p": 0.5}


def renamed(state: dict[str, torch.Tensor], name: Callable[[str], str]) -> dict[str, torch.Tensor]:
    return OrderedDict((name(key), tensor) for key, tensor in state.items())


@pytest.mark.parametrize("scheme", ["wrapped", "flat", "norm first", "shared"])
def test_names_of_tensors_do_not_matter(scheme: str, tmp_path: Path, released: Released) -> None:
    state = released.state_dict()
    if scheme == "wrapped":
        other = renamed(state, lambda key: f"module.net.{key}")
    elif scheme == "flat":  # entry.0.conv -> entry0c: every layer lies in one module
        other = renamed(state, lambda key: key.rpartition(".")[0].replace(".", "_") + "." + key.rpartition(".")[2])
    elif scheme == "norm first":
        other = OrderedDict(sorted(state.items(), key=lambda item: item[0].replace("norm", "anorm")))
    else:  # a cell that its solver holds as well
        other = OrderedDict([*state.items(), *((f"deq.f.{k}", t) for k, t in state.items() if not k.startswith("entry"))])
    plain = read_published(published_file(tmp_path / "a.pth.tar", released, **STILLS)).tensors
    torch.save({"args": argparse.Namespace(**STILLS), "state_dict": other}, tmp_path / "b.pth.tar")
    found = read_published(tmp_path / "b.pth.tar").tensors
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], plain[name]) for name in plain)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["top", "args", "state_dict"])
@pytest.mark.parametrize("forced", ["", "1"])
def test_a_malicious_pickle_is_refused_without_being_run(
    legacy: bool, place: str, forced: str, tmp_path: Path, released: Released, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
    trace = tmp_path / "trace"
    bad = Malicious(os.mkdir, str(trace))
    document: Any = {"args": argparse.Namespace(**STILLS), "state_dict": released.state_dict()}
    if place == "top":
        document = bad
    elif place == "args":
        document["args"].hook = bad
    else:
        document["state_dict"]["x"] = bad
    torch.save(document, tmp_path / "final.pth.tar", _use_new_zipfile_serialization=not legacy)
    said = refused("convert", tmp_path / "final.pth.tar")
    assert "asks for more than tensors and arguments" in said and "nothing was executed" in said and "mkdir" in said
    assert not trace.exists()
    assert not (tmp_path / "final.safetensors").exists()
    # The file does what it says where a pickle is executed: the test can fail.
    torch.load(tmp_path / "final.pth.tar", weights_only=False)
    assert trace.exists()


def test_a_plain_pickle_and_damaged_files_end_in_a_sentence(published: Path, tmp_path: Path, refused: Refused) -> None:
    data = published.read_bytes()
    other = tmp_path / "other.pth.tar"
    for content in (b"", b"\x80", data[: len(data) // 2], data[:-7], b"PK" + data[2:900], pickle.dumps({"a": 1}), bytes(3000)):
        other.write_bytes(content)
        assert "other.pth.tar" in refused("convert", other)
    assert "there is no file" in refused("convert", tmp_path / "absent.pth.tar")


def changed(state: dict[str, torch.Tensor], **changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = dict(state)
    for name, tensor in changes.items():
        state.pop(name, None)
        if tensor is not None:
            state[name] = tensor
    return state


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"join.conv.weight": None}, "lacks 'join.conv.weight'"),
    ({"join.conv.weight": None, "join.conv.bias": None}, r"missing are deq.cell.mix.0 \(32, 130, 1, 1\), left over are none"),
    ({"join.norm.weight": None, "join.norm.bias": None}, "15 convolutions in front of a norm and 14 norms"),
    ({"join.norm.bias": None}, "lacks 'join.norm.bias'"),
    ({"entry.0.norm.running_var": None}, "lacks entry.0.norm.running_var"),
    ({"join.conv.weight": torch.zeros(32, 131, 1, 1)}, r"missing are .*mix.* left over are join.conv.weight \(32, 131, 1, 1\)"),
    ({"join.norm.weight": torch.zeros(33)}, r"join.norm.weight has shape \(33,\), and deq.cell.mix.2.weight has \(32,\)"),
    ({"last.bias": torch.zeros(97)}, r"last.bias has shape \(97,\)"),
    ({"extra.conv.weight": torch.zeros(4, 4, 3, 3), "extra.conv.bias": torch.zeros(4)}, "left over are extra.conv.weight"),
    ({"grid": torch.zeros(64)}, r"holds 'grid' of shape \(64,\).* pass --ignore"),
    ({"join.conv.bias": torch.full((32,), torch.nan)}, "join.conv.bias holds torch.float32 values that are no finite"),
    ({"join.conv.bias": torch.zeros(32, dtype=torch.int64)}, "join.conv.bias holds torch.int64"),
    ({"entry.0.conv.weight": torch.zeros(8, 4, 7, 7)}, "has not the one 7x7 convolution of 3 channels"),
    ({"last.weight": torch.zeros(5, 32, 1, 1), "last.bias": torch.zeros(5)}, "unknown landmark layout 5"),
    ({"join.conv.weight": torch.zeros(32, 130, 1, 1).to_sparse()}, "holds 'join.conv.weight', which is no plain tensor"),
    ({"join.conv.weight": torch.zeros(1).expand(32, 130, 10**6, 1)}, r"left over are join.conv.weight \(32, 130, 1000000, 1\)"),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG, ids=[sentence[:40] for _, sentence in WRONG])
def test_wrong_missing_and_unknown_tensors_are_sentences(
    changes: dict[str, Any], sentence: str, tmp_path: Path, released: Released, refused: Refused
) -> None:
    path = tmp_path / "final.pth.tar"
    torch.save({"args": argparse.Namespace(**STILLS), "state_dict": changed(released.state_dict(), **changes)}, path)
    assert re.search(sentence, refused("convert", path))
    assert not (tmp_path / "final.safetensors").exists()


def test_a_tensor_without_weights_may_be_ignored(tmp_path: Path, released: Released, refused: Refused) -> None:
    path = tmp_path / "final.pth.tar"
    torch.save({"args": argparse.Namespace(**STILLS), "state_dict": changed(released.state_dict(), grid=torch.zeros(64))}, path)
    assert "no tensor 'gird' to ignore" in refused("convert", path, "--ignore", "gird")
    # A weight is still missed.
    assert "1x1 convolution to the landmarks" in refused("convert", path, "--ignore", "grid", "last.weight", "last.bias")
    assert main(["convert", str(path), "--ignore", "grid"]) == 0


def test_arguments_that_do_not_tell_the_variant_ask_for_it(tmp_path: Path, released: Released, refused: Refused) -> None:
    for arguments in ({}, {"beta": 0.7}, {"beta": 0.3, "solver": "fixed_point"}):
        path = published_file(tmp_path / "final.pth.tar", released, **arguments)
        assert "add --variant stills or --variant video" in refused("convert", path)
    assert main(["convert", str(path), "--variant", "video"]) == 0
    assert load_pretrained(tmp_path / "final.safetensors").model.config.beta == 0.4
    torch.save({"state_dict": released.state_dict()}, tmp_path / "bare.pth.tar")
    assert main(["convert", str(tmp_path / "bare.pth.tar"), "--variant", "stills"]) == 0
    torch.save(released.state_dict(), tmp_path / "bare2.pth.tar")
    assert "has no entry 'state_dict'" in refused("convert", tmp_path / "bare2.pth.tar", "--variant", "stills")


def test_no_file_is_replaced(published: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "final.safetensors").write_text("mine")
    assert "final.safetensors exists" in refused("convert", published)
    assert (tmp_path / "final.safetensors").read_text() == "mine"
    assert "is the checkpoint itself" in refused("convert", published, "--out", published)
    assert "must end in .safetensors" in refused("convert", published, "--out", tmp_path / "w.pt")
    assert "it is a folder" in refused("convert", published, "--out", tmp_path)
