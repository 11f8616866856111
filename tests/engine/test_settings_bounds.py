"""Settings and YAML at the bounds of what is allowed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ldeq.engine.settings import SettingsError, from_mapping, read
from ldeq.engine.settings_checks import near_setting, shortened
from ldeq.engine.yaml_reader import DEEPEST, LARGEST, LONGEST, YamlError, parse_yaml


def settings_file(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text)
    return path


def test_an_override_reaches_into_groups_and_presets(tmp_path: Path) -> None:
    path = settings_file(tmp_path, "data: {train: ['synthetic:4'], augmentation: strong}\nrun: {batch: 2}\n")
    settings = read(path, ["data.augmentation.flip_p=0.25", "optim.lr = 1e-3", "run.epochs=3", "model.preset=tiny"])
    assert settings.data.augmentation.flip_p == 0.25 and settings.data.augmentation.noise_p == 0.25
    assert (settings.optim.lr, settings.run.epochs, settings.run.batch) == (1e-3, 3, 2)
    assert settings.model.width == from_mapping({"model": "tiny"}).model.width
    for override, said in (
        ("run.out.x=1", "--set run.out.x: 'runs' is a value, not a group of settings"),
        ("data.train.x=1", "--set data.train.x: 'train' is a value, not a group of settings"),
        ("run.epochs", "--set takes key=value, for example --set optim.lr=5e-4; got 'run.epochs'"),
        ("run.=1", "--set takes key=value"),
        (".epochs=1", "--set takes key=value"),
        ("run.epochs=[", "--set run.epochs: the value '[' is not valid YAML"),
    ):
        (tmp_path / "d.yaml").write_text("run: {out: runs}\ndata: {train: ['synthetic:4']}\n")
        with pytest.raises(SettingsError) as caught:
            read(tmp_path / "d.yaml", [override])
        assert said.replace("'runs' is", "'out' is") in str(caught.value)


def test_a_document_of_the_largest_length_is_read_and_a_longer_one_is_not(tmp_path: Path) -> None:
    body = "run: {epochs: 7}\n"
    assert read(settings_file(tmp_path, body + "#" * (LONGEST - len(body)))).run.epochs == 7
    with pytest.raises(SettingsError, match=f"more than {LONGEST} characters"):
        read(settings_file(tmp_path, body + "#" * (LONGEST - len(body) + 1)))


def test_yaml_as_deep_and_as_large_as_allowed_is_read() -> None:
    assert parse_yaml("[" * (DEEPEST - 1) + "1" + "]" * (DEEPEST - 1)) is not None
    with pytest.raises(YamlError, match=f"more than {DEEPEST} groups inside each other"):
        parse_yaml("[" * DEEPEST + "1" + "]" * DEEPEST)
    # Groups beside each other are not inside each other.
    assert len(parse_yaml("[" + ",".join(["[1]"] * (3 * DEEPEST)) + "]")) == 3 * DEEPEST
    many = "[" + ",".join(["1"] * (LARGEST - 1)) + "]"
    assert len(parse_yaml(many)) == LARGEST - 1
    with pytest.raises(YamlError, match=f"more than {LARGEST} values, aliases written out"):
        parse_yaml(many.replace("]", ",1]"))
    half = (LARGEST - 3) // 2
    shared = f"a: &x [{','.join(['1'] * (half - 2))}]\nb: *x\n"
    assert len(parse_yaml(shared)["b"]) == half - 2
    with pytest.raises(YamlError, match="aliases written out"):
        parse_yaml(f"a: &x [{','.join(['1'] * (half + 2))}]\nb: *x\n")
    with pytest.raises(YamlError, match="an alias inside of what it stands for"):
        parse_yaml("a: &x [*x]\n")


def test_yaml_numbers_and_words_are_what_they_look_like() -> None:
    document = parse_yaml(
        "{a: 1_000, b: 0x1f, c: 0o17, d: 1e-3, e: .5, f: -.inf, g: true, h: 'no', i: ~, j: 010, k: +3, l: 1.}"
    )
    assert document == {
        "a": 1000, "b": 31, "c": 15, "d": 0.001, "e": 0.5, "f": -math.inf, "g": True, "h": "no", "i": None, "j": 10, "k": 3,
        "l": 1.0,
    }  # fmt: skip
    assert parse_yaml("") is None
    for text, said in (
        ("a: 1\nb: 2\na: 3\n", "the key 'a' a second time in line 3"),
        (
            "a: !!python/name:os.system x",
            "a tag ('tag:yaml.org,2002:python/name:os.system'), which no setting needs; remove it in line 1",
        ),
        ("? [1]\n: 2", "a key that is a list or a group; write a name in line 1"),
        ("a: \0", "it holds a NUL character"),
        (f"a: {'9' * 5000}", "a number that is too long in line 1"),
        (f"{'k' * 41}: 1\n{'k' * 41}: 1", f"the key {'k' * 37 + '...'!r} a second time in line 2"),
        (f"{'k' * 40}: 1\n{'k' * 40}: 1", f"the key {'k' * 40!r} a second time in line 2"),
    ):
        with pytest.raises(YamlError) as caught:
            parse_yaml(text)
        assert said in str(caught.value)


def test_long_values_are_shortened_in_sentences() -> None:
    assert shortened("x" * 78) == repr("x" * 78)
    assert shortened("x" * 79) == "'" + "x" * 76 + "..."
    assert shortened(10**300) == "a number of 301 digits"
    assert shortened(2**200 - 1) == str(2**200 - 1)
    assert shortened(-(2**250)).startswith("a number of 76 digits")
    assert shortened(True) == "True"


def test_a_near_setting_is_spelled_alike_or_has_the_initials() -> None:
    names = ["lr", "weight_decay", "warmup", "milestones", "epochs"]
    for key, meant in (
        ("learning_rate", "lr"), ("wd", "weight_decay"), ("Warmups", "warmup"), ("epoch", "epochs"), ("zzz", None), ("l", "lr"),
        ("", None), ("w", None),
    ):  # fmt: skip
        assert near_setting(key, names) == meant, key
