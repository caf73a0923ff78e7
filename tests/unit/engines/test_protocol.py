"""Everything around an engine, without a model: answers are scripted, and the seam carries all that may change them."""

import itertools
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from quantgate.core import registry
from quantgate.core.errors import EngineError, QuantgateError, UsageError
from quantgate.core.items import Item
from quantgate.core.metrics import ACCURACY, Metric
from quantgate.core.progress import Silent
from quantgate.core.requests import (
    Generate,
    GenerateResponse,
    Likelihood,
    LikelihoodResponse,
    Rolling,
    RollingResponse,
    flaw,
)
from quantgate.engines.guarded import Guarded, _Opened
from quantgate.engines.mock import MockRow
from quantgate.engines.protocol import Capabilities, Setting
from quantgate.engines.table import engines
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.runs.evaluation import Evaluation
from quantgate.runs.options import Options, Sources
from quantgate.store.store import Store
from quantgate.subjects.candidates import parse_candidate
from quantgate.tasks.data import open_data
from quantgate.tasks.table import TASKS, check_table
from quantgate.verdict.policy_file import load_policy
from tests.conftest import make_model_dir


def knows_everything(model, request):
    """Options that come early in a digest are likelier: the same for every model."""
    return LikelihoodResponse(-float(sum(request.continuation) % 97) - 1.0, len(request.continuation), False)


def row(letter):
    choices = [f"{each} of {letter}" for each in "abcd"]
    return {"question": f"What is {letter}?", "subject": "sea", "choices": choices, "answer": ord(letter) % 4}


@pytest.fixture
def scene(tmp_path, write_jsonl):
    for split, letters in (("test", "fghijklm"), ("dev", "abcde")):
        write_jsonl(tmp_path / "data", "cais/mmlu", "sea", split, [row(letter) for letter in letters])
    model = make_model_dir(tmp_path / "model", layers=1)

    def evaluation(engine):
        data = open_data(str(tmp_path / "data"), tmp_path / "data", offline=True)
        options = Options(model=str(model))
        store = Store(tmp_path / "store", Silent())
        tasks = [TASKS["mmlu"]]
        return Evaluation(options, tasks, Sources(data, data), store, load_policy(None), tmp_path / "baselines", engine)

    return evaluation


def test_scripted_answers_carry_a_case_without_a_model(scene):
    engine = MockRow(knows_everything)
    result = scene(engine).result(METHODS["rtn8"], TASKS["mmlu"])
    assert (result.reference, result.delta, result.n_items) == (result.value, 0.0, 8)
    # 8 items of 4 options; the reference is asked all of them once more
    assert {name: len(asked) for name, asked in engine.asked.items()} == {"reference": 64, "rtn8": 32}


def test_answers_are_kept_by_what_the_engine_is(scene):
    first, again, other = (MockRow(knows_everything, version=version) for version in (1, 1, 2))
    for engine in (first, again, other):
        scene(engine).result(METHODS["rtn8"], TASKS["mmlu"])
    assert first.asked
    assert not again.asked
    assert other.asked == first.asked


def test_a_failing_engine_loses_one_chunk_and_the_next_run_goes_on(scene):
    def breaks(model, request):
        raise TimeoutError("no answer")

    with pytest.raises(QuantgateError, match=r"reference on mmlu: cannot be asked \(.*no answer"):
        scene(MockRow(breaks)).result(METHODS["rtn8"], TASKS["mmlu"])
    assert scene(MockRow(knows_everything)).result(METHODS["rtn8"], TASKS["mmlu"]).n_items == 8


def test_what_an_engine_cannot_give_is_refused_before_it_is_asked(scene):
    engine = MockRow(knows_everything, Capabilities(generate=True))
    with pytest.raises(UsageError, match=r"engine mock: it gives no log-likelihoods of given text; expected what mmlu"):
        scene(engine).result(METHODS["rtn8"], TASKS["mmlu"])
    assert not engine.asked


