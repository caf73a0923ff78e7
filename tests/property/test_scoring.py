"""Whatever is asked in whatever mixture: the answers are those of the plain forward pass."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantgate.core.progress import Silent
from quantgate.core.requests import Generate, Likelihood, Rolling
from quantgate.engines.torch.engine import TorchEngine
from tests.unit.engines.tiny import Letters, collect, plain_logprobs, tiny_model

# Few different tokens, so that sequences share prefixes by themselves.
tokens = st.lists(st.integers(2, 4), min_size=1, max_size=24).map(tuple)
likelihoods = st.builds(Likelihood, tokens, tokens)
segments = st.builds(Rolling, st.tuples(tokens, tokens).map(lambda both: both[0] + both[1]))
prompts = st.builds(Generate, tokens, st.integers(1, 6), ends=st.sampled_from([(), (1,), (1, 3)]))
mixtures = st.lists(st.one_of(likelihoods, segments, prompts), min_size=1, max_size=14)


def greedy(model, prompt, n, ends):
    new = []
    while len(new) < n and not set(ends) & set(new):
        new.append(int(plain_logprobs(model, (*prompt, *new, 0))[-1].argmax()))
    return new


def wanted(model, request):
    """What the plain model says: a list of numbers, or the generated text."""
    if isinstance(request, Generate):
        new = greedy(model, request.prompt, request.max_new_tokens, request.ends)
        if set(request.ends) & set(new):
            new = new[:-1]
        return Letters().decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    whole = request.tokens if isinstance(request, Rolling) else request.context + request.continuation
    logprobs = plain_logprobs(model, whole)
    losses = [-float(row[token]) for row, token in zip(logprobs, whole[1:], strict=True)]
    return losses if isinstance(request, Rolling) else -sum(losses[len(request.context) - 1 :])


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2", "bloom"])
@settings(max_examples=25, deadline=None)
@given(requests=mixtures, batch_tokens=st.sampled_from([8, 24, 4096]))
def test_any_mixture_is_answered_like_the_plain_forward(kind, requests, batch_tokens):
    model = tiny_model(kind)
    answers, _ = collect(TorchEngine(model, Letters(), progress=Silent(), batch_tokens=batch_tokens), requests)
    for request, answer in zip(requests, answers, strict=True):
        if isinstance(request, Generate):
            assert answer.text == wanted(model, request)
        elif isinstance(request, Rolling):
            assert list(answer.nll) == pytest.approx(wanted(model, request), abs=1e-4)
        else:
            assert answer.logprob == pytest.approx(wanted(model, request), abs=1e-4)
