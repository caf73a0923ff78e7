"""Baselines on disk: round trip, names as paths, what differs."""

import pytest

from quantgate.core.errors import StoreError
from quantgate.core.items import ItemOutcome
from quantgate.store import baselines

OUTCOMES = (
    ItemOutcome("a/test/0", "a", 1.0, "B", {"prob_right": 0.25}),
    ItemOutcome("a/test/1", "a", None, unscored="no answer"),
)
WITH_FACTS = (*OUTCOMES, ItemOutcome("a/test/2", "a", 12.5, "text", facts=(3.0, 4.0)))


def test_round_trip(tmp_path):
    path = baselines.path_of(tmp_path, "bundled", "mmlu")
    baselines.write(path, baselines.Baseline({"weights": "abc"}, WITH_FACTS, 0.0))
    assert baselines.read(path) == baselines.Baseline({"weights": "abc"}, WITH_FACTS, 0.0)
    assert path.read_text().count('"facts"') == 1, "only corpus metrics have facts"


def test_a_changed_score_breaks_the_seal(tmp_path):
    path = tmp_path / "mmlu.json"
    baselines.write(path, baselines.Baseline({"weights": "abc"}, OUTCOMES, 0.0))
    path.write_text(path.read_text().replace('"score": 1.0', '"score": 0.0'))
    with pytest.raises(StoreError, match="seal is broken"):
        baselines.read(path)


def test_unused_files_are_named(tmp_path):
    for task in ("mmlu", "mmul"):
        baselines.write(baselines.path_of(tmp_path, "m", task), baselines.Baseline({}, OUTCOMES, 0.0))
    assert baselines.unused(tmp_path, "m", ["mmlu", "gsm8k"]) == ["mmul.json"]


def test_missing_is_none(tmp_path):
    assert baselines.read(tmp_path / "none.json") is None


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 99, "provenance": {}, "outcomes": []}', "[1]"])
def test_anything_else_is_refused(tmp_path, text):
    (tmp_path / "mmlu.json").write_text(text)
    with pytest.raises(StoreError, match="--update-baselines"):
        baselines.read(tmp_path / "mmlu.json")


def test_model_names_stay_inside_the_folder(tmp_path):
    path = baselines.path_of(tmp_path, "../../etc/passwd", "mm/lu")
    assert path.parent.parent == tmp_path
    assert baselines.folder_name("..") == "model"


def test_differences_name_the_fields():
    assert baselines.differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == ["b", "c"]


def test_change_is_described():
    new = (ItemOutcome("a/test/0", "a", 0.0), ItemOutcome("a/test/2", "a", 1.0))
    text = baselines.describe_change(OUTCOMES, new)
    assert text == "2 items (1 new, 1 gone), 1 scores changed, mean 1.0000 -> 0.5000"