class Sloppy(MockRow):
    """Answers, and then does what an engine must not."""

    def open(self, weights, tokenizer, setting):
        row, engine = self, super().open(weights, tokenizer, setting)

        class Opened:
            def run(self, requests, sink, job):
                return row.fault(engine, requests, sink, job)

        return Opened()


FAULTS = {
    "31 of 32 requests were answered": lambda engine, requests, sink, job: engine.run(requests[1:], sink, job),
    "came twice": lambda engine, requests, sink, job: (
        engine.run(requests, sink, job) and engine.run(requests[:1], sink, job)
    ),
    "answer 32 was not asked for": lambda engine, requests, sink, job: engine.run(
        requests, lambda index, response: sink(index + 1, response), job
    ),
    "is a GenerateResponse": lambda engine, requests, sink, job: sink(0, GenerateResponse("yes", 1, "eos")),
    "number '0'": lambda engine, requests, sink, job: engine.run(requests, lambda at, each: sink(str(at), each), job),
    "it ended the process": lambda engine, requests, sink, job: sys.exit(0),
    "seconds of a run are None": lambda engine, requests, sink, job: engine.run(requests, sink, job) and None,
    "tokens of a run are nan": lambda engine, requests, sink, job: (
        engine.run(requests, sink, job) and {"tokens": float("nan")}
    ),
    "seconds of a run are -5.0": lambda engine, requests, sink, job: (
        engine.run(requests, sink, job) and {"seconds": -5.0}
    ),
}


@pytest.mark.parametrize("words", FAULTS)
def test_an_engine_that_answers_otherwise_than_asked_gives_no_score(scene, words):
    engine = Sloppy(knows_everything)
    engine.fault = FAULTS[words]
    with pytest.raises(EngineError, match=words):
        scene(engine).result(METHODS["rtn8"], TASKS["mmlu"])


def test_what_comes_after_an_engine_has_returned_is_not_taken(scene):
    late = []

    def fault(engine, requests, sink, job):
        late.append(lambda: sink(0, LikelihoodResponse(-0.001, 1, False)))
        return engine.run(requests, sink, job)

    engine = Sloppy(knows_everything)
    engine.fault = fault
    scene(engine).result(METHODS["rtn8"], TASKS["mmlu"])
    for each in late:
        each()


def test_an_engine_cannot_change_what_it_is_asked(scene):
    def fault(engine, requests, sink, job):
        stats = engine.run(requests, sink, job)
        requests.clear()
        return stats

    engine = Sloppy(knows_everything)
    engine.fault = fault
    assert scene(engine).result(METHODS["rtn8"], TASKS["mmlu"]).n_items == 8


PAIR, TEXT, ASKED = Likelihood((1,), (2, 3)), Generate((1,), 4), Rolling((1, 2, 3))
ANSWERS = {
    "": [
        (PAIR, LikelihoodResponse(-1.5, 2, False)),
        (PAIR, LikelihoodResponse(math.nan, 2, False)),  # a broken model's answer: its verdict says so
        (PAIR, LikelihoodResponse(math.inf, 2, False)),
        (PAIR, LikelihoodResponse(1e-6, 2, True)),
        (TEXT, GenerateResponse("", 0, "eos")),
        (ASKED, RollingResponse((0.5, -1e-6))),
        (ASKED, RollingResponse((0.5, math.nan), (0.1, -0.005), (1, 0), (0.0, 0.0))),
    ],
    "a log-probability, expected a float": [
        (PAIR, LikelihoodResponse(value, 2, False)) for value in ("-1", None, True, np.float32(-1), torch.tensor(-1.0))
    ],
    "expected 0 at most": [(PAIR, LikelihoodResponse(3.0, 2, False))],
    "tokens, expected 2": [(PAIR, LikelihoodResponse(-1.0, count, False)) for count in (1, 3, None, True)],
    "greedy": [(PAIR, LikelihoodResponse(-1.0, 2, None))],
    "is a RollingResponse, expected a LikelihoodResponse": [(PAIR, RollingResponse((1.0,)))],
    "is a Mine, expected a LikelihoodResponse": [(PAIR, type("Mine", (LikelihoodResponse,), {})(-1.0, 2, False))],
    "values of nll, expected 2": [(ASKED, RollingResponse(nll)) for nll in ((), (1.0,), (1.0, 1.0, 1.0))],
    "values of kld, expected 2": [(ASKED, RollingResponse((1.0, 1.0), (0.1,)))],
    "values of same_top, expected 2": [(ASKED, RollingResponse((1.0, 1.0), (0.1, 0.1)))],
    "no plain numbers under nll": [(ASKED, RollingResponse(nll)) for nll in ([1.0, 1.0], ("1", "1"), None)],
    "a loss below 0": [(ASKED, RollingResponse((-1.0, 1.0)))],
    "a mean kld below 0": [(ASKED, RollingResponse((1.0, 1.0), (-5.0, 0.1), (1, 1)))],
    "other values of same_top": [(ASKED, RollingResponse((1.0, 1.0), (0.1, 0.1), (1, 7)))],
    "for a text": [(TEXT, GenerateResponse(b"yes", 1, "eos"))],
    "4 at most": [(TEXT, GenerateResponse("yes", count, "eos")) for count in (5, -1, None)],
    "ended by 'tired'": [(TEXT, GenerateResponse("yes", 1, "tired"))],
}


