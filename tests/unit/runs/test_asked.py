"""Prompts that are longer than the model's context: fewer examples, or no question at all, and both are counted."""

import json
from dataclasses import replace

import pytest
from transformers import AutoModelForCausalLM, GPT2Config, OPTConfig

from quantgate.core.cases import CaseKey
from quantgate.core.errors import DataError, ModelError
from quantgate.core.items import REPEATED, digest_items
from quantgate.core.progress import Silent
from quantgate.core.requests import Generate, Likelihood
from quantgate.engines.torch.adapter import CausalModel
from quantgate.models.loading import context_length
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.runs.answers import chunks
from quantgate.runs.asked import ask_items
from quantgate.runs.evaluation import Evaluation
from quantgate.runs.options import Options, Sources
from quantgate.store.store import Store
from quantgate.tasks.base import Selection
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.items import with_shots
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.table import TASKS
from quantgate.verdict.evidence import conclude
from quantgate.verdict.policy_file import load_policy
from quantgate.verdict.visit import curve_of
from tests.conftest import make_model_dir

SHOT = "x" * 60  # with its options and the cue about 110 tokens, one a byte


def row(question):
    return {"question": question, "subject": "sea", "choices": ["one", "two", "three", "four"], "answer": 1}


@pytest.fixture
def data(tmp_path, write_jsonl):
    """Questions that leave room for five examples, for two, for none, and one that does not fit by itself."""
    root = tmp_path / "data"
    lengths = {"five": 10, "two": 280, "none": 380, "much": 600}
    write_jsonl(root, "cais/mmlu", "sea", "test", [row(name * (n // 4)) for name, n in lengths.items()])
    write_jsonl(root, "cais/mmlu", "sea", "dev", [row(f"{SHOT} {number}") for number in range(5)])
    problem = {"question": "y" * 80, "answer": "#### 5"}
    write_jsonl(root, "openai/gsm8k", "main", "train", [problem] * 8)
    lengths = (10, 290, 400, 600)
    problems = [{"question": "z" * length, "answer": f"#### {length}"} for length in lengths]
    write_jsonl(root, "openai/gsm8k", "main", "test", problems)
    articles = [{"article": "w" * length, "highlights": "A wave."} for length in (20, 900)]
    write_jsonl(root, "abisee/cnn_dailymail", "3.0.0", "test", articles)
    return DirectorySource(root)


def asked(name, data, tokenizer, length=512):
    prompts = Prompts(tokenizer, length, "tiny")
    return ask_items(TASKS[name], TASKS[name].items(data, Selection(), prompts), prompts)


def test_examples_are_dropped_from_the_front_until_the_prompt_fits(data, tokenizer):
    found = asked("mmlu_cloze", data, tokenizer)
    kept = [[shot["question"][-1] for shot in item.shots] for item in found.items]
    assert kept == [["1", "2", "3", "4"], ["3", "4"], [], []]
    assert found.shortened == {
        "sea/test/0": "4 of 5 examples",
        "sea/test/1": "2 of 5 examples",
        "sea/test/2": "0 of 5 examples",
    }
    assert found.unasked == {"sea/test/3": "its prompt is longer than the model's context of 512 tokens"}
    assert [len(found.requests[mine]) for mine in found.slices] == [4, 4, 4, 0]
    text = Prompts(tokenizer, 512, "tiny").decode(found.requests[4].context)
    assert [f"{SHOT} {number}" in text for number in range(5)] == [False, False, False, True, True]


def test_the_longest_prompt_that_fits_keeps_its_examples(data, tokenizer):
    """The engine reads all tokens but the last: one token less of context, and an example goes."""
    prompts = Prompts(tokenizer, 4096, "tiny")
    task = TASKS["mmlu"]
    [item, *_] = task.items(data, Selection(), prompts)
    needed = max(len(request.context) + len(request.continuation) - 1 for request in task.requests(item, prompts))
    for length, kept in ((needed, 5), (needed - 1, 4)):
        assert len(ask_items(task, [item], Prompts(tokenizer, length, "tiny")).items[0].shots) == kept


def test_generation_keeps_room_for_its_answer_as_long_as_it_has_examples_to_drop(data, tokenizer):
    found = asked("gsm8k_cot", data, tokenizer)
    assert [len(item.shots) for item in found.items] == [2, 0, 0, 0]
    assert list(found.shortened.values()) == [
        "2 of 8 examples",
        "0 of 8 examples, room for fewer than 256 new tokens",
        "0 of 8 examples, room for fewer than 256 new tokens",
    ]
    assert list(found.unasked) == ["test/3"]
    assert all(isinstance(request, Generate) and len(request.prompt) <= 512 for request in found.requests)


def test_cut_documents_and_short_segments_are_named(data, tokenizer, write_jsonl):
    assert asked("cnn_dailymail", data, tokenizer).shortened == {"test/1": "document cut at its end"}
    assert asked("cnn_dailymail", data, tokenizer, 4096).shortened == {}
    write_jsonl(
        data.root,
        "ptb-text-only/ptb_text_only",
        "penn_treebank",
        "test",
        [{"sentence": " ".join(map(str, range(900)))}],
    )
    assert asked("perplexity_ptb", data, tokenizer).counts(["ptb/0", "ptb/1"]) == {"segments of 512 tokens": 2}
    assert asked("perplexity_ptb", data, tokenizer, 2048).shortened == {}


@pytest.mark.parametrize(
    ("name", "shots", "protocol"),
    [
        ("mmlu", None, "5-shot, likelihood of the option letter"),
        ("mmlu", 3, "3-shot, likelihood of the option letter"),
        ("ceval", 0, "zero-shot, likelihood of the option letter"),
        ("hellaswag", None, "zero-shot, option log-likelihood"),
        ("hellaswag_norm", 10, "10-shot, option log-likelihood per character"),
        ("lambada", 1, "1-shot, last word greedy"),
        ("lambada_perplexity", 0, "zero-shot, loss of the last word"),
        ("gsm8k_cot", 4, "4-shot chain of thought, greedy, at most 256 new tokens, last_number"),
        ("gsm8k", 4, "zero-shot chat, greedy, at most 256 new tokens, last_number"),
        ("mmlu_generate", 5, TASKS["mmlu_generate"].protocol),
        ("truthfulqa_mc1", 3, "MC1 behind the authors' six examples, largest answer log-likelihood"),
    ],
)
def test_protocols_name_the_examples_that_are_shown(name, shots, protocol):
    assert with_shots(TASKS[name], shots).protocol == protocol


@pytest.mark.parametrize(
    "config",
    [GPT2Config(n_positions=96, n_embd=24, n_layer=1), OPTConfig(max_position_embeddings=128, num_hidden_layers=1)],
)
def test_the_context_is_the_engines(config, tmp_path):
    """GPT-2 calls it n_positions."""
    config.save_pretrained(tmp_path)
    config.vocab_size = 64
    model = AutoModelForCausalLM.from_config(config).eval()
    assert context_length(tmp_path, "tiny") == CausalModel(model, "cpu").max_length


@pytest.fixture
def evaluation(tmp_path, data):
    """A byte-level model with a context of 512 tokens."""
    return Evaluation(
        Options(model=str(make_model_dir(tmp_path / "model", layers=1))),
        [TASKS["mmlu"]],
        Sources(data, data),
        Store(tmp_path / "store", Silent()),
        load_policy(None),
        tmp_path / "baselines",
    )


def test_scored_and_unscored_make_up_the_selection_and_the_record_says_why(evaluation):
    result = evaluation.result(METHODS["rtn8"], TASKS["mmlu"])
    assert (result.n_items, sum(result.unscored.values())) == (3, 1)
    assert list(result.unscored) == ["both: its prompt is longer than the model's context of 512 tokens"]
    assert result.shortened == {"3 of 5 examples": 1, "1 of 5 examples": 1, "0 of 5 examples": 1}
    assert json.loads(json.dumps(result.as_json()))["shortened"] == result.shortened
    assert "mmlu: 1 of 4 items are asked with 1 of 5 examples" in evaluation.progress.notes
    reason = "its prompt is longer than the model's context of 512 tokens"
    assert f"mmlu: 1 of 4 items are not asked: {reason}" in evaluation.progress.notes


def test_a_task_of_which_nothing_fits_is_invalid(evaluation, data, write_jsonl):
    write_jsonl(data.root, "cais/mmlu", "sea", "test", [row("much" * 150), row("more" * 150)])
    result = evaluation.result(METHODS["rtn8"], TASKS["mmlu"])
    assert (result.verdict, result.n_items, sum(result.unscored.values())) == ("invalid", 0, 2)


# --- copies, items among their own examples, items that cannot be asked ----------------------------------------------


def questions(data, write_jsonl, rows, dev=()):
    write_jsonl(data.root, "cais/mmlu", "sea", "test", rows)
    filled = [*dev, *(row(f"Dev {number}?") for number in range(5 - len(dev)))]
    write_jsonl(data.root, "cais/mmlu", "sea", "dev", filled)


COPIES = {
    "spaces": lambda each: each | {"question": each["question"].replace(" ", "   ") + " "},
    "case": lambda each: each | {"question": each["question"].upper()},
    "punctuation": lambda each: each | {"question": f"\u201c{each['question']}\u201d !"},
    "full-width letters": lambda each: each | {"question": each["question"].replace("s", "\uff53")},
    "decomposed letters": lambda each: each | {"question": each["question"].replace("\u00e9", "e\u0301")},
    "zero-width signs": lambda each: each | {"question": each["question"].replace(" ", " \u200b")},
    "options in another order": lambda each: each | {"choices": each["choices"][::-1], "answer": 2},
    "another answer said to be right": lambda each: each | {"answer": 3},
    "the same once more": lambda each: dict(each),
}


@pytest.mark.parametrize("name", ["mmlu", "mmlu_cloze", "mmlu_generate"])
@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES.keys())
def test_a_copy_is_found_however_it_was_dressed(name, change, data, tokenizer, write_jsonl):
    given = [row(f"Is the caf\u00e9 number {number} by the sea?") for number in range(4)]
    questions(data, write_jsonl, [*given, change(given[2])])
    found = asked(name, data, tokenizer, 4096)
    assert found.unasked == {"sea/test/4": REPEATED}
    assert found.requests[found.slices[4]] == []
    assert f"mmlu: 1 of 5 items are not asked: {REPEATED}" in found.notes("mmlu")


def test_what_differs_in_a_word_a_digit_or_a_sign_is_another_question(data, tokenizer, write_jsonl):
    texts = ["7 - 5 = ?", "7 + 5 = ?", "7 * 5 = ?", "75 = ?", "7.5 = ?", "7 > 5 = ?", "-7 + 5 = ?", "Is it a ship?",
             "Is it the ship?", "?", "!"]  # fmt: skip
    questions(data, write_jsonl, [row(text) for text in texts])
    assert asked("mmlu", data, tokenizer, 4096).unasked == {}


def test_copies_in_another_subject_are_found(data, tokenizer, write_jsonl):
    questions(data, write_jsonl, [row("one?"), row("two?")])
    write_jsonl(data.root, "cais/mmlu", "sky", "test", [row("One ?"), row("three?")])
    write_jsonl(data.root, "cais/mmlu", "sky", "dev", [row(f"Sky {number}?") for number in range(5)])
    assert asked("mmlu", data, tokenizer, 4096).unasked == {"sky/test/0": REPEATED}


def test_mostly_copies_are_no_benchmark(data, tokenizer, write_jsonl):
    questions(data, write_jsonl, [row(f"Number {n}?{' ' * copy}") for n in range(10) for copy in range(12)])
    with pytest.raises(DataError, match=r"110 of 120 items ask the same as another \(sea/test/1 as sea/test/0\)"):
        asked("mmlu", data, tokenizer, 4096)


def test_segments_that_repeat_earlier_text_are_copies(data, tokenizer, write_jsonl):
    text = " ".join(f"w{number}" for number in range(1000, 1400))  # 2,399 bytes: not a whole number of segments
    sentences = [{"sentence": text}, {"sentence": text[:1500]}]
    write_jsonl(data.root, "ptb-text-only/ptb_text_only", "penn_treebank", "test", sentences)
    found = asked("perplexity_ptb", data, tokenizer)
    assert len(found.items) == 7
    assert found.unasked == dict.fromkeys(["ptb/5", "ptb/6"], REPEATED)


@pytest.mark.parametrize("name", ["mmlu", "mmlu_cloze"])
def test_no_item_stands_among_its_own_examples(name, data, tokenizer, write_jsonl):
    given = [row(f"What number {number}?") for number in range(8)]
    leaked = [given[0] | {"question": "what  NUMBER 0"}, given[1] | {"choices": given[1]["choices"]}]
    questions(data, write_jsonl, given, leaked)
    found = asked(name, data, tokenizer, 4096)
    assert [len(item.shots) for item in found.items] == [4, 4, *[5] * 6]
    assert found.shortened == dict.fromkeys(["sea/test/0", "sea/test/1"], "4 of 5 examples, itself taken out of them")
    text = Prompts(tokenizer, 4096, "tiny").decode(found.requests[0].context)
    assert text.lower().count("number 0") == 1
    assert f"{name}: 2 of 8 items are asked with 4 of 5 examples, itself taken out of them" in found.notes(name)


UNASKABLE = {
    "empty option": (row("Is it?") | {"choices": ["", "b", "c", "d"]}, "an option is empty"),
    "blank option": (row("Is it?") | {"choices": ["a", " \t", "c", "d"]}, "an option is empty"),
    "lone surrogate": (row("Is \ud83d it?"), "its text is no Unicode (a lone surrogate)"),
    "lone surrogate in an option": (
        row("Is it?") | {"choices": ["a", "\udc00", "c", "d"]},
        "its text is no Unicode (a lone surrogate)",
    ),
}


@pytest.mark.parametrize(("broken", "reason"), UNASKABLE.values(), ids=UNASKABLE.keys())
def test_an_item_that_cannot_be_asked_costs_itself_alone(broken, reason, data, tokenizer, write_jsonl):
    root = data.root
    questions(data, write_jsonl, [])
    lines = [json.dumps(each) for each in (row("Is that?"), broken, row("Is this?"))]
    (root / "cais__mmlu/sea/test.jsonl").write_text("".join(line + "\n" for line in lines))
    found = asked("mmlu_cloze", data, tokenizer, 4096)
    assert found.unasked == {"sea/test/1": reason}
    assert [len(found.requests[mine]) for mine in found.slices] == [4, 0, 4]
    assert len(digest_items(found.items)) == 64


def test_an_example_that_is_no_text_is_not_shown(data, tokenizer, write_jsonl):
    questions(data, write_jsonl, [row("Is that?")])
    lines = [json.dumps(row(f"Dev {number}?" + "\ud83d" * (number == 3))) for number in range(5)]
    (data.root / "cais__mmlu/sea/dev.jsonl").write_text("".join(line + "\n" for line in lines))
    assert [len(item.shots) for item in asked("mmlu", data, tokenizer, 4096).items] == [4]


class Joined(Prompts):
    """A tokenizer with one token for the end of some context and the option behind it."""

    def pair(self, context, continuation):
        found = super().pair(context, continuation)
        whole = found.context + found.continuation
        return Likelihood(whole, ()) if "glued" in context else found

    def chat(self, messages):
        if "glued" in messages[-1]["content"]:
            raise ModelError("model 'tiny'", "its chat template cannot render a dialogue of user (no glue)")
        return super().chat(messages)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mmlu", "an option has no token of its own behind its context"),
        ("mmlu_generate", "its chat template cannot render a dialogue of user (no glue)"),
    ],
)
def test_a_row_that_the_tokenizer_or_the_template_refuses_costs_itself_alone(
    name, reason, data, tokenizer, write_jsonl
):
    questions(data, write_jsonl, [row("Is that?"), row("Is it glued?"), row("Is this?")])
    prompts, task = Joined(tokenizer, 4096, "tiny"), TASKS[name]
    found = ask_items(task, task.items(data, Selection(), prompts), prompts)
    assert found.unasked == {"sea/test/1": reason}
    questions(data, write_jsonl, [row("All glued?")])
    if name == "mmlu_generate":
        with pytest.raises(ModelError, match="no glue"):
            ask_items(task, task.items(data, Selection(), prompts), prompts)
    else:
        assert len(ask_items(task, task.items(data, Selection(), prompts), prompts).unasked) == 1


def test_repeats_are_noted_and_the_rest_is_judged(evaluation, data, write_jsonl):
    """Eleven of 102 in MMLU's college physics: no reason to refuse it, and none to count them twice."""
    rows = [row(f"Is number {number} by the sea?") for number in range(91)]
    questions(data, write_jsonl, [*rows, *rows[:11]])
    result = evaluation.result(METHODS["rtn8"], TASKS["mmlu"])
    assert (result.n_items, result.unscored) == (91, {f"both: {REPEATED}": 11})
    assert "items have no score" not in result.reason


def test_a_repeated_segment_has_no_distance_on_either_side(evaluation, data, write_jsonl):
    """The reference's distance from itself is 0 by definition, but not where nothing was asked."""
    text = " ".join(f"w{number}" for number in range(1000, 1400))
    sentences = [{"sentence": text}, {"sentence": text[:1500]}]
    write_jsonl(data.root, "ptb-text-only/ptb_text_only", "penn_treebank", "test", sentences)
    evaluation.questions.planned.tasks = (TASKS["kld_ptb"],)
    result = evaluation.result(METHODS["rtn8"], TASKS["kld_ptb"])
    assert result.n_items > 0
    assert list(result.unscored) == [f"both: {REPEATED}"]


@pytest.mark.parametrize("gold", [[1] * 40, [1] * 24 + [0, 2, 3, 0] * 4])
def test_the_floor_knows_the_best_constant_answer(gold, evaluation, data, write_jsonl):
    """60% of the gold is B, so a model that always says B is no better than chance."""
    rows = [row(f"Is number {number} by the sea?") | {"answer": right} for number, right in enumerate(gold)]
    questions(data, write_jsonl, rows)
    evaluation.result(METHODS["rtn8"], TASKS["mmlu"])
    evidence = evaluation.evidence[CaseKey("rtn8", "mmlu")]
    assert evidence.chance == gold.count(1) / 40
    always_b = tuple(
        replace(each, score=float(right == 1), answer="B") for each, right in zip(evidence.reference, gold, strict=True)
    )
    judged = conclude(replace(evidence, reference=always_b)).judgement
    assert (judged.verdict, "the reference itself is at chance" in judged.reason) == ("invalid", True)


def test_chunks_begin_anew_at_each_cut():
    requests = [Likelihood((1,), (2,))] * 5
    assert chunks(requests) == [(0, 5)]
    assert chunks(requests, frozenset({0, 2, 3})) == [(0, 2), (2, 3), (3, 5)]


def test_a_guided_draw_learns_from_what_earlier_runs_asked_in_full(evaluation, tmp_path):
    """Another run of the same store: its curve is not the one that is drawn without it."""
    task = TASKS["mmlu"]
    evaluation.result(METHODS["rtn2"], task)
    options = replace(evaluation.options, sequential=True, guided=True)
    sources, root = evaluation.questions.sources, tmp_path / "baselines"
    again = Evaluation(options, [task], sources, evaluation.store, load_policy(None), root)
    again.result(METHODS["rtn8"], task)
    found = again.evidence[CaseKey("rtn8", "mmlu")]
    earlier = evaluation.evidence[CaseKey("rtn2", "mmlu")].subject
    assert found.guide.curve == curve_of(found.reference, [earlier])
    assert found.guide.curve != curve_of(found.reference, [])
    again.result(METHODS["rtn2"], task)  # its own answers of the earlier run are not taken for another method's
    own = again.evidence[CaseKey("rtn2", "mmlu")].guide.curve
    assert own == curve_of(found.reference, [found.subject])


def test_a_task_that_was_refused_when_calibration_text_was_compared_stays_refused(evaluation, monkeypatch):
    """Or its items would be scored without having been kept apart from that text."""
    questions, task = evaluation.questions, TASKS["mmlu"]
    items = type(task).items

    def gone(*_):
        raise DataError("mmlu", "the disk is gone")

    monkeypatch.setattr(type(task), "items", gone)
    assert questions._tested.items == {}
    monkeypatch.setattr(type(task), "items", items)
    with pytest.raises(DataError, match="the disk is gone"):
        questions.asked(task)
