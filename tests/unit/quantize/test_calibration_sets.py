"""Calibration sets: drawn without replacement, seeded, from train text only."""

import pytest

from quantgate.core.errors import DataError, UsageError
from quantgate.quantize.calibration.sources import CalibrationChoice, build_calibration
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.prompts import Prompts
from tests.conftest import make_tokenizer


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, 512, "tiny")


@pytest.fixture
def data(tmp_path, write_jsonl):
    dialogues = [
        {"messages": [{"role": "user", "content": f"Question {n}"}, {"role": "assistant", "content": f"Answer {n}"}]}
        for n in range(20)
    ]
    write_jsonl(tmp_path, "quantgate/dialogues", "default", "train", dialogues)
    write_jsonl(tmp_path, "ptb-text-only/ptb_text_only", "penn_treebank", "train", [{"sentence": "train " * 40}])
    write_jsonl(tmp_path, "ptb-text-only/ptb_text_only", "penn_treebank", "test", [{"sentence": "test " * 40}])
    return DirectorySource(tmp_path)


def build(data, prompts, **choice):
    return build_calibration(CalibrationChoice(**choice), data, data, prompts)


def test_dialogues_are_whole_distinct_and_reproducible(data, prompts):
    calibration = build(data, prompts, n_samples=12)
    assert len(set(calibration.samples)) == 12
    assert all(prompts.decode(sample).endswith("<|im_end|>\n") for sample in calibration.samples)
    assert calibration.digest == build(data, prompts, n_samples=12).digest
    assert calibration.digest != build(data, prompts, n_samples=12, seed=7).digest
    record = calibration.as_record()
    assert (record["name"], record["domain"], record["n_samples"]) == ("dialogues", "chat", 12)
    assert record["n_tokens"] == sum(len(sample) for sample in calibration.samples)


def test_too_few_dialogues(data, prompts):
    with pytest.raises(DataError, match=r"20 texts; expected at least 21; add text or ask for fewer"):
        build(data, prompts, n_samples=21)


def test_corpora_give_segments_of_train_text(data, prompts):
    calibration = build(data, prompts, name="ptb", n_samples=5, length=50)
    assert {len(sample) for sample in calibration.samples} == {50}
    assert not any("test" in text for text in calibration.texts)


def test_corpus_segments_start_as_the_perplexity_segments_do(data):
    prompts = Prompts(make_tokenizer("<|im_start|>"), 512, "tiny")
    calibration = build(data, prompts, name="ptb", n_samples=5, length=50)
    assert {(sample[0], len(sample)) for sample in calibration.samples} == {(prompts.first[0], 50)}
    assert [prompts.decode(sample[1:]) for sample in calibration.samples] == list(calibration.texts)


def test_joints_splits_and_seeds_are_pinned(data, prompts, write_jsonl):
    for dataset, config, field in (
        ("Salesforce/wikitext", "wikitext-2-raw-v1", "text"),
        ("ptb-text-only/ptb_text_only", "penn_treebank", "sentence"),
        ("allenai/c4", "en", "text"),
    ):
        for split in ("train", "validation", "test"):
            write_jsonl(data.root, dataset, config, split, [{field: f"{split}{number}"} for number in range(3)])
    joint = {"wikitext2": "\n\n", "ptb": " ", "c4": "\n\n"}
    for name, between in joint.items():
        made = build(data, prompts, name=name, n_samples=60, length=15)
        whole = between.join(f"train{number}" for number in range(3))
        assert {whole[at : at + 15] for at in range(len(whole) - 15)} == set(made.texts), name
        assert "split train" in made.as_record()["source"]
        other = build(data, prompts, name=name, n_samples=60, length=15, seed=5)
        assert (made.digest != other.digest, other.as_record()["seed"]) == (True, 5)


def test_too_short_a_corpus(data, prompts):
    with pytest.raises(DataError, match="240 tokens of text; expected more than one segment of 512"):
        build(data, prompts, name="ptb", length=512)


def test_unknown_set(data, prompts):
    with pytest.raises(UsageError, match="unknown set 'pile'; known: dialogues, wikitext2, ptb, c4"):
        build(data, prompts, name="pile")
