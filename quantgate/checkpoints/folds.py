"""Scales that were moved from one tensor into another before quantizing (AWQ, SmoothQuant), and those that were not.

A model computes the same if the columns of a matrix are multiplied and the norm before it divided, or if the rows of
one matrix are multiplied and the columns of the next divided. What looks like a fold and has no counterpart is damage:
scales of another matrix, of another order, of zero.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from quantgate.checkpoints.findings import ERROR, FACT, Finding, named
from quantgate.core.words import counted

if TYPE_CHECKING:
    from torch import Tensor

_T = TypeVar("_T")
# Whose factors can make up for whose: v and up reach o and down through sums and products alone, a gate does not.
# A kind of matrix that is not named here may be made up for by any other of its block.
_PARTNERS: Final = {
    "q_proj": ("k_proj",), "k_proj": ("q_proj",), "v_proj": ("o_proj",), "o_proj": ("v_proj",),
    "up_proj": ("down_proj",), "down_proj": ("up_proj",), "gate_proj": (), "w1": (), "w2": ("w3",), "w3": ("w2",),
}  # fmt: skip
# Who reads a norm: all of them have to be divided by what it was multiplied by.
_READS_INPUT: Final = ("q_proj", "k_proj", "v_proj")
_READS_SECOND: Final = ("gate_proj", "up_proj")
_EVEN: Final = 0.15  # relative spread of factors that are all the same
_ALIKE: Final = 0.15  # of the product of two factors that make up for each other


@dataclass
class Folds:
    """Factors of matrices that fit the reference's only up to scales, and of norms that changed; by name.

    ``looked_at``: every matrix that was compared, whatever came of it.
    """

    rows: dict[str, Tensor] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    gains: dict[str, float] = field(default_factory=dict)
    looked_at: list[str] = field(default_factory=list)

    def add(self, module: str, rows: Tensor, columns: Tensor) -> None:
        """Keep what is not 1. A factor that all elements share is a gain; else it goes to the side that is not even."""
        if _is_even(rows) and _is_even(columns):
            gain = float(rows.median() * columns.median())
            if abs(gain - 1) > _EVEN:
                self.gains[module] = gain
            return
        if _is_even(rows):
            columns, rows = columns * rows.mean(), rows / rows.mean()
        elif _is_even(columns):
            rows, columns = rows * columns.mean(), columns / columns.mean()
        if not _is_one(rows):
            self.rows[module] = rows
        if not _is_one(columns):
            self.columns[module] = columns

    def add_norm(self, name: str, ratio: Tensor) -> None:
        """``ratio``: the candidate's norm by the reference's."""
        if not _is_one(ratio):
            self.norms[name] = ratio

    def forget(self, modules: Collection[str]) -> None:
        """Take back what was found of ``modules``."""
        for name in modules:
            self.rows.pop(name, None)
            self.columns.pop(name, None)
            self.gains.pop(name, None)

    def findings(self, config: Mapping[str, Any]) -> Iterator[Finding]:
        """Those without a counterpart, as an error; the others as a fact. ``config``: config.json."""
        repeats = _repeats(config)
        lost = [name for name, factors in self.columns.items() if not self._made_up(name, factors, repeats)]
        lost += [name for name, factors in self.rows.items() if not self._rows_made_up(name, factors, repeats)]
        lost += [name for name, ratio in self.norms.items() if not self._norm_made_up(name, ratio)]
        lost += [name for name, gain in self.gains.items() if not self._gain_made_up(name, gain)]
        lost = list(dict.fromkeys(lost))
        if lost:
            yield Finding(
                "scaled", ERROR,
                f"{counted(len(lost), 'tensor is', 'tensors are')} the reference's times factors that nothing makes up "
                f"for ({named(lost)})",
                tuple(lost),
            )  # fmt: skip
        folded = sorted({*self.rows, *self.columns, *self.norms, *self.gains} - set(lost))
        if folded:
            sentence = f"{counted(len(folded), 'tensor')} scaled, and others by as much the other way"
            yield Finding("folded", FACT, sentence, tuple(folded))

    def _made_up(self, module: str, columns: Tensor, repeats: int) -> bool:
        """Whether a norm or the rows of its partner divide by what the columns were multiplied by."""
        norms = (ratio for name, ratio in self.norms.items() if _block(name) == _block(module))
        rows = self._partners(self.rows, module)
        return any(_cancel(columns, each, 1) for each in norms) or any(_cancel(columns, each, repeats) for each in rows)

    def _rows_made_up(self, module: str, rows: Tensor, repeats: int) -> bool:
        others = (*self._partners(self.columns, module), *self._queries_and_keys(module))
        return any(_cancel(*_longer_first(each, rows), repeats) for each in others)

    def _queries_and_keys(self, module: str) -> list[Tensor]:
        return self._partners(self.rows, module) if _kind(module) in ("q_proj", "k_proj") else []

    def _norm_made_up(self, norm: str, ratio: Tensor) -> bool:
        """Every matrix that reads the norm has to make up for it; where readers are not known by name, one."""
        found = [name for name in (*self.columns, *self.gains) if _block(name) == _block(norm)]
        makes_up = {name for name in found if self._answers(name, ratio)}
        if _spread(ratio) < 2 * _EVEN:  # too little for every reader to show it through its rounding
            return bool(makes_up)
        return bool(makes_up) and all(name in makes_up for name in self._readers(norm))

    def _answers(self, module: str, ratio: Tensor) -> bool:
        if module in self.columns and _cancel(self.columns[module], ratio, 1):
            return True
        return module in self.gains and _is_one(ratio * self.gains[module])

    def _readers(self, norm: str) -> list[str]:
        inside = [name for name in self.looked_at if _block(name) == _block(norm)]
        own = norm.removesuffix(".weight").rpartition(".")[2]
        second = "pre_feedforward_layernorm" if any("pre_feedforward" in name for name in self.looked_at) else ""
        kinds = {"input_layernorm": _READS_INPUT, (second or "post_attention_layernorm"): _READS_SECOND}.get(own, ())
        return [name for name in inside if _kind(name) in kinds]

    def _gain_made_up(self, module: str, gain: float) -> bool:
        """A norm may make up for one part of a gain (its columns), and another matrix for the rest (its rows)."""
        block = _block(module)
        gains = self._partners(self.gains, module)
        sides = [*self._partners(self.rows, module), *self._partners(self.columns, module)]
        norms = [float(ratio.median()) for name, ratio in self.norms.items() if _block(name) == block]
        others = [*gains, *(float(each.median()) for each in sides)]
        return any(abs(gain * one * other - 1) < _EVEN for one in (1, *norms) for other in (1, *others))

    def _partners(self, found: Mapping[str, _T], module: str) -> list[_T]:
        """What was ``found`` of the matrices that can make up for ``module``."""
        wanted = _PARTNERS.get(_kind(module))
        place = module.rpartition(".")[0]  # the same expert, the same attention
        return [
            each for name, each in found.items()
            if name != module and _block(name) == _block(module)
            and (wanted is None or (_kind(name) in wanted and name.rpartition(".")[0] == place))
        ]  # fmt: skip


def _kind(module: str) -> str:
    """``down_proj`` of ``model.layers.0.mlp.down_proj``."""
    return module.rpartition(".")[2]


def _block(name: str) -> str:
    """``model.layers.3`` of anything in that block."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else ""


