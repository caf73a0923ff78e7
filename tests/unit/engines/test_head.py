"""The blocked head against float64 over whole rows: sums, argmax, asked tokens, exact divergence."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from quantgate.core.errors import StoreError
from quantgate.core.progress import Silent
from quantgate.core.requests import Likelihood, Rolling
from quantgate.engines.torch import head as heads
from quantgate.engines.torch.engine import TorchEngine
from quantgate.engines.torch.head import After, LinearHead, OpaqueHead, States, scores
from quantgate.engines.torch.states import StatesReader, StatesWriter, can_keep
from tests.unit.engines.test_fidelity import damaged, exact, score, segments
from tests.unit.engines.tiny import CONFIGS, Letters, collect, plain_logprobs, tiny_model

CAP = After("final_logit_softcapping", 4.0)


@pytest.fixture
def narrow(monkeypatch):
    """Blocks of 7 tokens, so that small vocabularies have many, the last one shorter."""
    monkeypatch.setattr(heads, "_WIDTH", 7)
    monkeypatch.setattr(heads, "_BLOCK", {"cpu": 7})


def random_head(vocabulary=130, hidden=24, dtype=torch.float32, after=None, seed=0):
    torch.manual_seed(seed)
    weight = (torch.randn(vocabulary, hidden) * 1.5).to(dtype)
    return LinearHead(weight, torch.randn(vocabulary).to(dtype), after)


def asked_of(n, vocabulary, many=3):
    torch.manual_seed(2)
    return torch.arange(n).repeat_interleave(many), torch.randint(0, vocabulary, (many * n,))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("after", [None, CAP, After("logit_scale", 0.3), After("logits_scaling", 6.0)])
def test_scores_equal_float64_over_whole_rows(after):
    head, hidden = random_head(after=after), torch.randn(40, 24)
    rows, tokens = asked_of(40, 130)
    found = scores(head, hidden, rows, tokens)
    wanted = hidden.double() @ head.weight.double().t() + head.bias.double()
    if after is not None:
        wanted = {
            "logit_scale": wanted * after.value,
            "logits_scaling": wanted / after.value,
            "final_logit_softcapping": (wanted / after.value).tanh() * after.value,
        }[after.kind]
    torch.testing.assert_close(found.logsum, wanted.logsumexp(-1), atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(found.asked.double(), wanted[rows, tokens], atol=2e-5, rtol=1e-5)
    assert torch.equal(found.top, wanted.argmax(-1))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("noise", [0.01, 0.03, 0.5])
def test_the_divergence_is_exact(noise):
    """From less than 8 bits leave to more than 2 bits do; each side with a head of its own."""
    reference, subject = random_head(after=CAP), random_head(after=CAP)
    subject = LinearHead(subject.weight + noise * torch.randn_like(subject.weight), subject.bias, CAP)
    theirs = torch.randn(300, 24)
    ours = theirs + noise * torch.randn_like(theirs)
    none = torch.zeros(0, dtype=torch.int64)
    kept = scores(reference, theirs, none, none)
    found = scores(subject, ours, none, none, (reference, States(theirs, kept.top.int(), kept.logsum))).divergence
    logs = [
        ((h.double() @ w.weight.double().t() + w.bias.double()) / 4).tanh().mul(4).log_softmax(-1)
        for w, h in ((reference, theirs), (subject, ours))
    ]
    wanted = (logs[0].exp() * (logs[0] - logs[1])).sum(-1)
    assert float(found.mean()) == pytest.approx(float(wanted.mean()), rel=1e-4)
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-4)


@pytest.mark.usefixtures("narrow")
def test_the_first_of_equals_is_the_likeliest_wherever_the_blocks_end():
    weight = torch.zeros(40, 4)
    weight[[5, 6, 7, 20, 39]] = 1.0
    head, none = LinearHead(weight), torch.zeros(0, dtype=torch.int64)
    assert scores(head, torch.ones(3, 4), none, none).top.tolist() == [5, 5, 5]
    weight[5:8] = 0.5
    assert scores(head, torch.ones(1, 4), none, none).top.tolist() == [20]


@pytest.mark.usefixtures("narrow")
def test_excluded_tokens_and_what_is_no_number():
    head = LinearHead(torch.ones(30, 2), torch.full((30,), -torch.inf))
    head.bias[[3, 25]] = 0.0  # type: ignore[index]
    hidden, rows, tokens = torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([25, 4])
    found = scores(head, hidden, rows, tokens)
    assert found.logsum.tolist() == pytest.approx([math.log(2)] * 2)
    assert (found.asked - found.logsum).tolist() == [pytest.approx(-math.log(2)), -math.inf]
    kept = States(hidden, found.top.int(), found.logsum)
    assert scores(head, hidden, rows, tokens, (head, kept)).divergence.tolist() == pytest.approx([0.0, 0.0], abs=1e-7)
    other = LinearHead(torch.ones(30, 2), head.bias.clone())
    other.bias[25] = -torch.inf  # the subject excludes what the reference holds likely
    assert scores(other, hidden, rows, tokens, (head, kept)).divergence.tolist() == [math.inf] * 2
    broken = scores(head, torch.full((2, 2), torch.nan), rows, tokens, (head, kept))
    assert all(value != value for value in (*broken.logsum.tolist(), *broken.divergence.tolist()))
    assert broken.top.tolist() == [-1, -1]


def test_an_accelerators_form_finds_the_same():
    torch.manual_seed(4)
    blocks = [torch.randn(50, 9) * 5 for _ in range(6)]
    blocks[0][:, :] = -torch.inf
    blocks[3][3] = blocks[2][3]  # equals in a later block
    running = heads._Running(torch.zeros(50, 1))
    state = running.largest, running.total, running.top
    for at, block in enumerate(blocks):
        state = heads.fold(block, 9 * at, *state)
        running.take(block.clone(), 9 * at)
    assert torch.equal(state[0], running.largest)
    torch.testing.assert_close(state[1], running.total)
    assert torch.equal(state[2], running.top)
    assert torch.equal(running.top, torch.cat(blocks, 1).argmax(-1))


@pytest.mark.parametrize("kind", CONFIGS)
def test_blocks_are_used_where_the_head_is_linear_and_what_follows_is_known(kind):
    for _ in range(2):  # the second engine on a model knows what the first one found out
        head = TorchEngine(tiny_model(kind), Letters(), progress=Silent()).model.output.head()
    assert isinstance(head, LinearHead)
    assert head.after == (After("final_logit_softcapping", 3.0) if kind == "gemma2" else None)


def test_a_head_that_something_unknown_follows_is_read_in_whole_rows(monkeypatch, tmp_path):
    monkeypatch.setattr("quantgate.engines.torch.output.AFTER", ())
    model = copy.deepcopy(tiny_model("gemma2"))
    engine = TorchEngine(model, Letters(), progress=Silent())
    requests = [Rolling((2, 3, 9, 8, 7)), Likelihood((5, 6), (7, 8))]
    (rolled, likely), _ = collect(engine, requests)
    assert isinstance(engine.model.output.head(), OpaqueHead)
    assert not can_keep(engine.model.output.head())
    wanted = plain_logprobs(model, requests[0].tokens).gather(1, torch.tensor(requests[0].tokens[1:])[:, None])
    torch.testing.assert_close(torch.tensor(rolled.nll), -wanted[:, 0], atol=1e-5, rtol=0)
    assert likely.n_tokens == 2


@pytest.mark.parametrize("kind", ["llama", "gemma2", "opt"])
def test_kept_states_give_the_exact_divergence_of_two_models(tmp_path, kind):
    reference, requests = tiny_model(kind), [Likelihood((3, 4), (5,)), *segments(12), *segments(2)]
    subject = damaged(reference)  # its head too
    for model in (reference, subject):
        engine = TorchEngine(model, Letters(), progress=Silent(), batch_tokens=64)
        if model is reference:
            collect(engine, requests, keep=StatesWriter(tmp_path, engine.model.output.head(), key="k"))
    answers, _ = collect(engine, requests, against=StatesReader(tmp_path, key="k"))
    for request, answer in zip(requests[1:], answers[1:], strict=True):
        kld, same = exact(reference, subject, request)
        torch.testing.assert_close(torch.tensor(answer.kld, dtype=torch.float64), kld, atol=5e-6, rtol=1e-4)
        assert answer.kld_bound == answer.kld
        assert answer.same_top == tuple(same)
    own = score(reference, requests, against=StatesReader(tmp_path, key="k"))
    assert max(abs(value) for answer in own[1:] for value in answer.kld) < 2e-6


def test_a_head_of_another_vocabulary_or_an_edited_one_is_refused(tmp_path):
    head = random_head()
    StatesWriter(tmp_path, head, key="k")
    assert StatesReader(tmp_path, key="k").head(head, torch.device("cpu")) is head
    other = StatesReader(tmp_path, key="k").head(random_head(seed=1), torch.device("cpu"))
    assert torch.equal(other.weight, head.weight)
    with pytest.raises(StoreError, match="a head of 130 tokens; expected one of 20"):
        StatesReader(tmp_path, key="k").head(random_head(20), torch.device("cpu"))
    with pytest.raises(StoreError, match="it was edited, or belongs to another"):
        StatesReader(tmp_path, key="other").head(head, torch.device("cpu"))
