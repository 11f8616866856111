from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ldeq.data import Augmentation, get_layout
from ldeq.engine.settings import SettingsError, TrainSettings, from_mapping, read, to_mapping
from ldeq.engine.weights import load_pretrained, save_weights
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
    for name in ("small-300w", "small-300w-motion"):
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
        ("{stop: landmark}", "model: unknown stop 'landmark'; choose one of relative, absolute, landmarks"),
    ],
)
def test_a_setting_without_effect_is_not_ignored(model: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"model: {model}")
    with pytest.raises(SettingsError, match=sentence):
        read(path)


def test_a_bare_off_in_yaml_is_no_false(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("run: {amp: off}\n")
    assert read(path).run.amp == "off"
    assert read(path, ["run.amp=bf16"]).run.amp == "bf16"
    assert read(path, ["run.amp=off"]).run.amp == "off"
    with pytest.raises(SettingsError, match=r"run\.amp: Input should be 'off' or 'bf16'"):
        read(path, ["run.amp=on"])
