"""The attention of a pass over shared prefixes, against softmax(QK')V in float64 over everything a token may see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from quantgate.engines.torch import attention
from quantgate.engines.torch.cache import Prefix, PrefixCache

pytestmark = pytest.mark.skipif(attention._FLASH is None, reason="this torch has no flash attention for CPUs")

KV_HEADS, GROUP, SIZE, SCALE = 2, 3, 16, 0.3


def dense(query: Tensor, keys: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
    """[H, L, D] over [K, S, D] where allowed [L, S] -> [L, H, D], in float64."""
    keys, values = (states.double().repeat_interleave(GROUP, dim=0) for states in (keys, values))
    scores = (query.double() @ keys.mT * SCALE).masked_fill(~allowed, -torch.inf)
    return (scores.softmax(dim=-1) @ values).transpose(0, 1)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR)


GENERATOR = torch.Generator()


def efficient(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, sums: bool, *, scale: float | None
) -> tuple[Tensor, Tensor, None, None]:
    """What CUDA's kernel computes and asks for: biases of every head whose rows begin at whole vectors of 16 bytes."""
    assert sums
    assert query.shape[:2] == key.shape[:2] == value.shape[:2]
    scores = query.double() @ key.double().mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        assert bias.shape == scores.shape
        assert bias.stride(-1) == 1
        assert all(stride % 8 == 0 for stride in bias.stride()[:-1])
        scores = scores + bias
    filled = torch.nn.functional.pad(scores.logsumexp(-1).float(), (0, -query.shape[2] % 32))
    return (scores.softmax(-1) @ value.double()).to(query.dtype), filled, None, None


