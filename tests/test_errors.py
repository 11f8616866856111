"""Messages of errors."""

from __future__ import annotations

import pytest

from ldeq.data.errors import DataError
from ldeq.engine.settings import SettingsError, from_mapping
from ldeq.errors import LdeqError


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
