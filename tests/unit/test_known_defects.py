"""The defects of the toolbox MI-optimize's evaluation and tests, one test each: what is wrong there holds here.

Those of its quantizers are in ``tests/unit/quantize/test_known_defects.py``.
"""

import ast
import importlib
import inspect
import itertools
import json
import math
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from quantgate.core.progress import Silent
from quantgate.core.requests import Generate, GenerateResponse, Likelihood, LikelihoodResponse, Rolling, RollingResponse
from quantgate.efficiency.workload import Generator, Workload, prompt_of, run_in_turns
from quantgate.engines.torch.engine import TorchEngine
from quantgate.tasks.base import Selection
from quantgate.tasks.data import BUNDLED_DATA, DirectorySource
from quantgate.tasks.found import dataset_of, has_rows
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.rolling import RollingTask
from quantgate.tasks.table import TASKS
from tests.unit.engines.tiny import Letters, collect, tiny_model

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BUNDLED = DirectorySource(BUNDLED_DATA, "bundled")
JUDGED = [name for name in TASKS if name.startswith("followbench")]  # a judge model scores them: tasks/test_followbench
ELSEWHERE = re.compile(r"(decode_ppl|token_consistency|sampled)_\w+")  # ask a model's own answers or settings first


def bundled_tasks():
    return [name for name, task in TASKS.items() if dataset_of(task) and has_rows(task, BUNDLED)]


@pytest.mark.parametrize("name", ["mmlu", "mmlu_cloze", "ceval", "cmmlu"])
def test_examples_are_the_subjects_own_and_never_scored(name, tokenizer):
    """There, examples are drawn for every character of the subject's name, and from the test split."""
    task = TASKS[name]
    folder = BUNDLED_DATA / task.dataset.replace("/", "__")

    def lines(subject, split):
        return [json.loads(line) for line in (folder / subject / f"{split}.jsonl").read_text("utf-8").splitlines()]

    items = task.items(BUNDLED, Selection(), Prompts(tokenizer, 8192, "tiny"))
    assert {item.group for item in items} == {path.name for path in folder.iterdir()}
    for item in items:
        assert [dict(shot) for shot in item.shots] == lines(item.group, "dev")[:5]
        assert item.row in lines(item.group, task.exam.split)


def calls_of(page):
    """Calls in a page's Python, as (where, function, call): of what is imported from quantgate, or in its interface."""
    text = page.read_text(encoding="utf-8")
    for code in [*re.findall(r"```python\n(.*?)```", text, re.S), *re.findall(r"`(quantgate\.\w+\([^`]*\))`", text)]:
        tree, known = ast.parse(code), {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("quantgate"):
                module = importlib.import_module(node.module)
                known |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
        known |= {f"quantgate.{name}": found for name, found in vars(importlib.import_module("quantgate.api")).items()}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and callable(known.get(ast.unparse(node.func))):
                yield f"{page.name}: {ast.unparse(node)}", known[ast.unparse(node.func)], node


def test_pages_call_what_exists_as_it_is_called():
    """There, the README calls a function with arguments it does not have, and a list is taken for a number."""
    found = [call for page in PAGES for call in calls_of(page)]
    assert len(found) >= 5
    for where, function, call in found:
        named = {keyword.arg: None for keyword in call.keywords}
        try:
            inspect.signature(function).bind(*call.args, **named)
        except TypeError as error:
            pytest.fail(f"{where}: {error}")


def test_pages_name_options_that_exist():
    """Nor an option that nobody reads."""
    named = {option for page in PAGES for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text("utf-8"))}
    sources = itertools.chain(
        *((ROOT / room).rglob("*.py") for room in ("fixtures", "reports", "quantgate", "benchmarks"))
    )
    known = set(re.findall(r"\"(--[a-z][a-z-]+)\"", "\n".join(path.read_text("utf-8") for path in sources)))
    pytests = {"--strict", "--lf", "--junitxml", "--help", "--assert", "--setup-only", "--setup-plan", "--deselect"}
    # of pip, Hypothesis, lm-eval (--log_samples) and Ray
    others = pytests | {"--no-deps", "--hypothesis-profile", "--log", "--head"}
    for line in (ROOT / "docs" / "servers.md").read_text("utf-8").splitlines():
        if "pytest evals" not in line:  # how a server is started
            others |= set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", line))
    negated = {f"--no-{option[2:]}" for option in known}
    assert named - known - negated - others == set()


