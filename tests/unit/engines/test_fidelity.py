"""KL divergence from the reference's top k and draws of its tail: right, bounded, stored whole, NaN where it must."""

from __future__ import annotations

import copy
import random
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from quantgate.core.errors import DataError, StoreError
from quantgate.core.progress import Silent
from quantgate.core.requests import Likelihood, Rolling
from quantgate.engines.torch.engine import TorchEngine
from quantgate.engines.torch.fidelity import TopK, TopKReader, TopKWriter, divergence, kl_divergence, take_top_k
from quantgate.engines.torch.kept import load, save
from tests.unit.engines.tiny import VOCABULARY, Letters, collect, plain_logprobs, tiny_model


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


@pytest.mark.parametrize(("k", "draws"), [(None, 0), (128, 0), (50, 4), (5, 16), (50, 0), (5, 0)])
def test_what_is_kept_bounds_the_exact_divergence_and_estimates_it(tmp_path, k, draws):
    reference, requests = tiny_model("llama"), [Likelihood((3, 4), (5,)), *segments(20)]
    subject = damaged(reference)
    score(reference, requests, keep=TopKWriter(tmp_path, k, draws=draws))
    answers = score(subject, requests, against=TopKReader(tmp_path))
    found, bound, wanted = [], [], []
    for request, answer in zip(requests[1:], answers[1:], strict=True):
        kld, same = exact(reference, subject, request)
        assert answer.same_top == tuple(same)
        found += answer.kld
        bound += answer.kld_bound
        wanted += kld.tolist()
    found, bound, wanted = (torch.tensor(values, dtype=torch.float64) for values in (found, bound, wanted))
    assert (bound <= wanted + 1e-5).all()
    if not draws:
        assert torch.equal(found, bound)
    lost = float((wanted - found).mean() / wanted.mean())
    low, high = {(None, 0): (-1e-4, 1e-4), (128, 0): (-1e-4, 1e-4), (50, 4): (-0.005, 0.005), (5, 16): (-0.03, 0.03),
                 (50, 0): (0.001, 0.02), (5, 0): (0.2, 0.6)}[k, draws]  # fmt: skip
    assert low <= lost <= high, lost


def text_like(n=1500, vocabulary=3000):
    """Logits, float64: a few sure positions, a long tail, as over a text."""
    torch.manual_seed(5)
    sharp = torch.rand(n, 1, dtype=torch.float64) * 1.6 + 0.7
    return (
        sharp * -torch.arange(1, vocabulary + 1, dtype=torch.float64).log() + 0.5 * torch.randn(n, vocabulary).double()
    )


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.4, 1.2, 4.0])
def test_the_estimate_is_within_one_percent_in_mean_and_tail_where_the_bound_is_not(noise):
    """From noise as of 8 bits (KL 5e-5) to noise as of 2 bits (KL about 8), against float64 over the vocabulary."""
    logits = text_like()
    order = torch.stack([torch.randperm(logits.shape[1]) for _ in range(len(logits))])
    p = torch.zeros_like(logits).scatter_(1, order, logits).log_softmax(-1)
    q = (p + noise * torch.randn_like(p)).log_softmax(-1)
    wanted = (p.exp() * (p - q)).sum(-1)
    found, bound = divergence(take_top_k(p.float()), q.float())
    worst = wanted.quantile(0.99)
    assert float(found.mean()) == pytest.approx(float(wanted.mean()), rel=0.01, abs=2e-7)
    assert float(found.quantile(0.99)) == pytest.approx(float(worst), rel=0.01, abs=2e-7)
    assert float(bound.mean()) < 0.97 * float(wanted.mean())
    assert (bound <= wanted + 1e-6).all()


def test_draws_follow_the_tail_and_hang_on_the_position_alone():
    logp = text_like(40, 900).log_softmax(-1).float()
    whole = take_top_k(logp, 64, 32)
    parts = [take_top_k(logp[at : at + 1], 64, 32, [at]) for at in range(40)]
    assert all(torch.equal(TopK.joined(parts).tensors[name], tensor) for name, tensor in whole.tensors.items())
    tail = logp.exp().scatter(1, whole.ids.long(), 0.0)
    share = tail / tail.sum(-1, keepdim=True)
    drawn = torch.zeros_like(logp).scatter_add_(1, whole.drawn.long(), torch.ones(40, 32)) / 32
    assert (drawn[tail == 0] == 0).all()  # none of the kept ones
    sums = (drawn.cumsum(-1) - share.cumsum(-1)).abs().max()
    assert float(sums) <= 1 / 32 + 1e-5  # one draw in each of 32 equal shares of the mass


def test_a_token_that_the_subject_excludes_is_an_infinite_divergence():
    logp = text_like(3, 900).log_softmax(-1).float()
    kept = take_top_k(logp, 64, 32)
    subject = logp.scatter(1, kept.drawn[:, :1].long(), -torch.inf)
    assert divergence(kept, subject)[0].tolist() == [float("inf")] * 3


def test_a_model_against_itself_has_no_divergence(tmp_path):
    model, requests = tiny_model("qwen2"), segments()
    score(model, requests, keep=TopKWriter(tmp_path, 16, draws=8))
    for answer in score(model, requests, against=TopKReader(tmp_path)):
        assert max(abs(value) for value in (*answer.kld, *answer.kld_bound)) < 1e-6
        assert set(answer.same_top) == {1}


