"""Calibration sources: rows, files, mixtures, the random control; equal budgets; nothing that is tested."""

import importlib.metadata
import json
from collections import Counter

import pytest

from quantgate.core.errors import DataError, UsageError
from quantgate.core.registry import rows_of
from quantgate.quantize.calibration import table
from quantgate.quantize.calibration.protocol import CalibrationSource, Desk
from quantgate.quantize.calibration.samples import Documents, Want, packed, shares, whole
from quantgate.quantize.calibration.sources import CalibrationChoice, build_calibration, readable, shared_budget
from quantgate.quantize.calibration.table import SOURCES, source_called
from quantgate.quantize.calibration.texts import RandomTokens
from quantgate.tasks.data import BUNDLED_DATA, DirectorySource
from quantgate.tasks.prompts import Prompts
from tests.conftest import make_tokenizer

BUNDLED = DirectorySource(BUNDLED_DATA, "bundled")


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, 512, "tiny")


@pytest.fixture
def data(tmp_path, write_jsonl):
    def choice(number):
        return {"question_stem": f"stem {number}", "answerKey": "B",
                "choices": {"label": ["A", "B"], "text": [f"wrong {number}", f"right {number}"]}}  # fmt: skip

    write_jsonl(tmp_path, "allenai/openbookqa", "main", "train", [choice(n) for n in range(60)])
    write_jsonl(tmp_path, "allenai/openbookqa", "main", "test", [choice(n) for n in range(900, 960)])
    write_jsonl(tmp_path, "google/boolq", "default", "validation",
                [{"question": "q", "passage": "p", "answer": True}])  # fmt: skip
    dialogues = [{"instruction": f"say {n}", "input": "x" * (n % 2), "output": f"said {n}"} for n in range(40)]
    write_jsonl(tmp_path, "vicgalle/alpaca-gpt4", "default", "train", dialogues)
    return DirectorySource(tmp_path)


def build(data, prompts, name, **choice):
    return build_calibration(CalibrationChoice(name, **choice), data, BUNDLED, prompts)


def test_packed_samples_have_exactly_the_length_and_hold_each_document_once():
    texts = [f"d{n}" for n in range(30)]
    documents = Documents(texts, [(100 + n,) * (1 + n % 5) for n in range(30)], "here", first=(1,), joint=(2,))
    most = documents.capacity(7)
    drawn = packed(documents, Want(most, 7, 3), "set")
    assert {len(sample) for sample in drawn.samples} == {7}
    assert {sample[0] for sample in drawn.samples} == {1}
    counts = Counter(token for sample in drawn.samples for token in sample if token >= 100)
    assert all(count <= 1 + (token - 100) % 5 for token, count in counts.items())
    assert most * 6 <= documents.n_tokens < (most + 1) * 6
    assert packed(documents, Want(most, 7, 4), "set").samples != drawn.samples
    with pytest.raises(DataError, match=rf"which fill {most} samples of 7; expected at least {most + 1}"):
        packed(documents, Want(most + 1, 7, 3), "set")


@pytest.mark.parametrize("form", [packed, whole])
def test_documents_that_are_tested_are_passed_over(form):
    """Also one that comes in where another was left out; and nothing else moves."""
    texts = [f"d{n}" for n in range(40)]
    documents = Documents(texts, [(100 + n,) * 8 for n in range(40)], "here")
    drawn = form(documents, Want(20, 8, 3), "set", lambda texts: [])
    first = drawn.texts[4]
    second = next(each for each in form(documents, Want(20, 8, 3), "set", only(first)).texts if each not in drawn.texts)
    apart = form(documents, Want(20, 8, 3), "set", only(first, second))
    assert not {first, second} & {*apart.texts}
    assert len(apart.samples) == 20
    assert len({*apart.texts} & {*drawn.texts}) >= 10
    assert apart.origin == "here, less 2 rows whose text is tested"


def only(*tested):
    return lambda texts: [number for number, text in enumerate(texts) if text in tested]


@pytest.mark.parametrize("form", [packed, whole])
def test_a_set_that_is_tested_for_the_most_part_is_left_to_be_refused(form):
    documents = Documents([f"d{n}" for n in range(40)], [(100 + n,) * 8 for n in range(40)], "here")
    plain = form(documents, Want(20, 8, 3), "set", lambda texts: [])
    assert form(documents, Want(20, 8, 3), "set", only(*plain.texts[:3])) == plain


def test_a_task_teaches_its_train_rows_with_their_right_answers(data, prompts):
    calibration = build(data, prompts, "openbookqa", n_samples=4, length=50)
    assert calibration.n_tokens == 200
    record = calibration.as_record()
    assert (record["language"], record["length"], record["n_samples"]) == ("English", 50, 4)
    assert "split train" in record["source"]
    assert all(f"right {text.split()[1]}" in text for text in calibration.texts)
    assert not any("stem 9" in text and len(text.split()[1]) == 3 for text in calibration.texts)


def test_a_set_whose_only_split_is_tested_is_refused(data, prompts):
    with pytest.raises(DataError, match="has only validation of google/boolq, which is what is tested"):
        build(data, prompts, "boolq", n_samples=1, length=8)
    assert SOURCES["boolq"].lacking(data)
    assert SOURCES["openbookqa"].lacking(data) == ""
    assert {"openbookqa", "alpaca_gpt4"} <= set(readable(data))
    assert not {"dialogues", "random"} & set(readable(data))  # one needs a chat template, one is no text


