"""The next block's weights are asked for before it runs, where the model does not fit into memory."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from quantgate.models import ahead
from quantgate.models.ahead import read_ahead, will_need
from tests.unit.conftest import tiny_llama


@pytest.fixture
def asked(monkeypatch):
    """The modules that were asked for."""
    found = []
    monkeypatch.setattr(ahead, "will_need", found.append)
    return found


@pytest.mark.parametrize(("free", "does"), [(10, True), (1 << 40, False), (None, False)])
def test_the_next_block_is_asked_for_and_behind_the_last_the_first(monkeypatch, asked, free, does):
    monkeypatch.setattr(ahead, "available", lambda: free)
    model = tiny_llama()
    assert read_ahead(model) is does
    with torch.no_grad():
        model(torch.zeros(1, 3, dtype=torch.int64))
    first, second = model.model.layers
    assert asked == ([second, first] if does else [])


def test_the_blocks_are_the_largest_list_not_the_longest(monkeypatch, asked):
    """A block of experts has more of them than there are blocks."""
    monkeypatch.setattr(ahead, "available", lambda: 0)
    model = nn.Module()
    model.layers = nn.ModuleList(nn.ModuleList(nn.Linear(2, 2) for _ in range(5)) for _ in range(3))
    for block in model.layers:
        block.forward = block[0].forward
    assert read_ahead(model)
    model.layers[2](torch.ones(1, 2))
    assert [list(model.layers).index(each) for each in asked] == [0]


def test_asking_changes_nothing(model_dir):
    model = tiny_llama()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    will_need(model)
    ahead._READER.submit(lambda: None).result(timeout=60)  # the advice before it is through
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_pages_are_whole(monkeypatch):
    calls = []
    libc = SimpleNamespace(madvise=lambda *args: calls.append(args))
    monkeypatch.setattr(ahead, "_libc", lambda: libc)
    ahead._advise([(3 * ahead.mmap.PAGESIZE + 7, 100)])
    assert calls == [(3 * ahead.mmap.PAGESIZE, 107, 3)]


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_without_such_a_call_nothing_is_asked(error, monkeypatch):
    """TypeError: Windows, where no library is every library."""

    def missing(_):
        raise error

    ahead._libc.cache_clear()
    monkeypatch.setattr(ahead.ctypes, "CDLL", missing)
    monkeypatch.setattr(ahead, "_READER", None)
    try:
        will_need(nn.Linear(2, 2))
        assert ahead._libc() is None
    finally:
        ahead._libc.cache_clear()
