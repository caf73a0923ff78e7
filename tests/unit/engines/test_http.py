"""Servers behind the engine's seam: every dialect gives the table's own numbers, every fault its own sentence."""

import math
import re

import pytest

from quantgate.core.errors import EngineError, QuantgateError, UsageError
from quantgate.core.progress import Silent
from quantgate.core.remote import BUDGET, Budget, Manners, Remote, SpentError, parse_address
from quantgate.core.requests import Generate, Likelihood, Rolling
from quantgate.engines.http.flight import Flight
from quantgate.engines.http.probe import probe
from quantgate.engines.http.row import HttpRow, grouped
from quantgate.engines.http.topk import bound_of
from quantgate.engines.protocol import Job, Setting
from tests.unit.engines.servers import Table, serving

QUICK = Manners(attempts=3, pause_s=0.0, timeout_s=30.0)
HASTY = Manners(attempts=9, pause_s=0.0, timeout_s=0.4)


@pytest.fixture(autouse=True)
def _no_budget():
    BUDGET.limit(None, None)
    yield
    BUDGET.limit(None, None)


def probed(server, tokenizer, model="", manners=QUICK):
    return probe(Remote(server.address, "candidate 'mine'", ("QG_TEST_KEY",), manners), model, tokenizer)


def answers(found, requests):
    kept = {}
    HttpRow(found).open(None, None, Setting()).run(requests, lambda at, response: kept.setdefault(at, response), JOB)
    return [kept[at] for at in range(len(requests))]


JOB = Job("mine", Silent())


def ids(tokenizer, text):
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def pairs(tokenizer, count=12):
    return [
        Likelihood(ids(tokenizer, f"Question {number}: is it so? Answer:"), ids(tokenizer, f" {option}"))
        for number in range(count)
        for option in ("Yes it is", "Yes it was", "No")
    ]


WAYS = {
    "llama.cpp": "forced",
    "vllm": "prompt_logprobs",
    "openai": "echo",
    "sglang": "native",
    "tgi": "prefill",
}


@pytest.mark.parametrize("dialect", WAYS)
def test_likelihoods_and_losses_are_those_of_the_model(dialect, tokenizer):
    with serving(dialect, tokenizer) as server:
        found = probed(server, tokenizer)
        assert found.way.name == WAYS[dialect]
        assert found.generates
        requests = pairs(tokenizer)
        for request, response in zip(requests, answers(found, requests), strict=True):
            assert response.logprob == pytest.approx(server.table.of(request.context, request.continuation), abs=1e-9)
            greedy = server.table.greedy(request.context, len(request.continuation))
            assert response.greedy == (greedy == list(request.continuation))
        told = server.table.greedy(requests[0].context, 3)
        if dialect != "tgi":  # random bytes are no text
            [likely] = answers(found, [Likelihood(requests[0].context, tuple(told))])
            assert likely.greedy
        [losses] = answers(found, [Rolling(requests[0].context)])
        assert losses.nll == pytest.approx([-value for value in server.table.scores(requests[0].context)])


@pytest.mark.parametrize("dialect", [*WAYS, "ollama", "lmstudio"])
def test_greedy_answers_are_cut_as_in_process(dialect, tokenizer):
    with serving(dialect, tokenizer, *(["text only"] if dialect == "lmstudio" else [])) as server:
        found = probed(server, tokenizer)
        prompt = ids(tokenizer, "Say something:")
        whole = server.text(server.table.greedy(prompt, 9))
        [plain, stopped] = answers(found, [Generate(prompt, 9), Generate(prompt, 9, (whole[4],))])
        assert (plain.text, plain.finish) == (whole, "length")
        assert (stopped.text, stopped.finish) == (whole[: whole.index(whole[4])], "stop")


def test_an_end_token_ends_the_answer(tokenizer):
    for dialect in ("vllm", "llama.cpp", "sglang"):
        with serving(dialect, tokenizer) as server:
            prompt = ids(tokenizer, "Say something:")
            told = server.table.greedy(prompt, 9)
            [answer] = answers(probed(server, tokenizer), [Generate(prompt, 9, (), (told[3],))])
            assert answer.text == server.text(told[: told.index(told[3])])
            assert answer.finish == "eos"


