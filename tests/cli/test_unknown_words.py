"""A word that is misspelled is answered with the one that was probably meant, in one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from ldeq.cli import main
from ldeq.cli.arguments.data import DataArguments
from ldeq.cli.commands import Command
from ldeq.cli.unknown_words import check_words


def command_lines() -> Iterator[tuple[str, ...]]:
    for union, path in ((Command, ()), (get_type_hints(DataArguments, include_extras=True)["command"], ("data",))):
        for command in get_args(union):
            name = get_args(command)[1].name
            if name != "data":
                yield (*path, name)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("predct", "ldeq has no command 'predct' (did you mean predict?); ldeq --help lists them"),
        ("help", "ldeq has no command 'help' (did you mean --help?); ldeq --help lists them"),
        ("--hlep", "ldeq has no option --hlep (did you mean --help?); ldeq --help lists them"),
        ("xyz", "ldeq has no command 'xyz'; ldeq --help lists them"),
        ("data chek", "ldeq data has no command 'chek' (did you mean check?); ldeq data --help lists them"),
        ("data check x --samles 3", "ldeq data check has no option --samles (did you mean --samples?); ldeq data check --help"),
        ("predict a.jpg --jsn=x", "ldeq predict has no option --jsn (did you mean --json?); ldeq predict --help lists them"),
        ("video --smoth ema", "ldeq video has no option --smoth (did you mean --smooth?); ldeq video --help lists them"),
        ("video a.mp4 -q", "ldeq video has no option -q; ldeq video --help lists them"),
    ],
)
def test_a_misspelled_command_or_option(words: str, sentence: str, refused: Callable[..., str]) -> None:
    assert sentence in refused(*words.split())


@pytest.mark.parametrize("words", list(command_lines()), ids=" ".join)
def test_every_option_that_help_shows_is_known(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    lines = re.findall(r"^[^\w\n-]*(--?[a-z].*)", capsys.readouterr().out, re.MULTILINE)
    shown = [option for line in lines for option in re.findall(r"(?:^|, )(--?[a-z][a-z-]*)", line.split("  ")[0])]
    assert len(shown) > len(words) and "--help" in shown
    check_words([*words, *shown], Command)


@pytest.mark.parametrize("words", ["predict -- --x", "predict - --box -5,2,30,40", "video a --detect_every 3", "", "-V"])
def test_what_only_looks_like_an_option_is_left_alone(words: str) -> None:
    check_words(words.split(), Command)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--model", "smal-68"], "did you mean small-68?"),
        (["--labels", "x.txt", "--format", "cvs"], "did you mean csv?"),
        (["--engine", "onxruntime"], "did you mean onnxruntime?"),
        (["--detector", "har"], "did you mean haar?"),
        (["--device", "cpuu"], "did you mean cpu?"),
    ],
)
def test_a_misspelled_value_of_predict(arguments: list[str], hint: str, face: Path, refused: Callable[..., str]) -> None:
    assert f"({hint})" in refused("predict", face, *arguments)


def test_a_misspelled_file_of_weights(weights: Path, refused: Callable[..., str]) -> None:
    wrong = weights.with_name("W.safetensor")
    assert f"(did you mean {weights}?)" in refused("export", wrong, "--onnx", "m.onnx")


@pytest.mark.parametrize("asked", ["wlfw", "configs/wlfw.yaml", "wlfw.yml"])
def test_a_misspelled_recipe(asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]) -> None:
    (tmp_path / "configs").mkdir()
    for name in ("wflw.yaml", "300w.yaml"):
        (tmp_path / "configs" / name).write_text("run: {epochs: 1}\n")
    monkeypatch.chdir(tmp_path)
    assert "(did you mean configs/wflw.yaml?); check the path" in refused("train", asked)


@pytest.mark.parametrize("words", [[], ["data"]], ids=["nothing", "a group"])
def test_no_command_is_answered_with_the_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    told = capsys.readouterr()
    assert ended.value.code == 0 and told.err == ""
    assert told.out.startswith(f"usage: {' '.join(['ldeq', *words])} [-h]")


@pytest.mark.parametrize("words", list(command_lines()), ids=" ".join)
def test_help_shows_no_none_where_an_option_may_be_absent(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    told = capsys.readouterr().out
    assert "{None}" not in told and "default: )" not in told
