"""A server as a subject: from its address to a verdict, or to the sentence that says why there is none."""

import json

import pytest

from quantgate.core.errors import EngineError, ModelError, QuantgateError, UsageError
from quantgate.core.progress import Silent
from quantgate.core.remote import BUDGET, Manners
from quantgate.core.requests import LikelihoodResponse
from quantgate.engines.mock import MockRow
from quantgate.runs.evaluation import Evaluation
from quantgate.runs.options import Options, Sources
from quantgate.store.store import Store
from quantgate.subjects.candidates import parse_candidate
from quantgate.subjects.served import check_measurable, check_server
from quantgate.tasks.data import open_data
from quantgate.tasks.table import TASKS
from quantgate.verdict.policy_file import load_policy
from tests.conftest import make_model_dir, make_tokenizer
from tests.unit.engines.servers import Table, serving

POLICY = """
schema = 1
[metrics.acc]
margin = { absolute = 0.45 }
min_items = 4
stake = 0.0
"""
COUNT = 14


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("quantgate.subjects.served.MANNERS", Manners(attempts=2, pause_s=0.0))
    BUDGET.limit(None, None)
    yield
    BUDGET.limit(None, None)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model_dir(tmp_path_factory.mktemp("served") / "model", layers=1)


@pytest.fixture(scope="module")
def spoken():
    return make_tokenizer()


def questions(tokenizer):
    """Two options each, of which the table prefers the right one, which stands first as often as not."""
    table, rows = Table(), []
    for number in range(COUNT):
        question = f"Is it {number}?"
        context = tokenizer.encode(f"Q: {question}\nA:")
        options = sorted(
            (f"It is {number}.", f"Never {number}!"), key=lambda each: -table.of(context, tokenizer.encode(f" {each}"))
        )
        turn = number % 2
        choices = options[:: -1 if turn else 1]
        targets = {"choices": choices, "labels": [turn ^ 1, turn]}
        rows.append({"question": question, "mc1_targets": targets, "mc2_targets": targets})
    return rows


@pytest.fixture
def scene(tmp_path, write_jsonl, model, spoken):
    write_jsonl(tmp_path / "data", "truthfulqa/truthful_qa", "multiple_choice", "validation", questions(spoken))
    (tmp_path / "policy.toml").write_text(POLICY)
    reference = Table()

    def script(name, request):
        value = reference.of(request.context, request.continuation)
        return LikelihoodResponse(value, len(request.continuation), False)

    def evaluation(tasks=("truthfulqa",)):
        data = open_data(str(tmp_path / "data"), tmp_path / "data", offline=True)
        store = Store(tmp_path / "store", Silent())
        wanted = [TASKS[name] for name in tasks]
        policy = load_policy(tmp_path / "policy.toml")
        options = Options(model=str(model))
        return Evaluation(options, wanted, Sources(data, data), store, policy, tmp_path / "no", MockRow(script))

    return evaluation


def judged(evaluation, server, task="truthfulqa"):
    return evaluation.result(parse_candidate(f"mine={server.address}"), TASKS[task])


@pytest.mark.parametrize("dialect", ["llama.cpp", "vllm", "sglang", "openai"])
def test_a_server_that_answers_like_the_reference(dialect, scene, spoken):
    with serving(dialect, spoken) as server:
        evaluation = scene()
        result = judged(evaluation, server)
        assert (result.reference, result.value, result.items_worse) == (1.0, 1.0, 0)
        record = evaluation.subject_record(parse_candidate(f"mine={server.address}"))
        assert record["fake_or_packed"] == "served"
        assert record["served"]["address"] == server.address
        assert record["served"]["likelihoods"].startswith(("one forced", "prompt log-prob"))


def test_another_model_behind_the_server_is_regressed_and_shares_no_answer(scene, spoken):
    with serving("vllm", spoken) as server:
        good = judged(scene(), server)
        server.table = Table(3)
        bad = judged(scene(), server)
        assert (good.value, bad.verdict) == (1.0, "regressed")
        server.table = Table()
        before = len(server.calls)
        assert judged(scene(), server).value == 1.0
        assert server.calls[before:].count("/v1/completions") < 20  # probed, and nothing asked again