LENGTHS = (2, 5, 9, 33)
LABELS = ("entailment", "neutral", "contradiction")  # the words of SNLI, which its rows have as numbers


def test_every_predicted_token_counts_once_and_padding_never():
    """There, a mean over n - 1 losses is weighted by n, and padding is masked wrongly."""
    model = tiny_model("llama")
    draw = torch.Generator().manual_seed(0)
    requests = [Rolling(tuple(torch.randint(2, 61, (n,), generator=draw).tolist())) for n in LENGTHS]
    answers, _ = collect(TorchEngine(model, Letters(), progress=Silent(), batch_tokens=64), requests)
    task, losses = RollingTask("perplexity_prose", "prose", "ppl"), []
    for request, answer in zip(requests, answers, strict=True):
        ids = torch.tensor([request.tokens])
        mean = model(input_ids=ids, labels=ids).loss.detach()  # transformers' own shift and mean, of the segment alone
        item = type("Item", (), {"id": "0", "group": "", "row": {}})
        assert len(answer.nll) == len(request.tokens) - 1
        assert task.score(item, [answer]).score == pytest.approx(float(mean), rel=1e-5)
        losses.append(float(mean))
    assert task.metric.value(losses) == pytest.approx(math.exp(sum(losses) / len(losses)))


def test_segments_weigh_the_same(tmp_path, write_jsonl, tokenizer):
    """Equal lengths: a mean over segments is the mean over tokens, and no padding is ever needed."""
    write_jsonl(tmp_path, "ptb-text-only/ptb_text_only", "penn_treebank", "test", [{"sentence": "x" * 99}] * 11)
    task, prompts = RollingTask("perplexity_ptb", "ptb", "ppl", length=200), Prompts(tokenizer, 4096, "tiny")
    items = task.items(DirectorySource(tmp_path), Selection(), prompts)
    assert [len(item.row["tokens"]) for item in items] == [200] * 5  # of 1099 tokens