# --- what a way is refused for, and what is left ---------------------------------------------------------------------

REFUSED = [
    # dialect, faults, the way that is left ("nothing": nor can it generate), the sentence
    ("vllm", ["all zero"], None, "all 8 log-probabilities of a known string are 0"),
    ("openai", ["echo ignored"], "top-k", "1 log-probabilities of .* echo is ignored"),
    ("openai", ["new shape"], "top-k", r"logprobs.content\): echo is ignored"),
    ("openai", ["no logprobs"], None, "top-k: no choices.0.logprobs in the reply"),
    ("openai", ["text only"], "echo-text", "prompt must be a string"),
    ("openai", ["text only", "BOS twice", "no logprobs"], "nothing", "BOS put in front twice"),
    ("vllm", ["one too few"], "echo", "prompt_logprobs of"),
    ("vllm", ["positive"], None, "a log-probability of .*, above 0"),
    ("vllm", ["jitter"], None, "differ by .* nats: chance plays in"),
    ("vllm", ["nan"], None, "no number"),
    ("vllm", ["strings"], None, "str where a log-probability should be"),
    ("llama.cpp", ["bias ignored"], None, "was forced and"),
    ("llama.cpp", ["shifted"], None, r"all 259 next tokens together have a probability of 0\.607"),
    ("llama.cpp", ["bias counted"], None, "log-probabilities of a known string are 0"),
    ("sglang", ["other ids"], None, "the log-probability of token"),
    ("tgi", ["details ignored"], "nothing", "decoder_input_details is ignored"),
    ("tgi", ["BOS twice"], "nothing", "BOS put in front twice"),
    ("tgi", ["another tokenizer"], "nothing", "cuts the text otherwise"),
    ("ollama", ["no logprobs"], None, "no logprobs in the reply"),
    ("ollama", ["BOS twice"], "nothing", r"it read \d+ tokens where \d+ were meant.*BOS"),
    ("lmstudio", ["text only", "no logprobs", "no usage"], "nothing", "nothing shows that it cuts text alike"),
]


@pytest.mark.parametrize(("dialect", "faults", "left", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_way_that_cannot_be_believed_is_refused(dialect, faults, left, words, tokenizer):
    with serving(dialect, tokenizer, *faults) as server:
        if left == "nothing":
            with pytest.raises(EngineError, match=f"gives nothing that can be scored .*{words}"):
                probed(server, tokenizer)
            return
        found = probed(server, tokenizer)
        assert (found.way.name if found.way else None) == left
        reasons = " ".join(f"{name}: {reason}" for name, reason in found.refused)
        assert re.search(words, reasons), reasons


def test_another_tokenizer_behind_token_ids_is_no_model_to_compare(tokenizer):
    for dialect in ("llama.cpp", "vllm"):
        words = "numbers tokens otherwise than the reference's"
        with serving(dialect, tokenizer, "other numbers") as server, pytest.raises(EngineError, match=words):
            probed(server, tokenizer)


def test_a_server_that_ignores_the_temperature_generates_nothing_that_is_judged(tokenizer):
    with serving("vllm", tokenizer, "temperature ignored") as server:
        found = probed(server, tokenizer)
        assert not HttpRow(found).capabilities.generate
        assert "asked twice for its greedy answer it gives two" in found.silent


@pytest.mark.parametrize(("fault", "told"), [("warm", "1.5"), ("no temperature", "nan")])
def test_a_server_that_begins_to_ignore_the_temperature_is_found_out(fault, told, tokenizer):
    """Of llama.cpp every reply says it; seen with its own server behind a proxy, whose canary stayed the same."""
    with serving("llama.cpp", tokenizer) as server:
        found = probed(server, tokenizer)
        server.faults.add(fault)
        with pytest.raises(EngineError, match=rf"it answered at temperature {told}; expected"):
            answers(found, [Generate((1, 2, 3), 4, ())])


def test_several_models_want_a_name(tokenizer):
    with serving("openai", tokenizer, "two models") as server:
        with pytest.raises(UsageError, match=r"2 models there; expected one of tiny, second; name it behind"):
            probed(server, tokenizer)
        assert probed(server, tokenizer, "second").facts.model == "second"
        with pytest.raises(UsageError, match="no model 'third' there"):
            probed(server, tokenizer, "third")


def test_what_speaks_nothing_that_is_known(tokenizer):
    with serving("nothing", tokenizer) as server, pytest.raises(EngineError, match="speaks no API that is known here"):
        probed(server, tokenizer)


def test_a_server_that_wants_a_key_says_which_variable_holds_it(tokenizer, monkeypatch):
    monkeypatch.setenv("QG_TEST_KEY", "s3cret-value")
    with serving("vllm", tokenizer, "wants a key") as server:
        with pytest.raises(
            UsageError, match=r"status 401 of /v1/models .*set QG_TEST_KEY in the environment"
        ) as caught:
            probed(server, tokenizer)
        assert "s3cret" not in str(caught.value)


# --- the line --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        "429 now and then",
        "500 now and then",
        "503 now and then",
        "cut off now and then",
        "no JSON now and then",
        "slow now and then",
    ],
)
def test_what_passes_is_asked_again_and_changes_nothing(fault, tokenizer):
    with serving("vllm", tokenizer, fault) as server:
        found = probed(server, tokenizer, manners=HASTY if "slow" in fault else QUICK)
        requests = pairs(tokenizer, 8)
        expected = [server.table.of(each.context, each.continuation) for each in requests]
        assert [each.logprob for each in answers(found, requests)] == pytest.approx(expected)
        assert found.line.remote.complaints > 0


