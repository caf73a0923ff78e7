"""Everything around an engine, without a model: answers are scripted, and the seam carries all that may change them."""

from types import SimpleNamespace

import pytest

from quantgate.core import registry
from quantgate.core.errors import EngineError, QuantgateError, UsageError
from quantgate.core.items import Item
from quantgate.core.progress import Silent
from quantgate.core.requests import (
    Generate,
    GenerateResponse,
    Likelihood,
    LikelihoodResponse,
    Rolling,
    RollingResponse,
)
from quantgate.engines.mock import MockRow
from quantgate.engines.protocol import Capabilities
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
}


@pytest.mark.parametrize("words", FAULTS)
def test_an_engine_that_answers_otherwise_than_asked_gives_no_score(scene, words):
    engine = Sloppy(knows_everything)
    engine.fault = FAULTS[words]
    with pytest.raises(EngineError, match=words):
        scene(engine).result(METHODS["rtn8"], TASKS["mmlu"])


def test_distributions_that_were_not_compared_are_no_distance_of_zero():
    task = TASKS["kld_ptb"]
    item = Item("ptb/0", "ptb/0", {"tokens": (1, 2, 3)})
    found = task.score(item, [RollingResponse((1.0, 2.0))])
    assert found.score is None
    assert "not compared" in found.unscored


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"id": "a-b"}, "case ids"), ({"id": "kld"}, "taken"), ({"id": "weight_bytes"}, "taken"),
     ({"dimension": "speed"}, "knowledge or alignment or fidelity")],
)  # fmt: skip
def test_a_task_that_no_case_could_be_made_of_is_refused(fields, words):
    row = SimpleNamespace(**{"id": "theirs", "dimension": "knowledge"} | fields)
    with pytest.raises(UsageError, match=words):
        check_table([row])
    check_table([SimpleNamespace(id="theirs", dimension="knowledge")])


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
