"""Messages of errors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ldeq
from ldeq.data.errors import DataError
from ldeq.data.layouts import get_layout
from ldeq.engine.settings import SettingsError, from_mapping
from ldeq.errors import LdeqError
from ldeq.video.filters import make_filter


def test_a_word_of_a_million_letters_is_not_printed_whole():
    with pytest.raises(SettingsError, match="unknown stop '") as caught:
        from_mapping({"model": {"stop": "[" * 1_000_000}})
    text = str(caught.value)
    assert text.startswith("model: unknown stop '[[[") and text.endswith("[[['; choose one of relative, absolute, landmarks")
    assert len(text) < 1500 and "characters left out) ..." in text


def test_a_message_of_common_length_is_left_whole():
    assert str(LdeqError("é" * 1500)) == "é" * 1500
    error = DataError("x" * 1501)
    assert isinstance(error, ValueError) and str(error) == "x" * 1000 + "... (201 characters left out) ..." + "x" * 300


def test_a_key_with_a_line_break_does_not_break_the_sentence():
    with pytest.raises(SettingsError) as caught:
        from_mapping({"a\nb": 1})
    assert "\n" not in str(caught.value)
    assert str(LdeqError("one\r\ntwo\nthree", 4)) == "('one two three', 4)"


def test_an_argument_of_a_million_letters_is_not_printed_whole():
    with pytest.raises(LdeqError, match="unknown filter '") as caught:
        make_filter("[" * 1_000_000, get_layout(68))
    assert len(str(caught.value)) < 1500


def test_no_module_raises_a_value_error_that_is_not_of_this_package():
    """The command line catches `LdeqError`, and its messages stay one short line."""
    bare = [
        f"{path.name}:{node.lineno}"
        for path in Path(ldeq.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and ast.unparse(node.exc.func) == "ValueError"
    ]
    assert not bare


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("a.npy cannot be scored: are they all equal?.", "a.npy cannot be scored: are they all equal?"),
        ("cannot read a.png: it is damaged..", "cannot read a.png: it is damaged."),
        ("write image,x0,y0,...", "write image,x0,y0,..."),
        ("write image,x0,y0,....", "write image,x0,y0,...."),
        ("one mark.", "one mark."),
    ],
)
def test_a_sentence_that_quotes_a_sentence_ends_with_one_mark(message: str, shown: str) -> None:
    assert str(LdeqError(message)) == shown