@pytest.mark.parametrize("words", ANSWERS)
def test_what_no_model_can_answer(words):
    for request, response in ANSWERS[words]:
        found = flaw(request, response)
        assert words in found if words else not found, found


IDENTITIES = {
    "cannot say what it is (there is no 'nope')": lambda: {}["nope"],
    "a NoneType; expected a dict": lambda: None,
    "a list; expected a dict": lambda: ["a"],
    "is no JSON (Object of type object": lambda: {"a": object()},
    "is no JSON (Out of range float": lambda: {"a": math.nan},
    "differs from call to call": itertools.count().__next__,
    "batch_tokens 'many' in its identity": lambda: {"batch_tokens": "many"},
}


@pytest.mark.parametrize("words", IDENTITIES)
def test_an_engine_says_what_it_is_in_facts(words, tmp_path):
    row = MockRow(knows_everything)
    made = IDENTITIES[words]
    row.identity = lambda *given: {"a": made()} if "differs" in words else made()
    with pytest.raises(EngineError) as error:
        Guarded(row).identity(tmp_path, "model", Setting())
    assert words in str(error.value)


@pytest.mark.parametrize("able", [None, {"likelihood": True}, Capabilities("no", "no")])
def test_an_engine_says_yes_or_no_to_what_it_can(able):
    with pytest.raises(EngineError, match="capabilities"):
        Guarded(MockRow(knows_everything, able))


@pytest.mark.parametrize("opened", [None, object()])
def test_an_engine_opens_what_can_be_run(opened):
    row = MockRow(knows_everything)
    row.open = lambda *given: opened
    with pytest.raises(EngineError, match="cannot be run"):
        Guarded(row).open(None, None, Setting())


def test_the_comparison_of_an_engine_is_a_number():
    with pytest.raises(EngineError, match="its comparison is None"):
        Guarded(MockRow(knows_everything, comparison=None))


