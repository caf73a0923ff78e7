"""BOSS under paper B's prompts: the letters of prompts and calibration text, stumps, F1 against independent oracles."""

import collections
import json
import re
import string

import pytest

from quantgate.core.errors import DataError, UsageError
from quantgate.core.items import Item
from quantgate.core.metrics import Metric
from quantgate.core.requests import GenerateResponse, LikelihoodResponse
from quantgate.quantize.calibration.protocol import Desk
from quantgate.quantize.calibration.samples import Want
from quantgate.quantize.calibration.table import SOURCES
from quantgate.tasks.base import Selection
from quantgate.tasks.boss import normalized, option_of, read_entities, token_f1
from quantgate.tasks.boss_rows import KINDS, RELATIONS, SENTIMENTS, SETS, TOXICITIES, entities_of, shown_entities
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.found import check_tasks
from quantgate.tasks.items import with_shots
from quantgate.tasks.lessons import stock_of
from quantgate.tasks.manifest import manifest_note
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.table import TASKS, select_tasks


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, 4096, "tiny")


def passage(number, context=""):
    return {
        "id": str(number), "title": "", "context": context or f"The ship {number} sailed to port {number}.",
        "question": f"Where did ship {number} sail?",
        "answers": {"text": [f"port {number}", f"the port {number}"], "answer_start": [0, 0]},
    }  # fmt: skip


def sentence(number):
    return {
        "tokens": ["Ann", "Lee", "met", "Bo", "in", "Rome", str(number)],
        "tags": ["B-person", "I-person", "O", "B-person", "O", "B-location", "O"],
    }


@pytest.fixture
def data(tmp_path, write_jsonl):
    def texts(start, count, options):
        return [{"Text": f"text {start + n}", "Label": n % options} for n in range(count)]

    for config, first in (("sst5", 0), ("semeval", 500)):
        write_jsonl(tmp_path, "boss/sentiment", config, "train", texts(first, 60, 3))
        write_jsonl(tmp_path, "boss/sentiment", config, "test", texts(first + 200, 9, 3))
    write_jsonl(tmp_path, "boss/toxic", "toxigen", "test", texts(0, 4, 2))
    pairs = [{"Premise": f"p {n // 3}", "Hypothesis": f"h {n}", "Label": n % 3} for n in range(6)]
    write_jsonl(tmp_path, "boss/nli", "mnli", "test", pairs)
    write_jsonl(tmp_path, "boss/nli", "mnli", "validation", [{**pair, "Premise": "other"} for pair in pairs])
    write_jsonl(tmp_path, "boss/qa", "squad", "test", [passage(n) for n in range(5)])
    write_jsonl(tmp_path, "boss/qa", "squad", "train", [passage(n) for n in range(20, 40)])
    shared = passage(3)["context"]  # of a tested set: squad and advqa are cut out of the same articles
    write_jsonl(tmp_path, "boss/qa", "advqa", "train", [passage(90, shared), *(passage(n) for n in range(50, 80))])
    write_jsonl(tmp_path, "boss/qa", "advqa", "test", [passage(99)])
    write_jsonl(tmp_path, "boss/ner", "wnut", "test", [sentence(n) for n in range(3)])
    write_jsonl(tmp_path, "boss/ner", "wnut", "train", [sentence(n) for n in range(10, 30)])
    return DirectorySource(tmp_path)


def prompt_of(task, item, prompts):
    request = task.requests(item, prompts)[0]
    return prompts.decode(getattr(request, "prompt", None) or request.context)


