"""Drawing tokens: against transformers' own processors, and the same in every company."""

import collections

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from quantgate.core.progress import Silent
from quantgate.core.requests import Generate, Sampling, digest_requests
from quantgate.engines.torch.engine import TorchEngine
from quantgate.engines.torch.sampling import Draws, kept
from tests.unit.engines.tiny import Letters, collect, tiny_model


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "penalty"),
    [(0.7, 20, 0.8, 1.05), (1.3, 0, 0.5, 1.0), (1.0, 3, 1.0, 2.0), (0.1, 50, 0.95, 0.5), (1.0, 0, 1.0, 1.0)],
)
def test_what_is_drawn_from_is_what_transformers_leaves(temperature, top_k, top_p, penalty):
    torch.manual_seed(0)
    logits, seen = 3 * torch.randn(200), [1, 5, 5, 17]
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature)])
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    theirs = processors(torch.tensor([seen]), logits[None].clone())[0]
    torch.testing.assert_close(kept(logits, seen, Sampling(temperature, top_k, top_p, penalty)), theirs)


def test_of_equals_the_first_are_left_out_on_every_machine():
    """A sort that is not stable leaves out others of the likeliest, by the processor and its number of threads."""
    logits = torch.randint(0, 3, (40_000,), generator=torch.Generator().manual_seed(0)).float()
    found, likeliest = (
        each.nonzero()[:, 0] for each in (kept(logits, (), Sampling(top_p=0.5)).isfinite(), logits == 2)
    )
    assert 0 < len(found) < len(likeliest)
    assert torch.equal(found, likeliest[-len(found) :])


def test_the_penalty_pushes_down_on_either_side_of_zero():
    logits = torch.tensor([-0.5, 0.0, 0.5, 2.0])
    found = kept(logits, [0, 1, 2], Sampling(repetition_penalty=2.0))
    assert found.tolist() == [-1.0, 0.0, 0.25, 2.0]


def test_draws_follow_the_probabilities():
    """4,000 answers of one token: each share is within 5 standard errors, by chance red once in a million."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf])
    found = collections.Counter(Draws((index,), Sampling()).token(logits, ()) for index in range(4000))
    for token, share in enumerate(logits.softmax(-1).tolist()):
        assert abs(found[token] / 4000 - share) <= 5 * (share * (1 - share) / 4000) ** 0.5


def test_a_draw_hangs_on_seed_prompt_and_place_alone():
    logits = torch.zeros(1000)

    def drawn(prompt, how, new):
        return Draws(prompt, how).token(logits, new)

    first = drawn((1, 2), Sampling(), ())
    assert drawn((1, 2), Sampling(), ()) == first
    others = [drawn((1, 2), Sampling(seed=5), ()), drawn((2, 1), Sampling(), ()), drawn((1, 2), Sampling(), (7,))]
    assert first not in others


def test_an_answer_is_the_same_in_any_company():
    model = tiny_model("llama")
    how = Sampling(temperature=1.5, top_p=0.9, repetition_penalty=1.1)
    requests = [Generate((3 + index, 4, 5), 8 + index, sampling=how if index % 2 else None) for index in range(6)]

    def answers(asked):
        engine = TorchEngine(model, Letters(), progress=Silent())
        return [response.text for response in collect(engine, asked)[0]]

    together = answers(requests)
    assert [answers([request])[0] for request in requests] == together
    assert answers([Generate(each.prompt, each.max_new_tokens) for each in requests]) != together


def test_what_is_not_drawn_has_the_digest_it_always_had():
    """Committed baselines and stores hold such digests: a field that is not set is no part of one."""
    plain = Generate((1, 2), 3, ("x",), (4,))
    assert digest_requests([plain]) == "e90d5d7f144b28617bf512ad9bd792b636ec12de1d6e16db2bb45a3c5214fd5a"
    assert digest_requests([Generate((1, 2), 3, ("x",), (4,), Sampling())]) != digest_requests([plain])
