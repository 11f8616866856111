from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ldeq.data import Augmentation, get_layout
from ldeq.engine.settings import SettingsError, TrainSettings, dump, from_mapping, is_dump, read, to_mapping
from ldeq.engine.weights import load_pretrained, save_weights
from ldeq.engine.yaml_reader import parse_yaml
from ldeq.models import LDEQ, LDEQConfig


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"optim": {"learning_rate": 1}}, "unknown setting optim.learning_rate; did you mean optim."),
        ({"optimizer": {}}, "unknown setting optimizer; did you mean optim?"),
        ({"run": {"epoch": 3}}, "unknown setting run.epoch; did you mean run.epochs?"),
        ({"data": {"augmentation": {"rotate": 3}}}, "did you mean data.augmentation.rotation?"),
        ({"model": {"landmark": 68}}, "did you mean model.landmarks?"),
        ({"model": {"preset": "large"}}, "unknown preset 'large'; choose one of paper, paper_video, small, tiny"),
        ({"run": {"epochs": "many"}}, "run.epochs: Input should be a valid integer"),
        ({"optim": {"name": "sgd"}}, "optim.name: Input should be 'adam' or 'adamw'"),
        ({"optim": {"lr": 0}}, "optim.lr must be > 0"),
        ({"run": {"batch": 0}}, "run.batch must be >= 1"),
        ({"model": {"image_size": 100}}, "image_size must be divisible by"),
        ({"optim": 3}, "optim must be a group of settings"),
    ],
)
def test_a_bad_setting_is_named_with_what_is_expected(document: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as error:
        from_mapping(document)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_preset_fills_only_what_was_not_given() -> None:
    settings = from_mapping(
        {"model": {"preset": "paper", "landmarks": 68}, "data": {"augmentation": {"preset": "paper", "flip_p": 0.0}}}
    )
    assert settings.model == LDEQConfig.paper(landmarks=68)
    assert settings.data.augmentation.flip_p == 0.0
    assert settings.data.augmentation.rotation == Augmentation.paper().rotation
    assert from_mapping({"model": {"landmarks": 5}}).model == LDEQConfig.small(landmarks=5)
    assert from_mapping({"data": {"augmentation": "strong"}}).data.augmentation == Augmentation.strong()


def test_settings_survive_their_own_yaml(tmp_path: Path) -> None:
    settings = from_mapping({"model": {"preset": "tiny"}, "run": {"epochs": 7}})
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_mapping(settings)))
    assert read(path) == settings


def test_overrides_win_and_keep_their_types(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("optim: {lr: 1.0e-3}\n")
    settings = read(path, ["optim.lr=5e-4", "run.epochs=3", "data.train=['synthetic:5']", "model.preset=tiny"])
    assert settings.optim.lr == 5e-4
    assert settings.run.epochs == 3
    assert settings.data.train == ["synthetic:5"]
    assert settings.model == LDEQConfig.tiny()


def test_a_file_that_is_no_mapping_says_so(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(SettingsError, match=r"cannot read .*; check the path"):
        read(path)
    path.write_text("- a\n- b\n")
    with pytest.raises(SettingsError, match="must hold a mapping"):
        read(path)
    path.write_text("a: [1\n")
    with pytest.raises(SettingsError, match="not valid YAML"):
        read(path)
    path.write_text("")
    assert read(path) == TrainSettings()
    with pytest.raises(SettingsError, match="--set takes key=value"):
        read(path, ["optim.lr"])


def test_the_configurations_that_are_shipped_can_be_read() -> None:
    configs = Path(__file__).parents[2] / "configs"
    for name in ("small-300w", "small-300w-motion", "small-300w-turned"):
        assert read(configs / f"{name}.yaml").model == LDEQConfig.small(landmarks=68)


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ("data: {sequence: 1}", "data.sequence must be 0 or a number of frames from 2 upwards, got 1"),
        ("data: {sequence: 4, cache: true}", "leave out data.cache and data.crop"),
        ("optim: {flicker: 1.0}", "optim.flicker compares frames; set data.sequence"),
        ("optim: {flicker: -1.0}", "optim.flicker must be >= 0, got -1.0"),
    ],
)
def test_settings_of_sequences_that_have_no_effect_are_refused(document: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(document)
    with pytest.raises(SettingsError, match=sentence):
        read(path)


def test_a_stop_in_pixels_survives_yaml_and_weights(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: {preset: tiny, stop: landmarks, tol: 0.25}")
    settings = read(path)
    assert (settings.model.stop, settings.model.tol) == ("landmarks", 0.25)
    assert from_mapping(yaml.safe_load(yaml.safe_dump(to_mapping(settings)))) == settings
    weights = tmp_path / "w.safetensors"
    save_weights(weights, LDEQ(settings.model), get_layout("wflw-98"), settings)
    assert load_pretrained(weights).model.config == settings.model


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("{preset: small, m: 5}", "model: m = 5 has no effect with solver 'fixed_point'"),
        ("{stop: landmark}", "model: unknown stop 'landmark' (did you mean landmarks?); choose one of relative"),
    ],
)
def test_a_setting_without_effect_is_not_ignored(model: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"model: {model}")
    with pytest.raises(SettingsError, match=re.escape(sentence)):
        read(path)


