"""Where an answer ends, what a model's window still holds, and what tells one engine's answers from another's."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from quantgate.core.progress import Silent
from quantgate.core.requests import Generate, Likelihood, Rolling, are_numbers, is_number
from quantgate.engines.protocol import Setting
from quantgate.engines.torch import attention, states
from quantgate.engines.torch.engine import TorchEngine, _read
from quantgate.engines.torch.generation import GenerationRun
from quantgate.engines.torch.row import TorchRow
from tests.unit.engines.tiny import Letters
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