def test_scores_and_answers_do_not_hear_of_sampling():
    """There, temperature, top_p and a repetition penalty reshape the logits before letter scores are read."""
    model = tiny_model("qwen2")
    prompt = (7, 7, 9, 7, 9)
    requests = [*(Likelihood(prompt, (letter,)) for letter in (7, 9, 11, 13)), Generate(prompt, 8)]
    plain, _ = collect(TorchEngine(model, Letters(), progress=Silent()), requests)
    before = model.generation_config
    sampling = {"do_sample": True, "temperature": 0.1, "top_p": 0.1, "top_k": 2, "repetition_penalty": 5.0}
    model.generation_config = type(before)(**{**before.to_dict(), **sampling})
    try:
        found, _ = collect(TorchEngine(model, Letters(), progress=Silent()), requests)
        torch.manual_seed(0)
        theirs = model.generate(torch.tensor([prompt]), max_new_tokens=8)[0, len(prompt) :].tolist()
    finally:
        model.generation_config = before
    assert found == plain
    logprobs = model(input_ids=torch.tensor([prompt])).logits.detach()[0, -1].double().log_softmax(-1)
    wanted = [float(logprobs[letter]) for letter in (7, 9, 11, 13)]
    assert [answer.logprob for answer in found[:4]] == pytest.approx(wanted, abs=1e-4)
    text = Letters().decode(theirs, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert text != found[4].text, "these settings change nothing here: the test would prove nothing"


def test_speed_is_measured_on_tokens(tiny_model):
    """There, the latency benchmark feeds random floats as token ids, and has no tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    work, size, seen = Workload(2, 12, 6), model.config.vocab_size, []
    prompt = prompt_of(work, size, 0)
    assert (prompt.dtype, tuple(prompt.shape)) == (torch.int64, (2, 12))
    assert int(prompt.min()) >= 0
    assert size // 2 < int(prompt.max()) < size  # the whole vocabulary
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.inference_mode():
        timings, caches = run_in_turns([Generator(model, lambda: None)], prompt, work.new, [0])
        hook.remove()
        greedy = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=work.new, do_sample=False, eos_token_id=None
        )
    assert torch.equal(torch.cat(seen, 1), greedy[:, :-1])  # what is read next is what was written: no made-up input
    assert isinstance(caches[0], DynamicCache)
    assert timings[0].first > 0
    assert timings[0].rest > 0


def leaves(value):
    """Every string inside a row, and every number as one."""
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    elif value is not None:
        yield str(value)


def answer_to(request, turn, text):
    """A made-up response: of several options that of number ``turn`` is the likeliest."""
    if isinstance(request, Likelihood):
        return LikelihoodResponse(-float(turn), len(request.continuation), False)
    if isinstance(request, Rolling):
        return RollingResponse(tuple([1.0 + turn] * (len(request.tokens) - 1)))
    return GenerateResponse(text, 4, "eos")


def possible_scores(task, item, prompts):
    requests = task.requests(item, prompts)
    texts = ["", *"ABCD", *LABELS, "no, never", "one\n\ntwo", *leaves(dict(item.row))]
    for text in texts[:60]:
        yield task.score(item, [answer_to(each, 0, text) for each in requests]).score
    for best in range(len(requests)):
        yield task.score(item, [answer_to(each, int(at != best), "") for at, each in enumerate(requests)]).score
    yield task.score(item, [answer_to(each, 3, "") for each in requests]).score


@pytest.mark.parametrize(
    "name", [name for name in bundled_tasks() if name not in JUDGED and not ELSEWHERE.fullmatch(name)]
)
def test_no_task_is_a_stub(name, tokenizer):
    """There, named-entity recognition is a function that returns nothing. Here a task's score follows the answer."""
    prompts = Prompts(tokenizer, 8192, "tiny")
    items = TASKS[name].items(BUNDLED, Selection(limit=4), prompts)
    assert items
    scores = {score for item in items for score in possible_scores(TASKS[name], item, prompts)} - {None}
    assert len(scores) > 1, f"whatever the model answers, its score is {scores}"


ASSERTING = {
    *("raises", "warns", "fail", "assert_close", "assert_outcomes", "fnmatch_lines", "no_fnmatch_line"),
    *("suppress", "check_disjoint", "check_names"),  # the test is that nothing else is raised, or nothing at all
}


def checks(function, helpers):
    """Whether a test can fail by itself: an assertion, or a call of something that asserts."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in ASSERTING or called in helpers:
                return True
    return False


def functions_of(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))


def test_every_test_asserts_something():
    """There, scripts that need a GPU and LLaMA-2 stand in for tests, with practically no assertion."""
    found = [(path, each) for path in TEST_FILES for each in functions_of(path)]
    helpers = {each.name for _, each in found if checks(each, set())}
    tests = [(path, each) for path, each in found if each.name.startswith("test_")]
    assert len(tests) > 500
    silent = [f"{path.relative_to(ROOT)}::{each.name}" for path, each in tests if not checks(each, helpers)]
    assert not silent, "\n".join(silent)


def test_no_test_needs_the_weights_of_others():
    named = re.compile(r"from_pretrained\(\s*[\"'][\w.-]+/[\w.-]+[\"']")
    assert [path.name for path in TEST_FILES if named.search(path.read_text(encoding="utf-8"))] == []
