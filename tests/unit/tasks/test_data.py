"""Data sources: layout, schema errors that name file, line and field."""

import pytest

from quantgate.errors import DataError
from quantgate.tasks.data import DirectorySource, open_data

FIELDS = {"question": str, "answer": int}


@pytest.fixture
def source(tmp_path):
    return DirectorySource(tmp_path, "here")


def put(source, text, name="test.jsonl"):
    path = source.root / "org__set" / "main" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_reads_rows(source):
    put(source, '{"question": "a", "answer": 1}\n{"question": "b", "answer": 2}')
    assert [row["answer"] for row in source.rows("org/set", "main", "test", FIELDS)] == [1, 2]
    assert source.configs("org/set") == ["main"]
    assert source.has("org/set")
    assert not source.has("org/other")


def test_lines_end_at_line_feeds_only(source):
    put(source, '{"question": "a\u2028b\x85c", "answer": 1}\n')
    assert source.rows("org/set", "main", "test", FIELDS)[0]["question"] == "a\u2028b\x85c"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ('{"question": "a", "answer": 1}\n{"question": "b", "ans', "line 2: no JSON"),
        ('{"question": "a"}\n', "line 1: no field 'answer'"),
        ('{"question": "a", "answer": "1"}\n', "field 'answer' is a str; expected a int"),
        ('{"question": "a", "answer": true}\n', "field 'answer' is a bool; expected a int"),
        ("[1]\n", "line 1: a list"),
        (b'{"question": "\xff", "answer": 1}\n', "byte 14 is not UTF-8"),
        ('{"question": "a", "answer": 1}\n\n{"question": "a", "answer": 1}\n', "line 2: no JSON"),
    ],
)
def test_bad_files_are_named(source, text, message):
    put(source, text)
    with pytest.raises(DataError) as caught:
        source.rows("org/set", "main", "test", FIELDS)
    assert message in str(caught.value)
    assert "org__set/main/test.jsonl in here" in str(caught.value)


def test_missing_file_and_dataset(source):
    with pytest.raises(DataError, match="no such file"):
        source.rows("org/set", "main", "test", FIELDS)
    with pytest.raises(DataError, match=r"no data for org/set.*org__set/<config>/<split>.jsonl"):
        source.configs("org/set")


@pytest.mark.parametrize("name", ["..", "a/../../b", "a/b/..", "-x"])
def test_names_cannot_leave_the_directory(source, name):
    with pytest.raises(DataError, match="letters, digits"):
        source.rows(name, "main", "test", FIELDS)
    with pytest.raises(DataError, match="letters, digits"):
        source.rows("org/set", "main", name, FIELDS)


def test_open_data(tmp_path):
    assert open_data("bundled", tmp_path, offline=True).name == "bundled"
    assert open_data(str(tmp_path), tmp_path, offline=True).name == tmp_path.name
    assert open_data("hub", tmp_path, offline=True).name == "hub"
    with pytest.raises(DataError, match="'nowhere' is no directory"):
        open_data("nowhere", tmp_path, offline=True)


def test_hub_that_cannot_be_reached_is_a_clear_error(tmp_path, monkeypatch):
    import datasets

    def refuse(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"hub dataset org/set: cannot be read \(ConnectionError.*--data bundled"):
        open_data("hub", tmp_path, offline=True).rows("org/set", "main", "test", FIELDS)


def test_hub_rows_are_checked_like_files(tmp_path, monkeypatch):
    import datasets

    table = datasets.Dataset.from_list([{"question": "a", "answer": "1"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: table)
    with pytest.raises(DataError, match="row 0: field 'answer' is a str"):
        open_data("hub", tmp_path, offline=True).rows("org/set", "main", "test", FIELDS)
