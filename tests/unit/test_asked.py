"""Prompts that are longer than the model's context: fewer examples, or no question at all, and both are counted."""

import json

import pytest
from transformers import AutoModelForCausalLM, GPT2Config, OPTConfig

from quantgate.asked import ask_items
from quantgate.evaluation import Evaluation, Options
from quantgate.models.loading import context_length
from quantgate.progress import Silent
from quantgate.quantize.methods import METHODS
from quantgate.scoring.adapter import CausalModel
from quantgate.scoring.requests import Generate
from quantgate.store.store import Store
from quantgate.tasks.base import Selection
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.items import with_shots
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.table import TASKS
from quantgate.verdict.policy_file import load_policy
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
    model = AutoModelForCausalLM.from_config(config)
    assert context_length(tmp_path, "tiny") == CausalModel(model, "cpu").max_length


@pytest.fixture
def evaluation(tmp_path, data):
    """A byte-level model with a context of 512 tokens."""
    return Evaluation(
        Options(model=str(make_model_dir(tmp_path / "model", layers=1))),
        [TASKS["mmlu"]],
        data=data,
        bundled=data,
        store=Store(tmp_path / "store", Silent()),
        policy=load_policy(None),
        baselines_root=tmp_path / "baselines",
        progress=Silent(),
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
