"""The three corpora of the field: split, order, number of documents and what stands between them."""

import pytest

from quantgate.core.errors import DataError
from quantgate.tasks.corpora import CORPORA
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.overlap import covered, run_hashes
from quantgate.tasks.repeats import MOSTLY


@pytest.fixture
def data(tmp_path, write_jsonl):
    """Rows that say which they are; every other split says that it is wrong."""
    for name, count in (("wikitext2", 5), ("ptb", 5), ("c4", 1103)):
        rows = CORPORA[name].rows
        for split in ("train", "validation", "test"):
            said = "" if split == rows.split else "wrong "
            texts = [{rows.field: f"{said}row {number}"} for number in range(count)]
            write_jsonl(tmp_path, rows.dataset, rows.config, split, texts)
    return DirectorySource(tmp_path)


def test_wikitext2_is_its_test_split_with_blank_lines_between_rows(data):
    assert CORPORA["wikitext2"].read(data) == "row 0\n\nrow 1\n\nrow 2\n\nrow 3\n\nrow 4"


def test_empty_rows_of_wikitext2_count_as_rows(data, write_jsonl):
    write_jsonl(
        data.root, "Salesforce/wikitext", "wikitext-2-raw-v1", "test", [{"text": t} for t in ("", " = A = \n", "")]
    )
    assert CORPORA["wikitext2"].read(data) == "\n\n = A = \n\n\n"


def test_ptb_is_its_test_split_with_spaces_between_sentences(data):
    assert CORPORA["ptb"].read(data) == "row 0 row 1 row 2 row 3 row 4"


def test_c4_is_the_first_1100_documents_of_validation_with_spaces_between_them(data):
    text = CORPORA["c4"].read(data)
    assert text == " ".join(f"row {number}" for number in range(1100))


@pytest.mark.parametrize("name", ["prose", "code"])
def test_text_that_python_carries_repeats_nothing(name, tmp_path):
    """A segment that repeats an earlier one is not asked: the shipped gate, which reads the start, would lose it."""
    words = CORPORA[name].read(DirectorySource(tmp_path)).split()
    segments = [words[start : start + 250] for start in range(0, 20_000, 250)]
    seen: set[int] = set()
    for segment in segments:
        runs = run_hashes(segment)
        assert covered([run in seen for run in runs], len(segment)) <= MOSTLY
        seen.update(runs)


@pytest.mark.parametrize("name", ["wikitext2", "ptb", "c4"])
def test_a_missing_split_is_an_error_that_names_those_there(data, name):
    rows = CORPORA[name].rows
    (data.root / rows.dataset.replace("/", "__") / rows.config / f"{rows.split}.jsonl").unlink()
    assert not CORPORA[name].in_(data)
    with pytest.raises(DataError, match=f"expected the split '{rows.split}'; there is t.* and .*not stand in"):
        CORPORA[name].read(data)


@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("wikitext2", "Salesforce/wikitext wikitext-2-raw-v1 test, joined by blank lines"),
        ("ptb", "ptb-text-only/ptb_text_only penn_treebank test, joined by spaces"),
        (
            "c4",
            "allenai/c4 en first 1,100 documents of validation (hub: shard 00000 of 00008), joined by spaces",
        ),
    ],
)
def test_protocols_name_split_and_joint(name, described):
    assert CORPORA[name].described == described
