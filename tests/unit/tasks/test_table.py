"""The table of tasks: names, groups, what suits which data."""

import re

import pytest

from quantgate.core.errors import DataError, UsageError
from quantgate.tasks.corpora import CORPORA
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.table import GROUPS, TASKS, select_tasks


@pytest.fixture
def bundled(tmp_path):
    for name in ("cais__mmlu", "truthfulqa__truthful_qa", "openai__gsm8k"):
        (tmp_path / name / "c").mkdir(parents=True)
    return DirectorySource(tmp_path, "bundled")


def split(root, dataset, config, name):
    folder = root / dataset.replace("/", "__") / config
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_text("{}\n")


def ids(tasks):
    return [task.id for task in tasks]


def test_ids_are_plain_words():
    assert all(re.fullmatch(r"[a-z0-9_]+", name) and TASKS[name].id == name for name in TASKS)


def test_defaults_follow_the_data(bundled, tmp_path):
    assert ids(select_tasks(None, bundled)) == [
        "perplexity_prose", "perplexity_code", "kld_prose", "kld_code", "mmlu_cloze", "truthfulqa", "gsm8k_cot",
    ]  # fmt: skip
    split(tmp_path, "ptb-text-only/ptb_text_only", "penn_treebank", "test")
    other = DirectorySource(tmp_path, "mine")
    assert ids(select_tasks(None, other)) == ["perplexity_ptb", "kld_ptb", "mmlu", "mmlu_cloze", "truthfulqa", "gsm8k"]


def test_a_task_named_outright_is_taken_whatever_the_data(bundled):
    assert ids(select_tasks(["perplexity_c4", "mmlu", "mmlu"], bundled)) == ["perplexity_c4", "mmlu"]


def test_a_group_without_text_is_not_dropped_silently(tmp_path):
    with pytest.raises(UsageError, match="data mine has text for none of 'perplexity'; expected perplexity_prose or"):
        select_tasks(["perplexity"], DirectorySource(tmp_path, "mine"))


def test_the_papers_ten_benchmarks_are_a_group(tmp_path):
    every = {str(getattr(TASKS[name], "dataset", "")) for name in GROUPS["paper"]}
    for name in every - {""}:
        (tmp_path / name.replace("/", "__") / "c").mkdir(parents=True)
    for name in ("wikitext2", "ptb", "c4"):
        rows = CORPORA[name].rows
        split(tmp_path, rows.dataset, rows.config, rows.split)
    found = ids(select_tasks(["paper"], DirectorySource(tmp_path, "mine")))
    assert found == list(GROUPS["paper"])
    assert "bbq_ambiguous" in ids(select_tasks(["paper"], DirectorySource(tmp_path, "bundled")))
    assert "bbq_ambiguous" in ids(select_tasks(None, DirectorySource(tmp_path, "mine")))
    assert "bbq_ambiguous" not in ids(select_tasks(None, DirectorySource(tmp_path, "bundled")))


def test_the_paper_reads_whole_corpora_in_its_raw_form():
    texts = [TASKS[name] for name in GROUPS["paper"] if name.startswith("perplexity")]
    assert [(task.corpus, task.raw, task.max_segments) for task in texts] == [
        ("wikitext2", True, None), ("ptb", True, None), ("c4", True, None),
    ]  # fmt: skip
    assert all("(all), paper A's raw form" in task.protocol for task in texts)
    for task in texts:
        usual = TASKS[task.id.removesuffix("_raw")]
        assert usual.max_segments == 140  # as many as can pass, see tests/unit/verdict/test_power.py
        assert TASKS[f"kld_exact_{task.corpus}"].max_segments == 16


@pytest.mark.parametrize(("wanted", "there"), [("perplexity_c4", "train"), ("kld_ptb", "validation")])
def test_another_split_does_not_stand_in(tmp_path, wanted, there):
    rows = CORPORA[wanted.split("_")[1]].rows
    split(tmp_path, rows.dataset, rows.config, there)
    (tmp_path / "openai__gsm8k" / "main").mkdir(parents=True)
    data, notes = DirectorySource(tmp_path, "mine"), []
    with pytest.raises(DataError, match=rf"task '{wanted}': data mine has {there} of {rows.dataset}, and its text is"):
        select_tasks([wanted], data)
    assert ids(select_tasks(None, data, notes.append)) == ["gsm8k"]
    assert f"{wanted} is left out: data mine has {there} of {rows.dataset}, and its text is {rows.split}" in notes


def test_unknown_names_are_refused_with_a_suggestion(bundled):
    with pytest.raises(UsageError, match="unknown task 'mmul'; did you mean 'mmlu'"):
        select_tasks(["mmul"], bundled)