def test_prompts_are_those_of_paper_b(data, prompts):
    item = TASKS["boss_sst5"].items(data, Selection(), prompts)[1]
    assert prompt_of(TASKS["boss_sst5"], item, prompts) == (
        "### Instruction ###\n"
        "Solve the sentiment analysis task. Options for sentiment: negative, positive, neutral.\n"
        "### Format ###\n"
        "Text: {Text} // Prediction: {Prediction}\n"
        "### Input ###\n"
        "Text: text 201 // Prediction:"
    )
    nli = TASKS["boss_mnli"].items(data, Selection(), prompts)[0]
    assert prompt_of(TASKS["boss_mnli"], nli, prompts).endswith("Premise: p 0 // Hypothesis: h 0 // prediction:")
    question = TASKS["boss_squad"].items(data, Selection(), prompts)[0]
    assert prompt_of(TASKS["boss_squad"], question, prompts) == (
        "### Instruction ###\nSolve the extractive question answering task. Refering to the passage below and extract "
        "answer for the question. The answer should be the shortest phrase as it can be.\n### Format ###\n"
        "Passage: {Passage} // Question: {Question} // Answer: {Answer}.\n### Input ###\n"
        "Passage: The ship 0 sailed to port 0. // Question: Where did ship 0 sail? // Answer:"
    )


def test_caps_are_those_of_paper_b(data, prompts):
    caps = {"boss_squad": 5, "boss_sst5": 2, "boss_mnli": 1, "boss_toxigen": 1, "boss_wnut": 50}
    for name, cap in caps.items():
        item = TASKS[name].items(data, Selection(), prompts)[0]
        assert TASKS[name].requests(item, prompts)[0].max_new_tokens == cap


@pytest.mark.parametrize("shots", [1, 2, 7])
def test_few_shot_means_that_many_examples_of_a_split_that_is_not_tested(shots, data, prompts):
    """There, any number means the same fixed examples, and the split of the examples is the tested one."""
    for name, word in (("boss_sst5", "Text:"), ("boss_mnli_likelihood", "Premise:"), ("boss_advqa", "Passage:")):
        task = with_shots(TASKS[name], min(shots, 6))
        item = task.items(data, Selection(), prompts)[0]
        _, examples = prompt_of(task, item, prompts).split("### Example ###\n")
        solved, asked = examples.split("### Input ###\n")
        assert solved.count(word) == len(solved.strip().split("\n")) == min(shots, 6)
        tested = [each.row for each in task.items(data, Selection(), prompts)]
        assert not any(dict(shot) in tested for shot in item.shots)
        assert asked not in solved
    with pytest.raises(DataError, match="60 rows; expected at least 61"):
        with_shots(TASKS["boss_sst5"], 61).examples(data)


def test_calibration_text_is_literally_paper_bs(data, prompts):
    desk, want = Desk(data, data, prompts), Want(2, 60, 1)
    texts = {name: SOURCES[name].samples(desk, want).texts for name in ("boss_sst5", "boss_mnli", "boss_wnut")}
    assert all(re.fullmatch(r"Text:text \d+ Label:(negative|positive|neutral)", text) for text in texts["boss_sst5"])
    pattern = r"Premise:other Hypothesis:h \d Label:(entailment|neutral|contradiction)"
    assert all(re.fullmatch(pattern, text) for text in texts["boss_mnli"])
    assert all("Label:person: Ann Lee, Bo || location: Rome" in text for text in texts["boss_wnut"])
    qa = SOURCES["boss_squad"].samples(desk, want).texts[0]
    assert re.fullmatch(r"Question:Where.*\? Context:The ship.*\. Answer:\['port \d+', 'the port \d+'\]", qa)


def test_passages_that_any_set_tests_are_left_out_of_calibration(data, prompts):
    texts, origin = SOURCES["boss_advqa"].lessons.texts(data)
    assert len(texts) == 30
    assert "less 1 rows whose text is tested" in origin
    assert not any("port 3." in text for text in texts)


def test_a_set_that_was_only_tested_is_no_calibration_set(data):
    assert "only test of boss/toxic" in SOURCES["boss_toxigen"].lacking(data)
    assert "has no boss/qa/searchqa" in SOURCES["boss_searchqa"].lacking(data)