LASTING = {
    "429 for ever": r"status 429 of /v1/completions .*asked 3 times",
    "500 for ever": r"status 500 of /v1/completions .*asked 3 times",
    "401": r"status 401 of /v1/completions \(not now, Bearer <key>\)",
    "cut off for ever": r"asked 3 times",
    "no JSON for ever": r"no JSON from /v1/completions .*asked 3 times",
}


@pytest.mark.parametrize("fault", LASTING)
def test_what_lasts_is_told_in_a_sentence_without_the_key(fault, tokenizer, monkeypatch):
    monkeypatch.setenv("QG_TEST_KEY", "s3cret-value")
    with serving("vllm", tokenizer) as server:
        found = probed(server, tokenizer)
        server.faults.add(fault)
        with pytest.raises(EngineError, match=LASTING[fault]) as caught:
            answers(found, pairs(tokenizer, 2))
        assert "s3cret" not in str(caught.value)
        assert server.headers[-1]["Authorization"] == "Bearer s3cret-value"
        assert "s3cret" not in str(found.as_record())


def test_a_server_that_is_gone_is_told(tokenizer):
    with serving("vllm", tokenizer) as server:
        found = probed(server, tokenizer)
    found.line.remote.close()
    with pytest.raises(EngineError, match=r"ConnectError.*asked 3 times.*answers so far are kept"):
        answers(found, pairs(tokenizer, 1))


def test_a_truncated_prompt_has_no_score(tokenizer):
    for dialect, words in (("llama.cpp", "it cut a prompt of"), ("ollama", "it cuts text otherwise")):
        with serving(dialect, tokenizer, "truncates") as server, pytest.raises(EngineError, match=words):
            probed(server, tokenizer)


@pytest.mark.parametrize("faults", [["swap"], ["swap", "silent"]], ids=" ".join)
@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp", "sglang", "tgi"])
def test_a_model_that_is_exchanged_leaves_no_answer(dialect, faults, tokenizer, monkeypatch):
    monkeypatch.setattr("quantgate.engines.http.row.WINDOW", 3)
    with serving(dialect, tokenizer, *faults) as server:
        found = probed(server, tokenizer)
        server.scored = 0
        kept = {}
        engine = HttpRow(found).open(None, None, Setting())
        with pytest.raises(EngineError, match="the server changed its model in the middle of the run"):
            engine.run(pairs(tokenizer, 16), lambda at, response: kept.setdefault(at, response), JOB)
        for at, response in kept.items():
            request = pairs(tokenizer, 16)[at]
            assert response.logprob == pytest.approx(Table(0).of(request.context, request.continuation))