def _is_even(factors: Tensor) -> bool:
    centre = factors.median()
    return bool(centre > 0) and float((factors / centre - 1).abs().mean()) < _EVEN


def _is_one(factors: Tensor) -> bool:
    return _spread(factors) < _EVEN


def _spread(factors: Tensor) -> float:
    return float((factors - 1).abs().mean())


def _cancel(columns: Tensor, rows: Tensor, repeats: int) -> bool:
    """Whether the products are all alike: 1, or another number where each side also has factors of its own."""
    if len(rows) != len(columns):
        if len(rows) * repeats != len(columns):
            return False
        # heads of values are shared by several of queries: head size = what both are multiples of
        return any(_cancel(columns, each, 1) for each in _repeated(rows, repeats))
    product = columns * rows
    return _is_even(product) and float((product / product.median() - 1).abs().median()) < _ALIKE


def _longer_first(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    return (one, other) if len(one) >= len(other) else (other, one)


def _repeated(rows: Tensor, repeats: int) -> Iterator[Tensor]:
    heads = [heads for heads in range(1, 257) if len(rows) % heads == 0]
    for count in heads:
        yield rows.view(count, 1, -1).expand(count, repeats, -1).reshape(-1)


def _repeats(config: Mapping[str, Any]) -> int:
    """How many query heads share one of keys and values."""
    inner = config.get("text_config")
    text = inner if isinstance(inner, Mapping) else config
    queries, keys = text.get("num_attention_heads"), text.get("num_key_value_heads")
    return queries // keys if isinstance(queries, int) and isinstance(keys, int) and keys > 0 else 1