@pytest.mark.parametrize(("said", "options", "meant"), [
    (" ent", RELATIONS, "entailment"), ("Ent.", RELATIONS, "entailment"), ("contr", RELATIONS, "contradiction"),
    ("n", RELATIONS, ""), ("ne", SENTIMENTS, ""), ("neg", SENTIMENTS, "negative"), (" ben", TOXICITIES, "benign"),
    ("to", TOXICITIES, "toxic"), ("the toxic", TOXICITIES, "toxic"), ("toxic text", TOXICITIES, ""),
    ("", TOXICITIES, ""), ("entailments", RELATIONS, ""), ("not toxic", TOXICITIES, ""),
])  # fmt: skip
def test_stumps(said, options, meant):
    assert option_of(said, options) == meant


def squad_normalized(text):
    """SQuAD's evaluation script in other words."""
    text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


@pytest.mark.parametrize(("said", "gold"), [
    ("The port 3.", "port 3"), ("a port", "the Port 3"), ("", "x"), ("x x y", "x y y"), ("the", "a"), ("Nope", "yes"),
])  # fmt: skip
def test_f1_and_normalisation_agree_with_squads_rules(said, gold):
    assert normalized(said) == squad_normalized(said)
    one, two = (collections.Counter(squad_normalized(text).split()) for text in (said, gold))
    same = sum((one & two).values())
    expected = 0.0 if not same else 2 / (sum(one.values()) / same + sum(two.values()) / same)
    if not one and not two:
        expected = 1.0
    assert token_f1(said, gold) == pytest.approx(expected, abs=1e-12)


def test_questions_take_the_best_of_all_accepted_answers(data, prompts):
    for name, scores in (("boss_squad", [1.0, 0.0]), ("boss_squad_f1", [1.0, 2 / 3])):
        task = TASKS[name]
        item = task.items(data, Selection(), prompts)[1]
        answers = [GenerateResponse(text, 3, "stop") for text in (" the Port 1.", " port")]
        assert [task.score(item, [each]).score for each in answers] == pytest.approx(scores)


def test_entities_and_their_f1():
    row = {"tokens": list("abcdef"), "tags": ["B-art", "I-art", "B-art", "O", "I-person", "I-location"]}
    assert entities_of(row) == [("art", "a b"), ("art", "c"), ("person", "e"), ("location", "f")]
    assert shown_entities(entities_of(row)) == "art: a b, c || person: e || location: f"
    assert shown_entities([]) == "None"
    assert read_entities(" person: Ann Lee, Bo || location: None || nothing") == [
        ("person", "ann lee"),
        ("person", "bo"),
    ]


def reference_macro_f1(said, meant):
    """Mean over gold types of F1 over all sentences, entities counted by sentence."""
    kinds = {kind for sentence in meant for kind, _ in sentence}
    scores = []
    for kind in kinds:
        true = {(n, *each) for n, sentence in enumerate(meant) for each in sentence if each[0] == kind}
        found = {(n, *each) for n, sentence in enumerate(said) for each in sentence if each[0] == kind}
        hits = len(true & found)
        precision, recall = hits / len(found) if found else 0, hits / len(true)
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return sum(scores) / len(scores)


def test_entity_f1_is_the_mean_over_types_of_the_whole_set(data, prompts):
    task = TASKS["boss_wnut"]
    items = task.items(data, Selection(), prompts)
    answers = [" person: Ann Lee || location: Paris", " person: Bo, Ann Lee || location: Rome", " None"]
    outcomes = [task.score(item, [GenerateResponse(text, 9, "stop")])
                for item, text in zip(items, answers, strict=True)]  # fmt: skip
    meant = [{("person", "ann lee"), ("person", "bo"), ("location", "rome")}] * 3
    assert task.metric.of(outcomes) == pytest.approx(
        reference_macro_f1([set(read_entities(a)) for a in answers], meant)
    )


