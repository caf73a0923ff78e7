"""What the caches hold of a row, and what rows hold together."""

from __future__ import annotations

import torch

from quantgate.engines.torch.cache import LANES, GrowingCache, Grown, Prefix, PrefixCache


def prefix_of(length: int, start: int = 0) -> Prefix:
    """Two layers whose keys and values are the positions from ``start`` on."""
    states = torch.arange(start, start + length, dtype=torch.float32)[None, None, :, None].expand(1, 2, length, 3)
    return Prefix(((states, -states), (states, -states)), length)


def own_cache(before: Prefix, length: int, *, shared: bool) -> PrefixCache:
    cache = PrefixCache([before], 2, shared=shared)
    own = prefix_of(length, start=before.length)
    for layer, (keys, values) in zip(cache.layers, own.layers, strict=True):
        layer.update(keys, values)
    return cache


def positions(prefix: Prefix) -> list[float]:
    return prefix.layers[1][0][0, 1, :, 2].tolist()


def test_a_prompt_holds_what_its_trunk_does_not() -> None:
    grown = own_cache(prefix_of(LANES + 3), 4, shared=True).grown(0, torch.tensor([0, 1, 3]), trunk=5)
    assert grown.common is not None
    assert positions(grown.common) == list(range(LANES))
    assert positions(grown.own) == [*range(LANES, LANES + 5), LANES + 6]
    assert (grown.trunk, grown.before) == (5, LANES)


def test_a_prompt_holds_everything_where_prefixes_are_copied_or_short() -> None:
    for length, shared in ((LANES + 3, False), (LANES - 1, True)):
        grown = own_cache(prefix_of(length), 2, shared=shared).grown(0, torch.arange(2), trunk=0)
        assert grown.common is None
        assert positions(grown.own) == list(range(length + 2))


def test_rows_move_up_in_place_and_take_back_what_they_held_together() -> None:
    common = prefix_of(16 * LANES)
    rows = [Grown(1, common, prefix_of(length, start=common.length)) for length in (9, 3, 4, 3, 2)]
    cache = GrowingCache(rows, room=400)
    store = cache.layers[0].key_store
    assert [(start, stop) for start, stop, _ in cache.spans] == [(0, 5)]
    assert cache.get_seq_length() == 9
    left = [Grown(1, common, cache.last_of(row, rows[row].own.length)) for row in (1, 3, 4)]
    cache.compose(left)
    assert (cache.spans, cache.outside) == ([], [0, 0, 0])
    assert cache.get_seq_length() == common.length + 3
    for row, own in enumerate((3, 3, 2)):
        assert positions(cache.last_of(row, common.length + own)) == list(range(common.length + own))
    cache.compose([Grown(1, common, cache.last_of(2, 2))])
    assert positions(cache.last_of(0, common.length + 2)) == list(range(common.length + 2))
    assert cache.layers[0].key_store is store, "nothing new was needed"


def test_a_prefix_is_as_long_as_what_it_continues_and_its_own() -> None:
    for before, own in ((3, 3), (5, 1), (7, 9)):
        made = own_cache(prefix_of(before), own, shared=False).prefix_of(0, torch.arange(own))
        assert made.length == before + own == len(positions(made))


def test_only_neighbours_hold_a_prefix_together() -> None:
    one, other = prefix_of(3), prefix_of(2)
    for prefixes, spans in (
        ([one, one, None, other], [(0, 2, one), (3, 4, other)]),
        ([one, None, one], [(0, 1, one), (2, 3, one)]),
        ([one, other, one], [(0, 1, one), (1, 2, other), (2, 3, one)]),
    ):
        found = PrefixCache(prefixes, 2, shared=True).spans
        assert [(start, stop) for start, stop, _ in found] == [(start, stop) for start, stop, _ in spans]
        assert all(mine is theirs for (_, _, mine), (_, _, theirs) in zip(found, spans, strict=True))


def test_a_row_holds_nothing_of_the_next() -> None:
    cache = PrefixCache([None, None], 2, shared=False)
    states = torch.stack([prefix_of(4).layers[0][0][0], prefix_of(4, start=10).layers[0][0][0]])
    for layer in cache.layers:
        layer.update(states, -states)
    for row in (0, 1):
        made = cache.prefix_of(row, torch.tensor([0, 2]))
        assert made.layers[0][0].shape[0] == 1
        assert positions(made) == [10.0 * row, 10.0 * row + 2]
