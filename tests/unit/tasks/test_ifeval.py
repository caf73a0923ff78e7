"""IFEval: what is asked of the library that checks, and what is made of its findings (a stand-in plays it here)."""

import random
import sys
from types import SimpleNamespace

import pytest

from quantgate.core.errors import DataError, UsageError
from quantgate.core.requests import GenerateResponse
from quantgate.tasks import ifeval
from quantgate.tasks.base import Selection
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.ifeval import NO_PUNKT, IfEval
from quantgate.tasks.prompts import Prompts

ROW = {
    "key": 1000,
    "prompt": "Write without commas.",
    "instruction_id_list": ["punctuation:no_comma", "startend:end_checker"],
    "kwargs": [{}, {"end_phrase": "So long."}],
}


@pytest.fixture(autouse=True)
def _fresh_checker():
    ifeval._checker.cache_clear()
    yield
    ifeval._checker.cache_clear()


@pytest.fixture
def library(monkeypatch):
    """Checks for commas and for the end; draws a number, as lm-eval's checks do when arguments are missing."""
    seen = []

    def process_results(doc, results):
        [text] = results
        seen.append((doc, text, random.random()))
        if text == "?":
            raise LookupError("punkt_tab")
        followed = [bool(text) and "," not in text, text.endswith("So long.")]
        return {
            "prompt_level_strict_acc": all(followed),
            "inst_level_strict_acc": followed,
            "prompt_level_loose_acc": any(followed),
            "inst_level_loose_acc": [True, True],
        }

    detector = SimpleNamespace(DetectorFactory=SimpleNamespace(seed=None))
    monkeypatch.setitem(sys.modules, "langdetect", detector)
    monkeypatch.setitem(sys.modules, "lm_eval", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "lm_eval.tasks.ifeval", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "lm_eval.tasks.ifeval.utils", SimpleNamespace(process_results=process_results))
    return SimpleNamespace(seen=seen, detector=detector)


@pytest.fixture
def data(tmp_path, write_jsonl):
    write_jsonl(tmp_path, "google/IFEval", "default", "train", [ROW, ROW | {"key": 1001}])
    return DirectorySource(tmp_path)


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, 512, "tiny")


def score(item, text):
    return IfEval().score(item, [GenerateResponse(text, 3, "eos")])


def test_outcomes(data, prompts, library):
    item = IfEval().items(data, Selection(), prompts)[0]
    assert prompts.decode(IfEval().requests(item, prompts)[0].prompt) == (
        "<|im_start|>user\nWrite without commas.<|im_end|>\n<|im_start|>assistant\n"
    )
    good, half = score(item, "Fine. So long."), score(item, "Well, well. So long.")
    assert (good.score, good.answer, half.score, half.answer) == (1.0, "yy", 0.0, "ny")
    assert half.companions == {"prompt_loose": 1.0, "share_strict": 0.5, "share_loose": 1.0, "capped": 0.0}
    assert library.seen[0][:2] == (ROW, "Fine. So long.")
    assert library.detector.DetectorFactory.seed == 0


def test_checks_that_draw_do_so_by_the_prompts_key_and_leave_the_generator_alone(data, prompts, library):
    items = IfEval().items(data, Selection(), prompts)
    random.seed(5)
    expected = random.random()
    random.seed(5)
    for item in (items[0], items[0], items[1]):
        score(item, "x")
    assert random.random() == expected
    draws = [draw for _, _, draw in library.seen]
    assert draws[0] == draws[1] != draws[2]


def test_a_check_without_its_data_set_is_unscored(data, prompts, library):
    outcome = score(IfEval().items(data, Selection(), prompts)[0], "?")
    assert (outcome.score, outcome.unscored) == (None, NO_PUNKT)


def test_without_the_library_it_is_wrong_usage(data, prompts, monkeypatch):
    monkeypatch.setitem(sys.modules, "langdetect", None)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UsageError, match=r"--tasks ifeval: its checks cannot be loaded: pip install 'quantgate"):
        IfEval().items(data, Selection(), prompts)
    assert ifeval.os.environ["LOCAL_RANK"] == "0"


def test_a_row_with_too_few_kwargs_is_refused(tmp_path, write_jsonl, prompts, library):
    write_jsonl(tmp_path, "google/IFEval", "default", "train", [ROW, ROW | {"kwargs": [{}]}])
    with pytest.raises(DataError, match=r"google/IFEval/default/train in .*, line 2: 2 instructions with 1 kwargs"):
        IfEval().items(DirectorySource(tmp_path), Selection(), prompts)
