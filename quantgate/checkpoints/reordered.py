"""Heads and hidden features in another order: the model computes the same if every matrix that meets them agrees.

Tools sort features for faster kernels. Rows of gate and up together with the columns of down may stand in any order,
and so may whole heads of queries, keys, values and the columns of o. An order that only some follow is damage.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from quantgate.checkpoints.layouts.protocol import Checkpoint
from quantgate.checkpoints.matrices import plain_distance

if TYPE_CHECKING:
    from torch import Tensor

_SAMPLE: Final = 256  # columns that rows are recognised by
_ALIKE: Final = 0.3  # squared error of a group's matrices once they are put in order; unrelated ones have 2
_HIDDEN: Final = ("up_proj", "gate_proj", "down_proj")
_HEADS: Final = ("v_proj", "q_proj", "k_proj", "o_proj")


@dataclass(frozen=True)
class Order:
    """Where the rows (``side`` 0) or columns (1) of the reference's matrix went: row ``i`` is its ``places[i]``."""

    side: int
    places: Tensor


class InOrder:
    """The reference with some matrices in a candidate's order; what is read of it is all that the audit reads."""

    def __init__(self, ours: Checkpoint, orders: Mapping[str, Order]) -> None:
        self._ours, self._orders = ours, orders

    @property
    def plain(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """As the reference's."""
        return self._ours.plain

    def tensor(self, name: str) -> Tensor:
        """The reference's tensor, in order."""
        found, order = self._ours.tensor(name), self._orders.get(name.removesuffix(".weight"))
        return found if order is None else found.index_select(order.side, order.places)


def orders_of(far: Collection[str], checkpoint: Checkpoint, ours: Checkpoint) -> dict[str, Order]:
    """The order of every matrix of the groups that hold one of ``far`` and that agree on an order; by module."""
    orders: dict[str, Order] = {}
    for place in dict.fromkeys(name.rpartition(".")[0] for name in far):
        for kinds in (_HIDDEN, _HEADS):
            members = [f"{place}.{kind}" for kind in kinds]
            if any(name in far for name in members) and all(f"{name}.weight" in ours.plain for name in members):
                orders |= _agreed(members, kinds, checkpoint, ours)
    return orders


def _agreed(members: list[str], kinds: tuple[str, ...], checkpoint: Checkpoint, ours: Checkpoint) -> dict[str, Order]:
    """The group's orders; empty unless all of its matrices are the reference's under them."""
    if not all(_values(name, checkpoint) is not None for name in members):
        return {}
    own, found = _ours(members[0], ours), _values(members[0], checkpoint)
    assert found is not None
    if own.shape != found.shape:
        return {}
    if kinds == _HIDDEN:
        places = _matched(own, found)
        orders = (
            {name: Order(int(name.endswith("down_proj")), places) for name in members} if places is not None else {}
        )
    else:
        orders = _of_heads(members, found, checkpoint, ours)
    return orders if orders and all(_fits(name, order, checkpoint, ours) for name, order in orders.items()) else {}


def _of_heads(members: list[str], found: Tensor, checkpoint: Checkpoint, ours: Checkpoint) -> dict[str, Order]:
    """Heads of values first; heads of queries inside the group that shares one follow by themselves."""
    queries, keys, size = heads(checkpoint.config)
    value, query, key, output = members
    asked = _values(query, checkpoint)
    if not size or asked is None or len(found) != keys * size or len(asked) != queries * size:
        return {}
    of_values = _matched(_ours(value, ours).reshape(keys, -1), found.reshape(keys, -1))
    of_queries = _matched(_ours(query, ours).reshape(queries, -1), asked.reshape(queries, -1))
    if of_values is None or of_queries is None:
        return {}
    repeats = queries // keys
    if not bool((of_queries // repeats == of_values.repeat_interleave(repeats)).all()):
        return {}  # a query would meet the keys of another group
    wide, narrow = _spread_out(of_queries, size), _spread_out(of_values, size)
    return {value: Order(0, narrow), key: Order(0, narrow), query: Order(0, wide), output: Order(1, wide)}


def _spread_out(heads: Tensor, size: int) -> Tensor:
    import torch

    return (heads.unsqueeze(1) * size + torch.arange(size)).flatten()


def heads(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Heads of queries, of keys, and their size; zeros where the configuration does not say."""
    queries, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if not isinstance(queries, int) or not isinstance(hidden, int) or queries < 1:
        return 0, 0, 0
    keys = config.get("num_key_value_heads") or queries
    size = config.get("head_dim") or hidden // queries
    return queries, int(keys), int(size)


def _matched(own: Tensor, found: Tensor) -> Tensor | None:
    """For every row of ``found`` the row of ``own`` it is most alike; None unless that is an order of all."""
    step = max(1, own.shape[1] // _SAMPLE)
    one, other = (each[:, ::step] / each[:, ::step].norm(dim=1, keepdim=True).clamp(min=1e-30) for each in (own, found))
    places = (other @ one.t()).argmax(1)
    return places if len(places.unique()) == len(places) else None


def _fits(name: str, order: Order, checkpoint: Checkpoint, ours: Checkpoint) -> bool:
    found = _values(name, checkpoint)
    own = _ours(name, ours).index_select(order.side, order.places)
    return found is not None and found.shape == own.shape and plain_distance(own, found) < _ALIKE


def _ours(name: str, ours: Checkpoint) -> Tensor:
    return ours.tensor(f"{name}.weight").float()


def _values(name: str, checkpoint: Checkpoint) -> Tensor | None:
    if name in checkpoint.modules:
        return checkpoint.weight(name)
    return checkpoint.tensor(f"{name}.weight").float() if f"{name}.weight" in checkpoint.plain else None


def moved(orders: Mapping[str, Order]) -> Iterator[str]:
    """Modules whose order is not the reference's."""
    for name, order in orders.items():
        if bool((order.places[1:] < order.places[:-1]).any()):
            yield name
