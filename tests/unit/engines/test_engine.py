"""The engine's answers equal the plain forward pass, whatever the architecture, packing and prefix reuse."""

from __future__ import annotations

import copy
import math
import random
from types import SimpleNamespace

import pytest
import torch

from quantgate.core.errors import DataError
from quantgate.core.progress import Silent
from quantgate.core.requests import Generate, Likelihood, Rolling
from quantgate.engines.stops import cut_at_stop
from quantgate.engines.torch.cache import GrowingCache
from quantgate.engines.torch.engine import TorchEngine, wide_batch
from tests.unit.engines.tiny import CONFIGS, VOCABULARY, Letters, collect, plain_logprobs, tiny_model


def engine_of(model, **kwargs):
    return TorchEngine(model, Letters(), progress=Silent(), **kwargs)


def few_shot(seed, questions=9, preamble=17, options=3):
    """Likelihood requests like a benchmark's: a preamble, questions, options of different lengths, loners."""
    draw = random.Random(seed)

    def tokens(n):
        return tuple(draw.randrange(2, VOCABULARY) for _ in range(n))

    shared = tokens(preamble)
    requests = []
    for _ in range(questions):
        context = shared + tokens(draw.randrange(1, 12))
        requests += [Likelihood(context, tokens(draw.randrange(1, 5))) for _ in range(options)]
    requests += [Likelihood(tokens(n), tokens(2)) for n in (1, 30)]
    requests += [requests[0], Likelihood(shared[:5], shared[5:9])]  # asked twice; scored inside the preamble
    draw.shuffle(requests)
    return requests


def assert_like_plain(model, requests, answers, tolerance=1e-4):
    for request, answer in zip(requests, answers, strict=True):
        logprobs = plain_logprobs(model, request.context + request.continuation)[-len(request.continuation) :]
        wanted = logprobs.gather(1, torch.tensor(request.continuation)[:, None]).sum().item()
        assert answer.logprob == pytest.approx(wanted, abs=tolerance)
        assert answer.n_tokens == len(request.continuation)
        assert answer.greedy == (logprobs.argmax(-1).tolist() == list(request.continuation))


@pytest.mark.parametrize("batch_tokens", [16, 64, 4096])
@pytest.mark.parametrize("kind", CONFIGS)
def test_likelihoods_equal_the_plain_forward(kind, batch_tokens):
    model, requests = tiny_model(kind), few_shot(seed=batch_tokens)
    answers, stats = collect(engine_of(model, batch_tokens=batch_tokens), requests)
    assert_like_plain(model, requests, answers)
    assert stats.tokens_unique <= stats.tokens_read


