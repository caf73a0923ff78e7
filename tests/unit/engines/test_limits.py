"""Where an answer ends, what a model's window still holds, and what tells one engine's answers from another's."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from quantgate.core.progress import Silent
from quantgate.core.requests import Generate, Likelihood, Rolling, are_numbers, is_number
from quantgate.engines.protocol import Setting
from quantgate.engines.torch import attention, head, states
from quantgate.engines.torch.adapter import CausalModel
from quantgate.engines.torch.engine import TorchEngine, _read, cache_bytes, limits_for
from quantgate.engines.torch.generation import GenerationRun
from quantgate.engines.torch.row import TorchRow
from tests.unit.engines.tiny import CONFIGS, Letters, collect, plain_logprobs
from tests.unit.engines.tiny import tiny_model as model_of


def test_the_last_token_that_is_asked_for_is_never_read() -> None:
    assert _read(Likelihood((1, 2), (3, 4, 5))) == 4
    assert _read(Rolling((1, 2, 3))) == 2


@pytest.mark.parametrize(("window", "wanted"), [(10, 3), (8, 1), (100, 50), (None, 50)])
def test_new_tokens_fill_the_window_and_no_more(window: int | None, wanted: int) -> None:
    """The last of them is told and not read: 8 tokens of a prompt and two new ones fill a window of 10."""
    run = SimpleNamespace(model=SimpleNamespace(max_length=window))
    assert GenerationRun._cap(run, Generate(tuple(range(8)), 50)) == wanted  # type: ignore[arg-type]


def test_a_kernel_that_fails_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    has_kernel = attention._has_kernel.__wrapped__
    assert has_kernel(torch.device("cpu"), torch.float32)
    for error in (RuntimeError, NotImplementedError, TypeError):

        def fails(*given: object, error: type[Exception] = error) -> None:
            raise error("no such kernel")

        monkeypatch.setitem(attention._KERNELS, "cpu", fails)
        assert not has_kernel(torch.device("cpu"), torch.float32)


def test_a_bias_on_one_side_alone_is_another_head() -> None:
    some = torch.ones(2)
    assert states._equal(None, None)
    assert states._equal(some, some.clone())
    assert not states._equal(some, None)
    assert not states._equal(None, some)


def test_an_engine_is_told_by_its_kind_of_device_and_on_a_cpu_by_its_arithmetic(tiny_model) -> None:
    here, there = (TorchRow().identity(tiny_model, "mine", Setting("bfloat16", each)) for each in ("cpu", "cuda:1"))
    assert (here["device"], there["device"]) == ("cpu", "cuda")
    assert ("processor" in here, "processor" in there) == (True, False)
    assert ("attention" in here, "attention" in there) == (False, True)


def test_numbers_are_told_by_their_types_alone() -> None:
    """One look a type gives what a look at each value gives."""
    odd = ("1", True, None, 1j, torch.tensor(1.0), np.float32(1.0))
    for values in ((), (1, 2.0, math.nan, np.float64(3.0)), *((1.0, each) for each in odd)):
        assert are_numbers(values) == all(map(is_number, values)) == (len(values) != 2)


def test_what_was_begun_is_gone_on_with() -> None:
    """Where a model's tables change with the length, tokens of before must not be drawn anew by the later tables."""
    engine = TorchEngine(model_of("llama"), Letters(), progress=Silent())
    requests = {0: Generate((2, 3, 4), 6), 1: Generate((5, 6), 6)}
    run = GenerationRun(engine.model, Letters(), requests, engine.limits, lambda *_: None, begun={0: (7, 8)})
    assert run.plan.tokens_read == 3 + 2 + 2


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_token_costs_what_its_keys_and_values_take(kind: str) -> None:
    model = model_of(kind)
    with torch.no_grad():
        held = model(input_ids=torch.tensor([[2, 3, 4, 5]]), use_cache=True).past_key_values
    assert cache_bytes(CausalModel(model, "cpu")) * 4 == sum(
        states.nbytes for layer in held.layers for states in (layer.keys, layer.values)
    )


@pytest.mark.parametrize(("gib", "context"), [(80, 131072), (1, 104857), (0.01, 2048)])
def test_a_pass_holds_a_fifth_of_a_gpus_memory_in_keys_and_values(
    gib: float, context: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 KiB a token: of 16,384 a pass eight times as many are held at most, and an eighth at least."""
    config = SimpleNamespace(num_attention_heads=8, num_key_value_heads=4, hidden_size=512)
    model = SimpleNamespace(
        config=config, n_layers=2, model=SimpleNamespace(dtype=torch.bfloat16), device=torch.device("cuda"),
        branching=True, shares_prefixes=True,
    )  # fmt: skip
    whole = SimpleNamespace(total_memory=int(gib * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: whole)
    assert limits_for(16384, model).context == context  # type: ignore[arg-type]


def test_attention_is_replaced_where_transformers_own_is_sdpa_over_keys_and_values() -> None:
    model, here = copy.deepcopy(model_of("llama")), torch.device("cpu")
    assert attention.available(model, here)
    model.config.kv_lora_rank = 8
    assert not attention.available(model, here)
    model.config.kv_lora_rank = None
    model.set_attn_implementation("eager")
    assert not attention.available(model, here)


def test_a_head_that_was_wrapped_is_asked_and_not_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """As adapters and offloading wrap it: without a hook. Blocks of 7 tokens would be of the weights alone."""
    monkeypatch.setattr(head, "_WIDTH", 7)
    monkeypatch.setattr(head, "_BLOCK", {"cpu": 7})
    model = copy.deepcopy(model_of("llama"))
    inner = model.lm_head.forward
    model.lm_head.forward = lambda states: 2 * inner(states)
    tokens = (2, 3, 9, 8, 7)
    [answer], _ = collect(TorchEngine(model, Letters(), progress=Silent()), [Rolling(tokens)])
    wanted = plain_logprobs(model, tokens).gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(answer.nll), -wanted, atol=1e-5, rtol=0)