def test_a_broken_subject_has_nan_divergence(tmp_path):
    model, requests = tiny_model("llama"), segments(1)
    score(model, requests, keep=TopKWriter(tmp_path))
    broken = copy.deepcopy(model)
    broken.lm_head.weight.data[7] = float("nan")
    (answer,) = score(broken, requests, against=TopKReader(tmp_path))
    assert all(value != value for value in (*answer.kld, *answer.kld_bound, *answer.nll))


@pytest.mark.parametrize("k", [1, 8, 200])
def test_bucketed_divergence_equals_the_hand_worked_sum(k):
    torch.manual_seed(0)
    logp, logq = (torch.randn(6, 200).log_softmax(-1) for _ in range(2))
    top = take_top_k(logp, k, 0)
    ids = top.ids.long()
    p, q = logp.exp().double(), logq.exp().double()
    inside_p, inside_q = p.gather(1, ids), q.gather(1, ids)
    wanted = (inside_p * (inside_p / inside_q).log()).sum(-1)
    if top.ids.shape[1] < 200:
        rest_p, rest_q = 1 - inside_p.sum(-1), 1 - inside_q.sum(-1)
        wanted += rest_p * (rest_p / rest_q).log()
    torch.testing.assert_close(kl_divergence(top, logq.gather(1, ids)), wanted, atol=1e-5, rtol=1e-5)


def test_a_certain_reference_leaves_no_nan():
    logp = torch.full((1, 9), -torch.inf)
    logp[0, 4] = 0.0
    subject = torch.tensor([[-2.0, -3.0, -4.0, -4.0, -0.5, -4.0, -4.0, -4.0, -4.0]]).log_softmax(-1)
    for k, draws in ((3, 0), (3, 4), (9, 9), (None, 4)):
        found, bound = divergence(take_top_k(logp, k, draws), subject)
        assert found.item() == bound.item() == pytest.approx(-subject[0, 4].item())


def test_a_resumed_run_sees_what_was_written_and_no_half_files(tmp_path):
    writer, requests = TopKWriter(tmp_path / "new" / "folder", 4), segments(3)
    score(tiny_model("llama"), requests, keep=writer)
    assert [writer.has(index) for index in range(4)] == [True, True, True, False]
    assert sorted(path.name for path in writer.directory.iterdir()) == [f"{at:06d}.safetensors" for at in range(3)]


def test_two_jobs_that_share_a_folder_read_their_own_files(tmp_path):
    requests = segments(6)
    score(tiny_model("llama"), requests[:3], keep=TopKWriter(tmp_path))
    score(tiny_model("llama"), requests[3:], keep=TopKWriter(tmp_path, start=3))
    answers = score(tiny_model("llama"), requests[3:], against=TopKReader(tmp_path, 3))
    assert [len(answer.kld) for answer in answers] == [len(request.tokens) - 1 for request in requests[3:]]
    assert max(max(map(abs, answer.kld)) for answer in answers) < 1e-4


def test_files_of_another_key_another_request_or_edited_ones_are_refused(tmp_path):
    requests = segments(2)
    for key in "ab":
        score(tiny_model("llama"), requests, keep=TopKWriter(tmp_path / key, 4, draws=2, key=key))
    first, second = (tmp_path / "a" / f"00000{number}.safetensors" for number in range(2))
    TopKReader(tmp_path / "a", key="a").read(1)
    for source in (tmp_path / "b" / second.name, first):
        shutil.copy(source, second)
        with pytest.raises(StoreError, match="it was edited, or belongs to another request or entry"):
            TopKReader(tmp_path / "a", key="a").read(1)
    tensors = load_file(first)
    tensors["tail"][0] += 1
    with safe_open(first, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, first, metadata=metadata)
    with pytest.raises(StoreError, match="it was edited"):
        TopKReader(tmp_path / "a", key="a").read(0)
    save_file({"tail": tensors["tail"]}, first)
    with pytest.raises(StoreError, match="it holds tail"):
        TopKReader(tmp_path / "a", key="a").read(0)


@pytest.mark.parametrize("edited", [{"kind": "logits_scaling"}, {"kind": "logit_scale", "more": "1"}, {}])
def test_notes_that_were_edited_are_refused(tmp_path, edited):
    """What follows a head stands in a file's header alone, and changes every divergence."""
    path, tensors = tmp_path / "head.safetensors", {"weight": torch.ones(3, 2)}
    save(path, tensors, "key", {"kind": "logit_scale"})
    assert load(path, "key", [{"weight"}])[1] == {"kind": "logit_scale"}
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, path, metadata={**{name: metadata[name] for name in metadata if name != "kind"}, **edited})
    with pytest.raises(StoreError, match="it was edited"):
        load(path, "key", [{"weight"}])


def test_missing_and_foreign_files_are_named(tmp_path):
    requests = segments(2)
    with pytest.raises(StoreError, match=r"000000\.safetensors: cannot be read .*score the reference again"):
        score(tiny_model("llama"), requests, against=TopKReader(tmp_path))
    score(tiny_model("llama"), requests[::-1], keep=TopKWriter(tmp_path))
    with pytest.raises(DataError, match=r"request 0: holds \d+ positions; expected \d+"):
        score(tiny_model("llama"), requests, against=TopKReader(tmp_path))
    (tmp_path / "000000.safetensors").write_bytes(b"half a file")
    with pytest.raises(StoreError, match="cannot be read"):
        TopKReader(tmp_path).read(0)