@pytest.mark.parametrize("kind", CONFIGS)
def test_rolling_losses_equal_the_plain_forward(kind):
    model, draw = tiny_model(kind), random.Random(3)
    requests = [Rolling(tuple(draw.randrange(2, VOCABULARY) for _ in range(n))) for n in (2, 40, 40, 90, 17)]
    answers, _ = collect(engine_of(model, batch_tokens=64), requests)
    for request, answer in zip(requests, answers, strict=True):
        logprobs = plain_logprobs(model, request.tokens)
        wanted = -logprobs.gather(1, torch.tensor(request.tokens[1:])[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(answer.nll), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", CONFIGS)
def test_generation_equals_the_models_own_greedy_generation(kind):
    model, draw = tiny_model(kind), random.Random(5)
    shared = tuple(draw.randrange(2, VOCABULARY) for _ in range(9))
    requests = []
    for _ in range(30):
        own = tuple(draw.randrange(2, VOCABULARY) for _ in range(draw.randrange(1, 14)))
        requests.append(Generate(draw.choice([shared, ()]) + own, max_new_tokens=draw.randrange(1, 20), ends=(1,)))
    answers, stats = collect(engine_of(model), requests)
    assert stats.tokens_generated == assert_greedy(model, requests, answers)


def assert_greedy(model, requests, answers):
    """Compare with transformers' own loop, prompt by prompt; returns the number of new tokens."""
    generated = 0
    for request, answer in zip(requests, answers, strict=True):
        prompt = torch.tensor([request.prompt])
        tokens = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=request.max_new_tokens, do_sample=False
        )[0, len(request.prompt) :].tolist()
        ended = tokens[-1] == 1
        assert answer.text == Letters().decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert answer.finish == ("eos" if ended else "length")
        assert answer.n_tokens == len(tokens)
        generated += len(tokens)
    return generated


@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt2", "mistral"])
def test_prompts_behind_a_common_preamble_attend_to_it_together(kind, monkeypatch):
    shared = []
    compose = GrowingCache.compose

    def watched(cache, rows):
        compose(cache, rows)
        shared.append((len(rows), [(stop - start, common.length) for start, stop, common in cache.spans]))

    monkeypatch.setattr(GrowingCache, "compose", watched)
    model, draw = tiny_model(kind), random.Random(6)
    first, second = (tuple(draw.randrange(2, VOCABULARY) for _ in range(length)) for length in (75, 64))
    requests = [
        Generate(
            preamble + tuple(draw.randrange(2, VOCABULARY) for _ in range(draw.randrange(1, 14))),
            max_new_tokens=draw.randrange(1, 30),
            ends=(1,),
        )
        for preamble in [first] * 40 + [()] * 9 + [second] * 25
    ]
    answers, _ = collect(engine_of(model, batch_tokens=256), requests)
    assert_greedy(model, requests[::3], answers[::3])  # of all three kinds
    if kind == "mistral":  # its layers have windows
        assert not any(spans for _, spans in shared)
        return
    assert {length for _, spans in shared for _, length in spans} == {64}
    assert any(spans and spans[0][0] < rows for rows, spans in shared), "rows of other preambles beside them"
    assert not shared[-1][1], "the last few rows hold the preamble themselves"


def test_a_stop_string_is_found_across_token_boundaries_and_cut_off():
    model = tiny_model("llama")
    request = Generate((5, 9, 11, 3), max_new_tokens=30)
    (free,), _ = collect(engine_of(model), [request])
    assert len(free.text) > 8
    stop = free.text[4:7]
    (cut,), _ = collect(engine_of(model), [Generate(request.prompt, 30, stop=("~never~", stop))])
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.finish == "stop"
    assert cut.n_tokens == free.text.index(stop) + 3


def test_the_first_of_several_stop_strings_counts():
    assert cut_at_stop("one two three", ("three", "two", "")) == "one "
    assert cut_at_stop("one two three", ("four",)) == "one two three"


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_a_row_that_ended_at_the_window_does_not_break_the_rows_beside_it(kind):
    model = tiny_model(kind)
    prompts = [Generate(tuple(range(2, 60)) * 2, 400), *(Generate((at, at + 1, at + 2), 50) for at in range(3, 34))]
    together, _ = collect(engine_of(model), prompts)
    assert len(together) == len(prompts)
    for prompt, answer in [*zip(prompts, together, strict=True)][::6]:  # the one that ended is the first
        assert collect(engine_of(model), [prompt])[0] == [answer]


def passes(model, requests):
    """Forward passes that a run takes."""
    seen = []
    engine = engine_of(model, batch_tokens=1024)
    handle = model.register_forward_pre_hook(lambda module, args: seen.append(1))
    try:
        collect(engine, requests)
    finally:
        handle.remove()
    return len(seen)


def test_prompts_of_several_readings_are_continued_together():
    model, draw = tiny_model("llama"), random.Random(6)
    prompts = [Generate(tuple(draw.randrange(2, VOCABULARY) for _ in range(40)), 20) for _ in range(60)]
    readings = 3  # of 1024 tokens at most
    assert passes(model, prompts) == readings + 19


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_wrapped_head_is_as_before_after_a_run(kind):
    model = copy.deepcopy(tiny_model(kind))
    calls, inner = [], model.lm_head.forward

    def wrapped(states):
        calls.append(states.shape)
        return inner(states)

    requests = [Likelihood((4, 5, 6), (7, 8)), Generate((4, 5), 3)]
    wanted, _ = collect(engine_of(model), requests)
    assert "forward" not in vars(model.lm_head)
    model.lm_head.forward = wrapped
    answers, _ = collect(engine_of(model), requests)
    assert answers == wanted
    assert calls
    assert model.lm_head.forward is wrapped


def test_among_equal_logits_only_the_first_token_counts_as_chosen():
    model = copy.deepcopy(tiny_model("gpt2"))
    model.lm_head.weight.data[:] = 0.0
    answers, _ = collect(engine_of(model), [Likelihood((4, 5), (token,)) for token in (0, 7)])
    assert [answer.greedy for answer in answers] == [True, False]
    assert answers[0].logprob == answers[1].logprob


def test_a_shared_preamble_is_read_once_and_one_token_options_cost_nothing():
    shared, model = tuple(range(2, 42)), tiny_model("llama")
    requests = [Likelihood((*shared, 50, question), (option,)) for question in range(2, 22) for option in range(30, 34)]
    _, stats = collect(engine_of(model), requests)
    assert stats.tokens_unique == 41 + 20
    assert stats.tokens_read <= 41 + 20 + 41  # at most one more time the preamble
    assert stats.positions_scored == 20


def test_logits_are_computed_for_scored_positions_only():
    model = tiny_model("llama")
    seen = []
    engine = engine_of(model)
    handle = model.lm_head.register_forward_hook(lambda module, args, output: seen.append(output.shape[:-1].numel()))
    try:
        collect(engine, [Likelihood(tuple(range(2, 60)), (3,))])
    finally:
        handle.remove()
    assert sum(seen) <= 4


def test_answers_do_not_depend_on_the_order_of_requests():
    model, requests = tiny_model("qwen3"), few_shot(seed=2)
    forward, _ = collect(engine_of(model), requests)
    backward, _ = collect(engine_of(model), requests[::-1])
    assert forward == backward[::-1]


@pytest.mark.parametrize("batch_tokens", [48, 4096])
def test_nan_logits_come_through_as_nan(batch_tokens):
    class Broken(torch.nn.Module):
        def forward(self, hidden):
            return torch.full((*hidden.shape[:-1], VOCABULARY), math.nan)

    model = CONFIGS["llama"]()
    broken = type(tiny_model("llama"))(model).eval()
    broken.lm_head = Broken()
    requests = [*few_shot(seed=1), Rolling((4, 5, 6)), Generate((4, 5), 3)]
    answers, _ = collect(engine_of(broken, batch_tokens=batch_tokens), requests)
    assert all(math.isnan(answer.logprob) for answer in answers[:-2])
    assert all(math.isnan(value) for value in answers[-2].nll)


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        (Likelihood((), (3,)), "context of 0 and continuation of 1 tokens"),
        (Likelihood((3,), ()), "context of 1 and continuation of 0 tokens"),
        (Likelihood((3,) * 120, (4,) * 10), "context of 120 and continuation of 10 tokens, of which 129 must be read"),
        (Rolling((3,)), "segment of 1 tokens"),
        (Rolling((3,) * 130), "segment of 130 tokens, of which 129 must be read"),
        (Generate((), 4), "prompt of 0 tokens"),
        (Generate((3,) * 129, 4), "prompt of 129 tokens"),
    ],
)
def test_impossible_requests_are_named(request_, found):
    answers = {}
    with pytest.raises(DataError, match="request 1: ") as error:
        engine_of(tiny_model("llama")).run([Likelihood((3,), (4,)), request_], answers.__setitem__)
    assert found in str(error.value)
    assert not answers