def test_a_bare_off_in_yaml_is_no_false(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("run: {amp: off}\n")
    assert read(path).run.amp == "off"
    assert read(path, ["run.amp=bf16"]).run.amp == "bf16"
    assert read(path, ["run.amp=off"]).run.amp == "off"
    with pytest.raises(SettingsError, match=r"run\.amp: Input should be 'off' or 'bf16'"):
        read(path, ["run.amp=on"])


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("run: [1", "expected ',' or ']'"),
        ("run: {epochs: !!int ''}", "a tag"),
        ("run: {epochs: !!python/object/apply:os.system [true]}", "a tag"),
        ("run: !!binary x", "a tag"),
        ("run: !!timestamp x", "a tag"),
        (BOMB, "more than 10000 values, aliases written out in line 4"),
        ("a: &a [*a]", "an alias inside of what it stands for"),
        ("a: &a {<<: *a}", "an alias inside of what it stands for"),
        ("run: {epochs: 1}\nrun: {batch: 2}", "the key 'run' a second time in line 2"),
        ("run: {epochs: 1, epochs: 2}", "the key 'epochs' a second time"),
        ("[" * 5000, "more than 20 groups inside each other"),
        ("{" * 5000, "more than 20 groups inside each other"),
        ("- " * 5000, "more than 20 groups inside each other"),
        ("run: {seed: " + "1" * 5000 + "}", "a number that is too long"),
        ("? [1, 2]\n: 3", "a key that is a list or a group"),
        ("run: \x01", "unacceptable character"),
        ("--- 1\n--- 2", "another document"),
        ("x: " + "y" * 300_000, "more than 262144 characters"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_a_document_that_costs_or_does_more_than_it_says_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    begin = time.process_time()
    with pytest.raises(SettingsError, match=re.escape(sentence)) as error:
        read(path)
    assert time.process_time() - begin < 2
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    if "\n" not in text and "\x01" not in text:
        path.write_text("")
        with pytest.raises(SettingsError, match=re.escape(sentence)):
            read(path, [f"run={text}"])


@pytest.mark.parametrize("data", [b"run: \xff\xfe", b"\x89PNG\r\n\x1a\n\0\0", b"\0" * 100, "é: 1".encode("latin-1")])
def test_a_file_that_is_no_text_is_refused_in_a_sentence(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(data)
    with pytest.raises(SettingsError, match="is not valid YAML"):
        read(path)
    with pytest.raises(SettingsError, match="cannot read"):
        read(tmp_path)


def test_values_mean_what_they_look_like(tmp_path: Path) -> None:
    """YAML 1.1 reads ``off`` as false, ``010`` as 8, ``1:30`` as 90, and ``1e-3`` as text."""
    text = "a: 1e-3\nb: off\nc: 010\nd: 1:30\ne: 2020-01-01\nf: no\ng: 1_000\nh: .5\ni: True\nj: 0x10\nk: -.inf\nl: ~\n"
    text += "m: 1.\nn: +5"
    assert parse_yaml(text) == {
        "a": 0.001, "b": "off", "c": 10, "d": "1:30", "e": "2020-01-01", "f": "no", "g": 1000, "h": 0.5, "i": True, "j": 16,
        "k": -math.inf, "l": None, "m": 1.0, "n": 5,
    }  # fmt: skip
    assert parse_yaml("base: &b {lr: 1, clip: 2}\noptim: {<<: *b, lr: 3}")["optim"] == {"lr": 3, "clip": 2}
    assert parse_yaml("\ufeffa: 1".encode()) == {"a": 1}  # as editors on Windows write it
    assert parse_yaml("a: 1".encode("utf-16")) == {"a": 1}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optim.lr=.nan", "optim.lr must be a finite number"),
        ("optim.lr=1e999", "optim.lr must be a finite number"),
        ("optim.clip=.inf", "optim.clip must be a finite number"),
        ("optim.weight_decay=-1", "optim.weight_decay must be >= 0"),
        ("optim.warmup=2", "optim.warmup must be <= 1"),
        ("optim.gamma=0", "optim.gamma must be > 0"),
        ("optim.ema=1", "optim.ema must lie in [0, 1)"),
        ("run.seed=-1", "run.seed must be >= 0"),
        (f"run.seed={10**30}", "run.seed must be <= 1,099,511,627,776"),
        ("run.epochs=1e30", "run.epochs must be <= 10,000,000"),
        ("run.epochs=true", "run.epochs must be a number, got true"),
        ("optim.lr=[1, 2]", "optim.lr"),
        ("optim.lr=2024-01-01", "optim.lr"),
        ("run.batch='99999999'", "run.batch must be <= 1,000,000"),
        ("data.workers=100000", "data.workers must be <= 1,024"),
        ("data.crop=square", "data.crop must be one of"),
        ("data.crop_scale=0", "data.crop_scale must be >= 0.1"),
        ("data.augmentation.shift=.inf", "data.augmentation.shift must be a finite number"),
        ("model.width=100000000", "model.width must be <= 16,384"),
        ("model.groups=0", "model.groups must be >= 1"),
        ("model.depth=-1", "model.depth must be >= 0"),
        ("model.depth=1000", "model.depth must be <= 10"),
        ("model.beta=.nan", "model.beta must be a finite number"),
        ("model.beta=0", "beta must lie in (0, 1], got 0"),
        ("model.beta=1.5", "beta must lie in (0, 1], got 1.5"),
        ("model.preset=[1]", "unknown preset [1]"),
        ("run.out=''", "run.out is empty"),
        ("run.out=.nan", "run.out"),
        ("data.train=synthetic:5", "data.train"),
        ("=5", "--set takes key=value"),
        ("a..b=5", "--set takes key=value"),
        (".=5", "--set takes key=value"),
        ("run.epochs.x=5", "'epochs' is a value, not a group"),
        ("run=3", "run must be a group of settings"),
        ("x" * 1000 + "=1", "unknown setting"),
    ],
)
def test_a_number_or_key_that_cannot_be_is_refused(override: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("run: {epochs: 3}")
    with pytest.raises(SettingsError, match=re.escape(sentence)) as error:
        read(path, [override])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("optim.leraning_rate", "did you mean optim.lr?"),
        ("optim.learning_rate", "did you mean optim.lr?"),
        ("optim.wd", "did you mean optim.weight_decay?"),
        ("optim.zebra", "known are name, lr, weight_decay"),
        ("zebra", "known are model, data, optim, run"),
        ("lr", "did you mean optim.lr?"),
        ("epochs", "did you mean run.epochs?"),
        ("data.batch", "did you mean run.batch?"),
        ("data.zebra", "known are train, val"),
        ("run.btach", "did you mean run.batch?"),
    ],
)
def test_only_a_setting_that_is_near_is_suggested(key: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("")
    with pytest.raises(SettingsError, match=re.escape(sentence)):
        read(path, [f"{key}=1"])


def test_a_group_whose_settings_are_commented_out_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("optim:\n#  lr: 1\ndata:\n  augmentation:\nmodel: tiny\n")
    settings = read(path, ["optim.clip=2"])
    assert settings.optim.clip == 2
    assert settings.model == LDEQConfig.tiny()
    assert settings.data.augmentation == Augmentation.light()
    path.write_text("data: {augmentation: strong}")
    assert read(path, ["data.augmentation.flip_p=0"]).data.augmentation.flip_p == 0


def test_an_override_of_one_group_does_not_change_another_that_shares_its_alias(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("optim: &x {}\nrun: *x\n")
    settings = read(path, ["optim.lr=0.5"])
    assert settings.optim.lr == 0.5


def test_a_dump_is_told_from_what_a_user_wrote(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    settings = from_mapping({"run": {"epochs": 7}})
    path.write_text(dump(settings))
    assert is_dump(path)
    assert read(path) == settings
    path.write_text(yaml.safe_dump(to_mapping(settings), sort_keys=False))  # of an older version
    assert is_dump(path)
    path.write_text("run: {epochs: 7}")
    assert not is_dump(path)
    assert not is_dump(tmp_path)


def test_an_override_of_one_part_of_an_augmentation_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("data: {augmentation: {preset: strong, noise: 0.5}}")
    read_back = read(path, ["data.augmentation.blur=2"]).data.augmentation
    assert (read_back.noise, read_back.blur, read_back.rotation) == (0.5, 2, 30)
    path.write_text("data: {augmentation: strong}")
    read_back = read(path, ["data.augmentation.blur=2"]).data.augmentation
    assert (read_back.noise, read_back.blur, read_back.rotation) == (0.06, 2, 30)
