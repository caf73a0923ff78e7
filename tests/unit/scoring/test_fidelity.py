"""KL divergence from the reference's top k plus tail: right, bounded, stored whole, and NaN where it must be."""

from __future__ import annotations

import copy
import random

import pytest
import torch

from quantgate.errors import DataError, StoreError
from quantgate.progress import Silent
from quantgate.scoring.engine import TorchEngine
from quantgate.scoring.fidelity import TopKReader, TopKWriter, kl_divergence, take_top_k
from quantgate.scoring.requests import Likelihood, Rolling
from tests.unit.scoring.tiny import VOCABULARY, Letters, collect, plain_logprobs, tiny_model


def segments(n=5):
    draw = random.Random(11)
    return [Rolling(tuple(draw.randrange(2, VOCABULARY) for _ in range(draw.randrange(5, 60)))) for _ in range(n)]


def damaged(model, noise=0.02):
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += noise * torch.randn_like(parameter)
    return other


def score(model, requests, **kwargs):
    engine = TorchEngine(model, Letters(), progress=Silent(), batch_tokens=64)
    return collect(engine, requests, **kwargs)[0]


def exact(reference, subject, request):
    logp, logq = (plain_logprobs(model, request.tokens).double() for model in (reference, subject))
    return (logp.exp() * (logp - logq)).sum(-1), (logp.argmax(-1) == logq.argmax(-1)).int().tolist()


@pytest.mark.parametrize("k", [128, 50, 5])
def test_divergence_from_stored_top_k_is_a_close_lower_bound_of_the_exact_one(tmp_path, k):
    reference, requests = tiny_model("llama"), [Likelihood((3, 4), (5,)), *segments()]
    subject = damaged(reference)
    score(reference, requests, topk=TopKWriter(tmp_path, k))
    answers = score(subject, requests, against=TopKReader(tmp_path))
    lost = 0.0
    for request, answer in zip(requests[1:], answers[1:], strict=True):
        kld, same = exact(reference, subject, request)
        found = torch.tensor(answer.kld, dtype=torch.float64)
        assert answer.same_top == tuple(same)
        assert (found <= kld + 1e-5).all()
        lost = max(lost, float((kld - found).max() / kld.mean()))
    assert lost < {128: 1e-3, 50: 0.05, 5: 2.0}[k]  # 128 holds the whole vocabulary of 61


def test_a_model_against_itself_has_no_divergence(tmp_path):
    model, requests = tiny_model("qwen2"), segments()
    score(model, requests, topk=TopKWriter(tmp_path, 16))
    for answer in score(model, requests, against=TopKReader(tmp_path)):
        assert max(abs(value) for value in answer.kld) < 1e-6
        assert set(answer.same_top) == {1}


def test_a_broken_subject_has_nan_divergence(tmp_path):
    model, requests = tiny_model("llama"), segments(1)
    score(model, requests, topk=TopKWriter(tmp_path))
    broken = copy.deepcopy(model)
    broken.lm_head.weight.data[7] = float("nan")
    (answer,) = score(broken, requests, against=TopKReader(tmp_path))
    assert all(value != value for value in (*answer.kld, *answer.nll))


@pytest.mark.parametrize("k", [1, 8, 200])
def test_bucketed_divergence_equals_the_hand_worked_sum(k):
    torch.manual_seed(0)
    logp, logq = (torch.randn(6, 200).log_softmax(-1) for _ in range(2))
    top = take_top_k(logp, k)
    ids = top.ids.long()
    p, q = logp.exp().double(), logq.exp().double()
    inside_p, inside_q = p.gather(1, ids), q.gather(1, ids)
    wanted = (inside_p * (inside_p / inside_q).log()).sum(-1)
    if k < 200:
        rest_p, rest_q = 1 - inside_p.sum(-1), 1 - inside_q.sum(-1)
        wanted += rest_p * (rest_p / rest_q).log()
    torch.testing.assert_close(kl_divergence(top, logq.gather(1, ids)), wanted, atol=1e-5, rtol=1e-5)


def test_a_certain_reference_leaves_no_nan():
    logp = torch.full((1, 9), -torch.inf)
    logp[0, 4] = 0.0
    top = take_top_k(logp, 3)
    subject = torch.tensor([[-0.5, -2.0, -3.0]])
    assert kl_divergence(top, subject).item() == pytest.approx(0.5)


def test_a_resumed_run_sees_what_was_written_and_no_half_files(tmp_path):
    writer, requests = TopKWriter(tmp_path / "new" / "folder", 4), segments(3)
    score(tiny_model("llama"), requests, topk=writer)
    assert [writer.has(index) for index in range(4)] == [True, True, True, False]
    assert sorted(path.name for path in writer.directory.iterdir()) == [f"{at:06d}.safetensors" for at in range(3)]


def test_missing_and_foreign_files_are_named(tmp_path):
    requests = segments(2)
    with pytest.raises(StoreError, match=r"000000\.safetensors: cannot be read .*score the reference again"):
        score(tiny_model("llama"), requests, against=TopKReader(tmp_path))
    score(tiny_model("llama"), requests[::-1], topk=TopKWriter(tmp_path))
    with pytest.raises(DataError, match=r"request 0: holds \d+ positions; expected \d+"):
        score(tiny_model("llama"), requests, against=TopKReader(tmp_path))
    (tmp_path / "000000.safetensors").write_bytes(b"half a file")
    with pytest.raises(StoreError, match="cannot be read"):
        TopKReader(tmp_path).read(0)