@pytest.fixture(autouse=True, params=["cpu", "cuda"])
def _seeded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both devices' ways to a kernel; that of CUDA with its kernel's arithmetic in place of the kernel."""
    GENERATOR.manual_seed(5)
    if request.param == "cuda":
        monkeypatch.setattr(attention, "_EFFICIENT", efficient)
        monkeypatch.setitem(attention._KERNELS, "cpu", attention._on_cuda)


def test_a_kernel_is_tried_before_it_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    attention._has_kernel.cache_clear()
    assert attention._has_kernel(torch.device("cpu"), torch.float32)
    assert not attention._has_kernel(torch.device("meta"), torch.float32)
    attention._has_kernel.cache_clear()
    monkeypatch.setitem(attention._KERNELS, "cpu", lambda query, *_: (query, query[..., 0]))
    assert not attention._has_kernel(torch.device("cpu"), torch.float32)
    attention._has_kernel.cache_clear()


def run(
    length: int, prefixes: Sequence[Prefix | None], own: Tensor, to_mask: Callable[[Tensor], Tensor | None]
) -> None:
    """Compare one call over rows that continue ``prefixes`` and see ``own`` [B, L, L] of themselves."""
    rows = len(prefixes)
    query, key, value = (normal(rows, heads, length, SIZE) for heads in (KV_HEADS * GROUP, KV_HEADS, KV_HEADS))
    module = SimpleNamespace(layer_idx=1, is_causal=True)
    cache = PrefixCache(prefixes, 2, shared=True) if any(prefixes) else None
    call = AttentionInterface()[attention.NAME]
    with attention.sharing(cache):
        found, _ = call(module, query, key, value, to_mask(own[:, None]), scaling=SCALE)
    for row, prefix in enumerate(prefixes):
        keys, values, allowed = key[row], value[row], own[row]
        if prefix is not None:
            keys, values = (
                torch.cat([old[0], new], dim=1) for old, new in zip(prefix.layers[1], (keys, values), strict=True)
            )
            allowed = torch.cat([torch.ones(length, prefix.length, dtype=torch.bool), allowed], dim=1)
        expected = dense(query[row], keys, values, allowed)
        torch.testing.assert_close(found[row].double(), expected, rtol=0, atol=2e-6)


def prefix_of(length: int) -> Prefix:
    states = [normal(1, KV_HEADS, length, SIZE) for _ in range(4)]
    return Prefix(((states[0], states[1]), (states[2], states[3])), length)


def causal(rows: int, length: int) -> Tensor:
    return torch.ones(rows, length, length, dtype=torch.bool).tril()


def as_bias(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)


@pytest.mark.parametrize("length", [1, 5, 16, 33, 127, 256, 257, 300, 384, 391])
@pytest.mark.parametrize("before", [None, 1, 15, 16, 17, 40])
def test_rows_see_their_prefix_and_themselves(length: int, before: int | None) -> None:
    prefix = None if before is None else prefix_of(before)
    run(length, [prefix, prefix], causal(2, length), lambda mask: mask)


@pytest.mark.parametrize("length", [7, 300])
def test_rows_of_several_prefixes_and_of_none_share_a_pass(length: int) -> None:
    first, second, third = prefix_of(37), prefix_of(48), prefix_of(3)
    run(length, [None, first, first, second, third, third], causal(6, length), lambda mask: mask)


@pytest.mark.parametrize("to_mask", [lambda mask: mask, as_bias], ids=["bool", "bias"])
def test_branches_in_a_row_do_not_see_each_other(to_mask: Callable[[Tensor], Tensor]) -> None:
    own = causal(2, 290)
    own[0, 150:, 20:150] = False  # two branches after 20 common tokens
    own[1, 3:, :3] = False  # two items
    prefix = prefix_of(21)
    run(290, [prefix, prefix], own, to_mask)


@pytest.mark.parametrize("length", [2, 15, 16, 17, 95, 300])
def test_without_a_mask_every_token_sees_the_ones_before_it(length: int) -> None:
    run(length, [None, None], causal(2, length), lambda mask: None)


def test_a_module_that_is_not_causal_sees_everything() -> None:
    query, key, value = (normal(1, heads, 5, SIZE) for heads in (KV_HEADS * GROUP, KV_HEADS, KV_HEADS))
    module = SimpleNamespace(is_causal=False, num_key_value_groups=GROUP)
    found, _ = AttentionInterface()[attention.NAME](module, query, key, value, None, scaling=SCALE)
    expected = dense(query[0], key[0], value[0], torch.ones(5, 5, dtype=torch.bool))
    torch.testing.assert_close(found[0].double(), expected, rtol=0, atol=2e-6)


def test_a_new_mask_of_the_same_shape_is_a_new_bias() -> None:
    prefix, module = prefix_of(18), SimpleNamespace(layer_idx=0)
    query, key, value = (normal(1, heads, 4, SIZE) for heads in (KV_HEADS * GROUP, KV_HEADS, KV_HEADS))
    narrow = torch.eye(4, dtype=torch.bool)[None, None]
    call = AttentionInterface()[attention.NAME]
    with attention.sharing(PrefixCache([prefix], 2, shared=True)):
        wide, again, other = (
            call(module, query, key, value, mask, scaling=SCALE)[0]
            for mask in (causal(1, 4)[None], causal(1, 4)[None], narrow)
        )
    assert torch.equal(wide, again)
    assert not torch.allclose(wide, other)


def test_layers_with_other_numbers_of_heads_get_their_own_bias() -> None:
    now, mask = attention._Pass(None), causal(1, 16)[None]
    assert [now.biases(mask, torch.float32, group)[0].shape[2] for group in (1, 3, 1)] == [16, 48, 16]


def test_blocks_leave_out_the_keys_after_them() -> None:
    biases = attention._Pass(None).biases(causal(1, 390)[None], torch.float32, GROUP)
    assert [tuple(bias.shape) for bias in biases] == [
        (1, 1, 128 * GROUP, 128),
        (1, 1, 128 * GROUP, 256),
        (1, 1, 128 * GROUP, 384),
        (1, 1, 6 * GROUP, 400),
    ]