def test_distributions_that_were_not_compared_are_no_distance_of_zero():
    task = TASKS["kld_ptb"]
    item = Item("ptb/0", "ptb/0", {"tokens": (1, 2, 3)})
    found = task.score(item, [RollingResponse((1.0, 2.0))])
    assert found.score is None
    assert "not compared" in found.unscored


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"id": "a-b"}, "case ids"), ({"id": "kld"}, "taken"), ({"id": "weight_bytes"}, "taken"),
     ({"dimension": "speed"}, "knowledge or alignment or fidelity"), ({"dimension": None}, "dimension None"),
     ({"protocol": None}, "protocol is no text"), ({"protocol": "a\n| pass |"}, "protocol is no text of one line"),
     ({"version": "1"}, "version is no integer"), ({"dataset": 5}, "dataset no text"),
     ({"metric": "acc"}, "its metric is acc, no Metric"), ({"metric": Metric("wise", True, 3)}, "no Metric"),
     ({"metric": Metric("acc", False, "binary")}, "called 'acc', and is another one"),
     ({"metric": Metric("ppl", False, "exp_mean", stake=0.0)}, "called 'ppl', and is another one"),
     ({"metric": Metric("a b", True, "mean")}, "called 'a b'"),
     ({"chance": float("nan")}, "no score of acc can be"), ({"chance": -5.0}, "no score of acc can be"),
     ({"chance": "half"}, "no score of acc can be"), ({"chance": True}, "no score of acc can be")],
)  # fmt: skip
def test_a_task_that_no_case_could_be_made_of_is_refused(fields, words):
    facts = {"id": "theirs", "dimension": "knowledge", "protocol": "asked", "version": 1, "metric": ACCURACY}
    with pytest.raises(UsageError, match=words):
        check_table([SimpleNamespace(**facts | fields)])
    check_table([SimpleNamespace(**facts)])


@pytest.mark.parametrize(
    ("able", "request_", "compared", "lacking"),
    [
        (Capabilities(), Likelihood((1,), (2,)), False, "log-likelihoods of given text"),
        (Capabilities(likelihood=True), Likelihood((1,), (2,)), False, ""),
        (Capabilities(likelihood=True), Generate((1,), 4), False, "generated text"),
        (Capabilities(generate=True), Generate((1,), 4), False, ""),
        (Capabilities(), Rolling((1, 2)), False, "losses of every token of a text"),
        (Capabilities(losses=True), Rolling((1, 2)), False, ""),
        (Capabilities(losses=True), Rolling((1, 2)), True, "distributions over the next token"),
        (Capabilities(losses=True, distributions=True), Rolling((1, 2)), True, ""),
    ],
)
def test_capabilities(able, request_, compared, lacking):
    assert able.lacking([request_], compared=compared) == lacking
    assert able.lacking([], compared=compared) == ""


class Entry:
    name, value = "theirs", "theirs:ROW"

    def __init__(self, row):
        self.row = row

    def load(self):
        return self.row


def test_an_installed_package_adds_an_engine(monkeypatch):
    mock = MockRow(knows_everything)
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [Entry(mock)])
    assert engines()["mock"] is mock
    assert list(engines()) == ["torch", "mock"]


@pytest.mark.parametrize("name", ["", 7, None, "a/b", "Torch", "a\n[red]"])
def test_an_engine_with_a_name_that_nobody_can_type_is_refused(monkeypatch, name):
    row = SimpleNamespace(**dict.fromkeys(("capabilities", "comparison", "identity", "open")), name=name)
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [Entry(row)])
    with pytest.raises(UsageError, match=r"plugin 'theirs' \(theirs:ROW\): a row called "):
        engines()


@pytest.mark.parametrize(
    ("row", "words"), [(3, "a int; expected a quantgate.engines.protocol.EngineRow"), ("torch", "'torch' is taken")]
)
def test_what_is_no_engine_is_refused_by_name(monkeypatch, row, words):
    row = engines()[row] if row == "torch" else row
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [Entry(row)])
    with pytest.raises(UsageError, match=f"plugin 'theirs' \\(theirs:ROW\\).*{words}"):
        engines()


def test_no_command_can_choose_scripted_answers():
    assert "mock" not in engines()


def test_a_candidate_is_not_called_like_the_reference(tmp_path):
    with pytest.raises(UsageError, match="so the 16-bit model is called"):
        parse_candidate(f"reference={tmp_path}")


def test_an_engine_may_empty_its_own_list_of_requests():
    class Emptying:
        def run(self, requests, sink, job):
            del job
            for index in range(len(requests)):
                sink(index, requests[index])
            requests.clear()
            return {}

    asked, found = [Rolling((1, 2)), Rolling((3,))], {}
    _Opened(Emptying(), "mine").run(asked, found.__setitem__, None)
    assert asked == list(found.values()) == [Rolling((1, 2)), Rolling((3,))]
