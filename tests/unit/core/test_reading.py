"""What others wrote is read within bounds, and complained about in one way."""

import json
import os

import pytest

from quantgate.core import reading
from quantgate.core.reading import Unreadable


def test_what_is_sound_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": ["ü", 1.5, null]}', encoding="utf-8")
    assert reading.read_json(path) == json.loads(path.read_text(encoding="utf-8"))
    assert reading.read_text(path) == path.read_text(encoding="utf-8")


def test_a_missing_file_is_told_from_a_broken_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        reading.read_json(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b"{", r"no JSON \(Expecting"),
        (b"", r"no JSON \(Expecting value"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"1" * 5000, "a whole number of 5000 digits, which is no float"),
        (b"x" * 2000, "it holds 2000 bytes, more than the 1000 that are read"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=words):
        reading.read_json(path, 1000 if content[:1] == b"x" else reading.MOST_SETTINGS)


def test_what_is_no_file_is_no_file(tmp_path):
    with pytest.raises(Unreadable, match="directory"):
        reading.read_bytes(tmp_path)
    with pytest.raises(Unreadable, match="no plain file"):
        reading.read_bytes(reading.Path("/dev/zero"))
    with pytest.raises(Unreadable, match="too long"):
        reading.read_bytes(tmp_path / ("x" * 300))
    with pytest.raises(Unreadable, match="path is none"):
        reading.read_bytes(tmp_path / "a\0b")


def test_an_object_that_names_something_twice_is_refused():
    """Readers differ in which of the two they take."""
    with pytest.raises(Unreadable, match="it holds a twice"):
        reading.parse_object('{"b": {"a": 1, "a": 2}}')


def test_an_object_is_asked_for():
    assert reading.parse_object('{"a": 1}') == {"a": 1}
    with pytest.raises(Unreadable, match="a list, no JSON object"):
        reading.parse_object("[1]")
    with pytest.raises(Unreadable, match="11 characters of JSON, more than the 10"):
        reading.parse_json("[1,2,3,4,5]", 10)


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "bad\udcff", "\x00", "\u2028", "a\u202eb"])
def test_what_no_report_can_hold(text):
    assert not reading.plain(text)
    assert reading.plain(reading.visible(text))


@pytest.mark.parametrize("text", ["models/qwen", "日本語", "a b", "naïve", ""])
def test_what_a_report_can_hold(text):
    assert reading.plain(text)
    assert reading.visible(text) == text


def test_a_file_that_grows_while_it_is_read_stays_bounded(tmp_path, monkeypatch):
    """Files of the kernel say that they hold nothing, and others are written to meanwhile."""
    path = tmp_path / "grows"
    path.write_bytes(b"x" * 100)
    monkeypatch.setattr(os, "fstat", lambda number: os.stat_result((0,) * 10))
    with pytest.raises(reading.Unreadable, match="more than the 10 bytes"):
        reading.read_bytes(path, 10)


def test_a_name_twice_is_no_object():
    assert reading.parse_unique('{"a": {"b": 1}, "b": 2}') == {"a": {"b": 1}, "b": 2}
    with pytest.raises(Unreadable, match="it holds b twice"):
        reading.parse_unique('{"a": {"b": 1, "b": 2}}')


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = ", r"no TOML \(Invalid value"),
        (f"a = {'7' * 5000}", r"no TOML \(Exceeds the limit"),
        ("a = " + "[" * 100_000, "nested too deeply"),
        ("a = 1 # the longest", "19 characters of TOML, more than the 10"),
    ],
)
def test_what_is_no_toml(text, words):
    assert reading.parse_toml("a = 1") == {"a": 1}
    with pytest.raises(Unreadable, match=words):
        reading.parse_toml(text, 10 if "longest" in text else reading.MOST_TOML)


def test_lists_come_back_from_a_file_of_json():
    assert reading.through_json({"a": (1, 2)}) == {"a": [1, 2]}


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Unreadable, match="no plain file"):
        reading.read_bytes(tmp_path / "pipe")


def test_a_whole_number_that_no_float_holds_is_refused_and_one_in_a_text_is_none():
    digits = "9" * 400
    for number in (digits, f"-{digits}", str(2**1024)):
        with pytest.raises(reading.Unreadable, match="which is no float"):
            reading.parse_json(f'{{"value": [{number}]}}')
    assert reading.parse_json(f'{{"{digits}": "{digits}", "a": {2**1023}}}') == {digits: digits, "a": 2**1023}