def test_generation_ends_where_the_models_window_ends():
    model = tiny_model("gpt2")
    (answer, other), _ = collect(
        engine_of(model), [Generate(tuple(range(2, 60)) * 2, 400), Generate((4, 5), 100, stop=("~",))]
    )
    assert answer.finish in ("length", "eos")
    assert answer.n_tokens <= 128 - 116 + 1
    assert other.n_tokens <= 100


def test_progress_counts_tokens_up_to_the_total():
    class Steps(Silent):
        def __init__(self):
            super().__init__()
            self.seen = []

        def step(self, what, done, total):
            self.seen.append((what, done, total))

    progress = Steps()
    engine = TorchEngine(tiny_model("llama"), Letters(), progress=progress, batch_tokens=32, what="rtn4 mmlu")
    engine.run([*few_shot(seed=4), Generate((4, 5, 6), 5)], lambda index, response: None)
    for what in ("rtn4 mmlu scoring", "rtn4 mmlu generating"):
        steps = [(done, total) for name, done, total in progress.seen if name == what]
        assert steps[0][0] == 0
        assert steps == sorted(steps)
        assert steps[-1][0] <= steps[-1][1]
    assert len({total for name, _, total in progress.seen}) == 2


def test_the_memory_for_one_pass_stays_within_the_token_budget():
    model = tiny_model("llama")
    widths = []
    handle = model.model.embed_tokens.register_forward_hook(lambda module, args, output: widths.append(args[0].numel()))
    try:
        collect(engine_of(model, batch_tokens=40), [*few_shot(seed=6), Rolling(tuple(range(2, 60)) * 2)])
    finally:
        handle.remove()
    assert max(widths) <= 40


@pytest.mark.parametrize(
    ("width", "dtype", "device", "tokens"),
    [
        ({"intermediate_size": 4096}, torch.bfloat16, "cpu", None),  # 4,096 tokens x 4,096 x 2 bytes = 32 MiB
        ({"intermediate_size": 4097}, torch.bfloat16, "cpu", 2048),
        ({"intermediate_size": 4096}, torch.float32, "cpu", 2048),
        ({"hidden_size": 2048, "n_inner": None}, torch.bfloat16, "cpu", None),
        ({"intermediate_size": 14336}, torch.bfloat16, "cuda", None),
    ],
)
def test_wide_models_are_read_in_smaller_passes_on_a_cpu(width, dtype, device, tokens):
    assert wide_batch(SimpleNamespace(**width), dtype, device) == tokens


def test_the_engine_takes_smaller_passes_for_a_wide_model():
    model = tiny_model("llama")
    assert engine_of(model).limits.batch == 4096
    model.config.intermediate_size = 1 << 20
    assert engine_of(model).limits.batch == 2048
    assert engine_of(model, batch_tokens=64).limits.batch == 64