def test_alpaca_is_chatml_to_the_letter(data, prompts):
    calibration = build(data, prompts, "alpaca_gpt4", n_samples=40)
    assert len(set(calibration.texts)) == 40
    assert (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nsay 1\n\nx<|im_end|>\n"
        "<|im_start|>assistant\nsaid 1<|im_end|>\n"
    ) in calibration.texts
    assert [prompts.decode(sample) for sample in calibration.samples] == list(calibration.texts)  # whole, native length


def test_dialogues_are_packed_where_a_budget_is_asked_for(data, prompts):
    whole = build(data, prompts, "dialogues", n_samples=5)
    cut = build(data, prompts, "dialogues", n_samples=5, length=33, peers=("dialogues", "alpaca_gpt4"))
    assert {len(sample) for sample in cut.samples} == {33}
    assert len({len(sample) for sample in whole.samples}) > 1


def test_the_users_text_and_documents(data, prompts, tmp_path):
    text, rows = tmp_path / "mine.txt", tmp_path / "mine.jsonl"
    text.write_text("abc " * 100, encoding="utf-8")
    rows.write_text("".join(json.dumps({"body": f"body {n}"}) + "\n" for n in range(30)), encoding="utf-8")
    assert build(data, prompts, str(text), n_samples=3, length=20).n_tokens == 60
    made = build(data, prompts, f"{rows}:body", n_samples=3, length=20)
    assert made.n_tokens == 60
    assert str(tmp_path) not in json.dumps(made.as_record())  # a path would make records differ between machines
    with pytest.raises(DataError, match=r"no text in field 'text'.*:FIELD \(fields here: body\)"):
        build(data, prompts, str(rows), n_samples=3, length=20)
    with pytest.raises(UsageError, match="no such file"):
        source_called(str(tmp_path / "none.txt"))
    with pytest.raises(UsageError, match="a field of a plain text"):
        source_called(f"{text}:body")


def test_two_names_of_one_text_are_the_same_set(data, prompts, tmp_path):
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text("the same words " * 50, encoding="utf-8")
    one, two = (build(data, prompts, str(tmp_path / f"{name}.txt"), n_samples=4, length=30) for name in ("one", "two"))
    assert one.digest == two.digest
    assert one.name != two.name


def test_mixtures_hold_their_shares(data, prompts):
    assert shares([1, 1, 1], 128) == [43, 43, 42]
    assert shares([0.25, 0.75], 4) == [1, 3]
    mixed = build(data, prompts, "random*1+openbookqa*3", n_samples=8, length=40)
    alone = build(data, prompts, "openbookqa", n_samples=6, length=40)
    assert mixed.samples[2:] == alone.samples
    assert (len(mixed.samples), mixed.name) == (8, "random*1+openbookqa*3")
    for wrong in ("random+", "random*x+c4", "random*0+c4", "random*inf+c4"):
        with pytest.raises(UsageError, match="NAME or NAME\\*WEIGHT"):
            source_called(wrong)


def test_random_tokens_are_of_ordinary_text_and_evenly_likely(data, prompts):
    made = build(data, prompts, "random", n_samples=64, length=256)
    counts = Counter(token for sample in made.samples for token in sample)
    vocabulary = prompts.encoding.plain_tokens
    assert set(counts) == set(vocabulary)
    assert len(vocabulary) == 256  # the byte tokenizer's letters, without its three markers
    # 16,384 draws over 256 tokens: 64 each, standard deviation 8; 6 of them are never seen by chance
    assert all(abs(count - 64) < 6 * 8 for count in counts.values())
    assert made.texts == ()


def test_first_tokens_stand_in_front_of_every_sample(data):
    prompts = Prompts(make_tokenizer("<|im_start|>"), 512, "tiny")
    for name in ("random", "openbookqa"):
        made = build(data, prompts, name, n_samples=3, length=20)
        assert {sample[0] for sample in made.samples} == set(prompts.first)
        assert all(prompts.first[0] not in sample[1:] for sample in made.samples)


def test_a_study_gives_all_sets_the_smallest_budget(data, prompts):
    desk = Desk(data, BUNDLED, prompts)
    least = SOURCES["openbookqa"].capacity(desk, 50)
    assert shared_budget(["random", "openbookqa"], desk, 50, 1000, 1) == int(least * 0.9)  # room for tested rows
    assert shared_budget(["random", "openbookqa"], desk, 50, 1000, 3) == least // 2
    assert shared_budget(["random", "openbookqa"], desk, 50, 2, 3) == 2


def test_subject_groups_by_colon_or_underscore():
    assert source_called("openbookqa") is SOURCES["openbookqa"]
    with pytest.raises(UsageError, match="unknown set 'ceval:music'"):
        source_called("ceval:music")


def test_another_package_adds_a_source_by_an_entry_point(monkeypatch):
    class Entry:
        name, value, load = "ours", "ours:ROW", staticmethod(lambda: RandomTokens("noise"))

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Entry] if group == table.GROUP else [])
    rows = rows_of(table.GROUP, CalibrationSource, [RandomTokens()], lambda row: row.name)
    assert list(rows) == ["random", "noise"]
    with pytest.raises(UsageError, match="'noise' is taken"):
        rows_of(table.GROUP, CalibrationSource, [RandomTokens("noise")], lambda row: row.name)
    monkeypatch.setattr(Entry, "load", staticmethod(lambda: 3))
    with pytest.raises(UsageError, match=r"a int; expected a .*CalibrationSource"):
        rows_of(table.GROUP, CalibrationSource, [], lambda row: row.name)
