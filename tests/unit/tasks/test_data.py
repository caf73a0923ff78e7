"""Data sources: layout, schema errors that name file, line and field."""

import pytest

from quantgate.core.errors import DataError
from quantgate.tasks.data import DirectorySource, HubSource, open_data

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


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The caches as ``datasets`` and ``huggingface_hub`` lay them out, offline: two commits of one dataset."""
    import datasets
    from huggingface_hub import constants

    for config, commit in (("main", "a" * 40), ("other", "b" * 40)):
        folder = tmp_path / "datasets" / "org___set" / config / "0.0.0" / commit
        table = datasets.Dataset.from_list([{"question": config, "answer": 1}])
        info = datasets.DatasetInfo(features=table.features, config_name=config, dataset_name="set", version="0.0.0")
        info.splits = {"test": datasets.SplitInfo("test", num_bytes=1, num_examples=1, dataset_name="set")}
        folder.mkdir(parents=True)
        with datasets.arrow_writer.ArrowWriter(path=str(folder / "set-test.arrow"), features=table.features) as writer:
            writer.write_table(table.data.table)
        info.write_to_directory(str(folder))
    files = tmp_path / "files" / "datasets--org--set"
    (files / "snapshots" / ("c" * 40)).mkdir(parents=True)
    (files / "snapshots" / ("c" * 40) / "table.csv").write_text("a,b\n")
    (files / "refs").mkdir()
    (files / "refs" / "main").write_text("c" * 40)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "files"))


def test_the_commit_that_was_read_from_the_hub_is_named(hub_cache):
    source = HubSource(offline=True)
    assert source.origin("org/set") == "hub, org/set at an unknown commit, not pinned"
    assert source.rows("org/set", "main", "test", FIELDS) == [{"question": "main", "answer": 1}]
    assert source.origin("org/set") == f"hub, org/set at {'a' * 40}, not pinned"
    source.rows("org/set", "other", "test", FIELDS)
    assert source.text("org/set", "table.csv") == "a,b\n"
    assert source.origin("org/set") == f"hub, org/set at {'a' * 40} and {'b' * 40} and {'c' * 40}, not pinned"
    assert source.origin("") == "hub"


def test_a_pinned_commit_is_asked_for_and_not_called_unpinned(hub_cache, monkeypatch):
    import datasets

    asked = []
    real = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **named: asked.append(named) or real(*args, **named))
    monkeypatch.setattr("quantgate.tasks.data.REVISIONS", {"org/set": "a" * 40})
    source = HubSource(offline=True)
    source.rows("org/set", "main", "test", FIELDS)
    assert asked[0]["revision"] == "a" * 40
    assert source.origin("org/set") == f"hub, org/set at {'a' * 40}"


@pytest.mark.parametrize(
    ("split", "shard"),
    [("train", "en/c4-train.00000-of-01024.json.gz"), ("validation", "en/c4-validation.00000-of-00008.json.gz")],
)
def test_one_shard_of_c4_is_read_and_named(monkeypatch, split, shard):
    import datasets

    asked = []
    table = datasets.Dataset.from_list([{"text": "a"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **named: asked.append((args, named)) or table)
    source = HubSource(offline=True)
    assert source.rows("allenai/c4", "en", split, {"text": str}) == [{"text": "a"}]
    [(args, named)] = asked
    assert args == ("allenai/c4",)
    assert (named["data_files"], named["split"], "name" in named) == ({split: shard}, split, False)
    assert source.origin("allenai/c4").endswith(f", only {shard}")


def test_other_datasets_are_read_by_configuration_and_split(monkeypatch):
    import datasets

    asked = []
    table = datasets.Dataset.from_list([{"text": "a"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **named: asked.append((args, named)) or table)
    HubSource(offline=True).rows("org/set", "main", "test", {"text": str})
    [(args, named)] = asked
    assert (args, named["name"], named["split"], "data_files" in named) == (("org/set",), "main", "test", False)


def test_a_missing_split_names_those_there(source):
    put(source, '{"question": "a", "answer": 1}\n', "train.jsonl")
    assert source.has("org/set", "main", "train")
    assert not source.has("org/set", "main", "test")
    with pytest.raises(DataError, match="expected the split 'test'; there is train, which does not stand in for it"):
        source.rows("org/set", "main", "test", FIELDS)


def test_a_directory_is_its_own_origin(source):
    assert source.origin("org/set") == source.name