def test_losses_are_means_over_tokens(data, prompts):
    task = TASKS["boss_squad_loss"]
    item = task.items(data, Selection(), prompts)[0]
    [request] = task.requests(item, prompts)
    assert prompts.decode(request.continuation) == " port 0"
    assert task.score(item, [LikelihoodResponse(-6.0, 4, False)]).score == 1.5
    assert isinstance(task.metric, Metric)
    assert not task.metric.higher_is_better


def test_rows_of_one_passage_are_one_group(data, prompts):
    groups = [item.group for item in TASKS["boss_mnli"].items(data, Selection(), prompts)]
    assert len(groups) == 6
    assert len(set(groups)) == 2


def test_a_missing_set_is_named_not_padded(data):
    chosen = {task.id for task in select_tasks(["boss"], data)}
    assert {"boss_sst5", "boss_squad_f1", "boss_wnut"} <= chosen
    assert not {"boss_searchqa", "boss_adv_civil", "boss_conll"} & chosen
    assert "mass_boss_adv_civil_likelihood" not in {task.id for task in select_tasks(["boss_sure"], data)}
    with pytest.raises(UsageError, match=r"nothing for boss_searchqa \(boss__qa/searchqa\)"):
        check_tasks([TASKS["boss_searchqa"]], data)


def test_a_label_beyond_the_options_is_refused(tmp_path, write_jsonl, prompts):
    write_jsonl(tmp_path, "boss/toxic", "toxigen", "test", [{"Text": "x", "Label": 2}])
    with pytest.raises(DataError, match="line 1: no answer in its terms"):
        TASKS["boss_toxigen"].items(DirectorySource(tmp_path), Selection(), prompts)


def test_subject_groups_ask_their_subjects_only(tmp_path, write_jsonl, prompts):
    row = {"id": 0, "question": "q", **dict.fromkeys("ABCD", "o"), "answer": "A", "explanation": ""}
    for subject in ("law", "college_physics"):
        for split in ("dev", "val"):
            rows = [row | {"question": f"{split} {subject} {n}", "D": f"d{n}"} for n in range(6)]
            write_jsonl(tmp_path, "ceval/ceval-exam", subject, split, rows)
    source = DirectorySource(tmp_path)
    items = TASKS["ceval_humanities"].items(source, Selection(), prompts)
    assert {item.group for item in items} == {"law"}
    assert all(len(item.shots) == 5 for item in items)
    assert len(TASKS["ceval"].items(source, Selection(), prompts)) == 12
    with pytest.raises(DataError, match="no subject of ceval/ceval-exam that belongs to other"):
        TASKS["ceval_other"].items(source, Selection(), prompts)
    texts, origin = SOURCES["ceval_humanities"].lessons.texts(source)
    assert len(texts) == 6
    assert all("dev law" in text and text.endswith("答案： A") for text in texts)
    assert isinstance(items[0], Item)
    assert "split dev" in origin


def test_the_manifest_of_a_data_directory_says_what_a_set_is_not(data):
    test = {"rows": 9, "rows_in_full_split": 1067, "source": "a/b@c:d.txt"}
    notes = "BOSS. sst5: five classes, cut otherwise. amazon_sst5: other."
    entry = {"notes": notes, "configs": {"sst5": {"test": test}}}
    (data.root / "MANIFEST.json").write_text(json.dumps({"datasets": {"boss__sentiment": entry}}), encoding="utf-8")
    note = manifest_note(data, "boss/sentiment", "sst5", "test")
    assert note == "9 of 1067 rows; from a/b@c:d.txt; five classes, cut otherwise"
    assert manifest_note(data, "boss/qa", "squad", "test") == ""
    assert manifest_note(data, "boss/sentiment", "", "test") == ""


def test_stock_sentences_are_fields_of_their_rows():
    named = [each for each in SETS if each.stock]
    assert [each.name for each in named] == ["boss_contract_nli"]
    for each in named:
        assert set(each.stock) <= set(KINDS[each.kind].fields)
    asked = (TASKS["boss_contract_nli"], TASKS["mass_boss_contract_nli_likelihood"])
    assert all(stock_of(task) == ("Hypothesis",) for task in asked)