def test_an_impossible_token_is_infinitely_unlikely(tokenizer):
    with serving("vllm", tokenizer) as server:
        found = probed(server, tokenizer)
        canary = found.canary()
        server.faults.add("minus infinity")
        assert found.canary().distance(canary) == math.inf
        assert found.way.scores(found.free, (1, 2, 3), 1)[0].logprob == -math.inf


# --- the likeliest tokens alone --------------------------------------------------------------------------------------


def test_an_option_that_is_not_shown_has_an_interval(tokenizer):
    with serving("openai", tokenizer, "echo ignored") as server:
        found = probed(server, tokenizer)
        context = ids(tokenizer, "So: ")
        plain = set(ids(tokenizer, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"))
        ranked = [at for at, _ in server.table.top(context, 259)]
        order = [at for at in ranked if at in plain]
        assert order[1] in ranked[:20]
        shown, hidden = order[1], order[-1]
        some = answers(found, [Likelihood(context, (each,)) for each in (order[0], shown, hidden)])
        assert some[1].logprob == pytest.approx(float(server.table.rows[context[-1], shown]))
        assert [each.greedy for each in some] == [order[0] == ranked[0], False, False]
        bound = some[2].logprob
        assert float(server.table.rows[context[-1], hidden]) <= bound < some[1].logprob
        none = answers(found, [Likelihood(context, (each,)) for each in (hidden, order[-2])])
        assert all(math.isnan(each.logprob) for each in none)
        with pytest.raises(EngineError, match="the likeliest next tokens alone, and 1 of 1 options are longer"):
            answers(found, [Likelihood(context, (1, 2))])


def test_the_bound_is_what_probability_is_left():
    assert bound_of([math.log(0.6), math.log(0.3)]) == pytest.approx(math.log(0.1))
    assert bound_of([math.log(0.2), math.log(0.1)]) == pytest.approx(math.log(0.1))
    assert bound_of([0.0]) == -math.inf


# --- how it is asked -------------------------------------------------------------------------------------------------


def test_neighbours_share_their_beginning_and_a_context_is_asked_once(tokenizer):
    requests = pairs(tokenizer, 3)
    assert grouped([*requests[3:], *requests[:3]])[0] == (6, 7, 8)
    with serving("llama.cpp", tokenizer) as server:
        found = probed(server, tokenizer)
        before = len(server.calls)
        answers(found, requests[:3])
        # " ", then "Y" and "N" at once, the rest one by one; and twice 8 tokens of the canary
        tokens = len(" Yes it is") + len(" was") + 1 + len("No") - 3
        assert len([path for path in server.calls[before:] if path == "/completion"]) <= tokens + 20


def test_more_are_in_flight_while_that_is_faster_and_fewer_after_a_complaint():
    complaints = [0]
    flight = Flight(lambda: complaints[0], most=8)
    flight.run([lambda: None] * 400, lambda number, result: None)
    flight.settled, flight.limit = False, 8
    complaints[0] = 1
    flight.run([lambda: None] * 3, lambda number, result: None)
    assert flight.settled
    assert flight.limit == 4


def test_the_budget_ends_a_run_and_keeps_what_was_answered(tokenizer):
    with serving("vllm", tokenizer) as server:
        found = probed(server, tokenizer)
        BUDGET.limit(5, None)
        kept = {}
        engine = HttpRow(found).open(None, None, Setting())
        with pytest.raises(SpentError, match=r"the budget of --max-requests 5 is used up"):
            engine.run(pairs(tokenizer), lambda at, response: kept.setdefault(at, response), JOB)
        assert 1 <= len(kept) <= 5
        BUDGET.limit(None, 100)
        with pytest.raises(SpentError, match="--max-tokens 100"):
            engine.run(pairs(tokenizer), lambda at, response: None, JOB)


def test_a_budget_counts_from_several_threads():
    budget = Budget(requests=2)
    budget.take("x")
    budget.take("x")
    with pytest.raises(SpentError):
        budget.take("x")


@pytest.mark.parametrize(
    "text", ["localhost:8000", "ftp://x", "http://", "http://u:p@h", "http://h?key=1", "http://h:99999", "http://a b"]
)
def test_what_is_no_address(text):
    with pytest.raises(QuantgateError, match="address"):
        parse_address(text, "--candidate x=…")