def test_a_model_exchanged_between_two_cases_is_invalid(scene, spoken):
    with serving("vllm", spoken) as server:
        evaluation = scene()
        evaluation.subject(parse_candidate(f"mine={server.address}"))
        evaluation.release()
        server.table = Table(1)
        with pytest.raises(EngineError, match="it answers a known string otherwise than at first"):
            judged(evaluation, server)


def test_what_a_server_cannot_give_is_said(scene, spoken):
    with serving("lmstudio", spoken, "no logprobs") as server, pytest.raises(UsageError) as caught:
        judged(scene(), server)
    assert "mine: it gives no log-likelihoods of given text; expected what truthfulqa asks for" in str(caught.value)


def test_the_likeliest_tokens_are_not_enough_for_longer_options(scene, spoken):
    with serving("ollama", spoken) as server, pytest.raises(EngineError, match="the likeliest next tokens alone, and"):
        judged(scene(), server)


def test_a_broken_server_has_no_score(scene, spoken):
    with serving("vllm", spoken) as server:
        evaluation = scene()
        evaluation.subject(parse_candidate(f"mine={server.address}"))
        server.faults.add("500 for ever")
        with pytest.raises(EngineError, match=r"status 500 of /v1/completions .*asked 2 times"):
            judged(evaluation, server)


def test_a_server_whose_every_token_is_impossible_gives_no_likelihoods(scene, spoken):
    with serving("vllm", spoken, "minus infinity") as server, pytest.raises(UsageError, match="no log-likelihoods"):
        judged(scene(), server)


def test_a_budget_ends_inconclusive_and_a_larger_one_goes_on(scene, spoken):
    with serving("vllm", spoken) as server:
        BUDGET.limit(2 * 5, None)
        few = judged(scene(), server)
        assert few.verdict == "inconclusive"
        assert "the budget of --max-requests 10 is used up after" in few.reason
        assert 0 < few.n_items <= 5
        BUDGET.limit(None, None)
        before = server.calls.count("/v1/completions")
        whole = judged(scene(), server)
        assert (whole.n_items, whole.value) == (COUNT, 1.0)
        asked = server.calls.count("/v1/completions") - before
        # the rest of the items, all of them again for the noise, and what probing and canaries take
        assert asked < 2 * (COUNT - few.n_items) + 2 * COUNT + 45


def test_what_cannot_be_done_with_a_server(scene, spoken):
    with serving("vllm", spoken) as server:
        subject = scene().subject(parse_candidate(f"mine={server.address}"))
        with pytest.raises(UsageError, match="cannot be measured from outside"):
            check_measurable(subject)
        with pytest.raises(ModelError, match="its weights cannot be loaded here"):
            subject.load("bfloat16", "cpu")
        assert not subject.is_unquantized


def test_a_server_is_looked_for_before_anything_heavy(spoken):
    with serving("vllm", spoken) as server:
        check_server(parse_candidate(f"mine={server.address}/v1"))
        with pytest.raises(UsageError, match="no model 'x' there"):
            check_server(parse_candidate(f"mine={server.address}/v1#x"))
    with pytest.raises(EngineError, match="ConnectError"):
        check_server(parse_candidate(f"mine={server.address}"))


@pytest.mark.parametrize(
    ("place", "words"),
    [("http://user:pw@host/v1", "a user, a key or a query"), ("ftp://host", "no address"), ("http://", "no address")],
)
def test_what_is_no_place(place, words):
    with pytest.raises(QuantgateError, match=words) as caught:
        parse_candidate(f"mine={place}")
    assert "pw" not in str(caught.value)


def test_a_row_holds_no_key(monkeypatch):
    monkeypatch.setenv("QUANTGATE_SERVER_KEY", "s3cret")
    method = parse_candidate("my-own=https://host/v1#org/model")
    assert "s3cret" not in json.dumps(method.as_record())
    assert method.as_record()["settings"] == {"address": "https://host", "model": "org/model"}
