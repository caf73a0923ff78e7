"""Scales that were moved from one tensor into another before quantizing (AWQ, SmoothQuant), and those that were not.

A model computes the same if the columns of a matrix are multiplied and the norm before it divided, or if the rows of
one matrix are multiplied and the columns of the next divided. What looks like a fold and has no counterpart is damage:
scales of another matrix, of another order, of zero. A matrix may take part in two folds (values: of the norm before
them and of what reads them), so that what the norm accounts for is taken off before its rows are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from quantgate.checkpoints.findings import ERROR, FACT, Finding, named
from quantgate.core.words import counted

if TYPE_CHECKING:
    from torch import Tensor

    from quantgate.checkpoints.matrices import Fit

# Whose factors can make up for whose: v and up reach o and down through sums and products alone, a gate does not.
# A kind of matrix that is not named here may be made up for by any other of its block.
_PARTNERS: Final = {
    "q_proj": "k_proj", "k_proj": "q_proj", "v_proj": "o_proj", "o_proj": "v_proj", "up_proj": "down_proj",
    "down_proj": "up_proj", "gate_proj": "", "w1": "", "w2": "w3", "w3": "w2",
}  # fmt: skip
_LAST: Final = ("o_proj", "down_proj", "w2")  # which give to the sum of the blocks: only their columns can be folded
# Who reads a norm: all of them have to be divided by what it was multiplied by.
_INPUT: Final = "input_layernorm"
_SECOND: Final = ("pre_feedforward_layernorm", "post_attention_layernorm")  # the first of them that a block has
_READS_INPUT: Final = ("q_proj", "k_proj", "v_proj")
_READS_SECOND: Final = ("gate_proj", "up_proj", "w1", "w3")
_EVEN: Final = 0.15  # relative spread of factors that are all the same
_ALIKE: Final = 0.15  # of the product of two factors that make up for each other
_TIMES: Final = 2.0  # of a single channel of a norm
_BEYOND: Final = 16.0  # times the usual squared error of a column; feedback (GPTQ) moves small ones by 7
_COARSE: Final = 0.1  # of a matrix is error: its single columns tell nothing
_FELT: Final = 0.1  # of a norm's usual weight, which a channel changes by to count alone


@dataclass(frozen=True)
class Factors:
    """What a matrix is the reference's times: ``rows`` (``[out]``) and ``columns`` (``[in]``, their median is 1).

    ``error``: squared, what these leave of a usual column; ``mass``: of the reference's columns (``[in]``), squared.
    Both in the same unit. ``left``: what these leave of the whole, relative and squared, as far as rounding explains.
    """

    rows: Tensor
    columns: Tensor
    error: float
    mass: Tensor
    left: float

    @classmethod
    def of(cls, fit: Fit, most: float) -> Factors:
        """Of both sides as they were fitted; either may have taken any factor from the other. ``most``: error, relative
        and squared, that rounding leaves.
        """
        centre = fit.columns.median()
        centre = centre if bool(centre) else centre + 1
        columns = fit.columns / centre
        usual = float((columns.square() * fit.mass).mean())
        return cls(fit.rows * centre, columns, fit.error * usual, fit.mass, min(fit.error, most))

    @property
    def gain(self) -> float | None:
        """The one factor of all elements; None where there are several."""
        return float(self.rows.median()) if _is_even(self.rows) and _is_even(self.columns) else None

    @property
    def inputs(self) -> Tensor | None:
        """Factors of the columns with the one of the matrix; None where rows have factors of their own."""
        return self.columns * self.rows.median() if _is_even(self.rows) else None


@dataclass
class Folds:
    """Factors of matrices that fit the reference's only up to scales, and of norms that changed; by name.

    ``looked_at``: every matrix that was compared, whatever came of it. ``known``: norms of the reference, by name.
    ``fit``: the factors of a matrix that had none worth a note by itself; asked of those that others have to fit.
    """

    factors: dict[str, Factors] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    looked_at: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    fit: Callable[[str], Factors | None] = lambda module: None
    _asked: dict[str, Factors | None] = field(default_factory=dict)

    def add(self, module: str, fit: Fit, most: float) -> None:
        """Keep what is not 1; ``most``: see `Factors.of`."""
        found = Factors.of(fit, most)
        if found.gain is None or abs(found.gain - 1) > _EVEN:
            self.factors[module] = found

    def add_norm(self, name: str, ratio: Tensor, weight: Tensor) -> None:
        """``ratio``: the candidate's norm by the reference's; ``weight``: what that multiplies by."""
        felt = ((ratio - 1) * weight).abs() > _FELT * weight.square().mean().sqrt()
        if not _is_one(ratio) or bool((_is_far(ratio) & felt).any()):
            self.norms[name] = ratio

    def forget(self, modules: Collection[str]) -> None:
        """Take back what was found of ``modules``."""
        for name in modules:
            self.factors.pop(name, None)

    def outputs(self) -> dict[str, Tensor]:
        """By module, what its rows were multiplied by once the norm before it is taken off: its bias as well."""
        found = {}
        for module, each in self.factors.items():
            rests = self._rests(module)
            found[module] = rests[0] if rests else each.rows
        return found

    def findings(self, config: Mapping[str, Any]) -> Iterator[Finding]:
        """Those without a counterpart, as an error; the others as a fact. ``config``: config.json."""
        repeats = _repeats(config)
        lost = [name for name in self.factors if not self._is_made_up(name, repeats)]
        lost += [name for name, ratio in self.norms.items() if not self._norm_made_up(name, ratio, repeats)]
        if lost:
            yield Finding(
                "scaled", ERROR,
                f"{counted(len(lost), 'tensor is', 'tensors are')} the reference's times factors that nothing makes up "
                f"for ({named(lost)})",
                tuple(lost),
            )  # fmt: skip
        folded = sorted({*self.factors, *self.norms} - set(lost))
        if folded:
            sentence = f"{counted(len(folded), 'tensor')} scaled, and others by as much the other way"
            yield Finding("folded", FACT, sentence, tuple(folded))

    def owed(self, module: str, config: Mapping[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
        """Factors of rows and of columns that norms and partners leave to a matrix to make up for; ``config``:
        config.json. Several where heads may be shared in several ways.
        """
        found = self._of(module)
        partner = self._partner(module) if _kind(module) in _PARTNERS else None
        if found is None or _kind(module) not in _PARTNERS:
            return
        ones, repeats = found.rows.new_ones(len(found.rows)), _repeats(config)
        if _kind(module) in _LAST:
            for rest in self._rests(partner) if partner is not None else []:
                shared = [rest] if len(rest) == len(found.columns) else _repeated(rest, repeats)
                yield from ((ones, 1 / each) for each in shared if len(each) == len(found.columns))
            return
        meets = self._of(partner) if partner is not None and _kind(partner) in _LAST else None
        inputs = None if meets is None else meets.inputs
        for side in self._sides(module, found):
            yield ones, 1 / side
            if inputs is not None and len(inputs) == len(ones):
                yield 1 / inputs, 1 / side
            elif inputs is not None and len(inputs) == repeats * len(ones):
                yield from ((1 / each, 1 / side) for each in _gathered(inputs, repeats))

    # --- one matrix ---------------------------------------------------------------------------------------------------

    def _of(self, module: str) -> Factors | None:
        """Its factors, looked up now where it had none worth a note."""
        if module in self.factors:
            return self.factors[module]
        if module not in self._asked:
            self._asked[module] = self.fit(module) if module in self.looked_at else None
        return self._asked[module]

    def _is_made_up(self, module: str, repeats: int) -> bool:
        found = self._of(module)
        if found is None or _kind(module) not in _PARTNERS:
            return found is not None and self._any_makes_up(module, found, repeats)
        if _kind(module) in _LAST:
            return found.inputs is not None and self._last_made_up(module, found.inputs, repeats)
        return any(self._rest_made_up(module, rest, repeats) for rest in self._rests(module))

    def _rests(self, module: str) -> list[Tensor]:
        """What is left of a matrix's rows once the norm before it is taken off; of each norm that fits its columns."""
        found = self._of(module)
        if found is None:
            return []
        return [rest for side in self._sides(module, found) if (rest := _rest(found, side)) is not None]

    def _sides(self, module: str, found: Factors) -> list[Tensor]:
        """What the norm before a matrix was multiplied by; of all that it may be where names do not say."""
        before = self._norms_before(module)
        sides = [self.norms[name] for name in before if name in self.norms]
        return sides + ([] if len(before) == len(sides) == 1 else [found.columns.new_ones(len(found.columns))])

    def _rest_made_up(self, module: str, rest: Tensor, repeats: int) -> bool:
        """Whether rows that no norm accounts for are 1, or divided again by what their outputs meet."""
        own = self._of(module)
        left = 0.0 if own is None else own.left
        if _is_one(rest, left):
            return True
        partner = self._partner(module)
        if partner is None or (found := self._of(partner)) is None:
            return False
        left += found.left
        if _kind(partner) in _LAST:
            return found.inputs is not None and _make_one(found.inputs, rest, repeats, left)
        return any(_make_one(*_longer_first(each, rest), repeats, left) for each in self._rests(partner))

    def _last_made_up(self, module: str, inputs: Tensor, repeats: int) -> bool:
        partner = self._partner(module)
        rests = self._rests(partner) if partner is not None else []
        norms = [self.norms[name] for name in self._norms_before(module) if name in self.norms]
        left = sum(each.left for name in (module, partner) if name is not None and (each := self._of(name)) is not None)
        return (
            _is_one(inputs, left)
            or any(_make_one(inputs, rest, repeats, left) for rest in rests)
            or any(_make_one(inputs, each, 1, left) for each in norms)
        )

    def _partner(self, module: str) -> str | None:
        """The matrix that can make up for ``module``: of the same expert, the same attention."""
        name = f"{module.rpartition('.')[0]}.{_PARTNERS[_kind(module)]}"
        return name if name in self.looked_at else None

    def _norms_before(self, module: str) -> list[str]:
        """The norm whose output the matrix reads; where names do not say, all that it may be."""
        inside = [name for name in self.known if _block(name) == _block(module)]
        first = [name for name in inside if _own(name) == _INPUT]
        second = next(([name for name in inside if _own(name) == each] for each in _SECOND if _has(inside, each)), [])
        if _kind(module) in _READS_INPUT and first:
            return first
        if _kind(module) in _READS_SECOND and (second or first):
            return second or first
        if _kind(module) in _LAST:
            return [name for name in inside if name not in (*first, *second)]
        return inside

    # --- one norm -----------------------------------------------------------------------------------------------------

    def _norm_made_up(self, norm: str, ratio: Tensor, repeats: int) -> bool:
        """Every matrix that reads the norm has to make up for it; where readers are not known by name, one."""
        if readers := self._readers(norm):
            return all(self._answers(name, ratio, repeats) for name in readers)
        found = [name for name in self.factors if _block(name) == _block(norm)]
        return any(self._has_taken(self.factors[name], ratio) for name in found)

    def _answers(self, module: str, ratio: Tensor, repeats: int) -> bool:
        found = self._of(module)
        rest = None if found is None else _rest(found, ratio)
        return rest is not None and self._rest_made_up(module, rest, repeats)

    @staticmethod
    def _has_taken(found: Factors, ratio: Tensor) -> bool:
        """As `_answers`, of a matrix whose part in its block no name says."""
        if found.gain is not None:
            return _is_one(ratio * found.gain)
        return found.inputs is not None and _cancel(found.inputs, ratio, 1)

    def _readers(self, norm: str) -> list[str]:
        known = [name for name in self.looked_at if _kind(name) in (*_READS_INPUT, *_READS_SECOND)]
        return [name for name in known if _block(name) == _block(norm) and self._norms_before(name) == [norm]]

    # --- matrices of other names --------------------------------------------------------------------------------------

    def _any_makes_up(self, module: str, found: Factors, repeats: int) -> bool:
        """Whether a norm, or any other matrix of the block, divides by what this one was multiplied by."""
        others = [each for name, each in self.factors.items() if name != module and _block(name) == _block(module)]
        norms = [ratio for name, ratio in self.norms.items() if _block(name) == _block(module)]
        if found.gain is not None:
            return _gain_made_up(found.gain, others, norms)
        columns = found.inputs if found.inputs is not None else found.columns
        met = [*((each, 1) for each in norms), *((each.rows, repeats) for each in others)]
        if not _is_one(columns) and not any(_cancel(columns, each, times) for each, times in met):
            return False
        met = [(each.columns, repeats) for each in others]
        return _is_even(found.rows) or any(_cancel(*_longer_first(each, found.rows), n) for each, n in met)


def _gain_made_up(gain: float, others: Collection[Factors], norms: Collection[Tensor]) -> bool:
    """A norm may make up for one part of a gain (its columns), and another matrix for the rest (its rows)."""
    sides = [1.0, *(float(each.rows.median()) for each in others)]
    return any(
        abs(gain * one * other - 1) < _EVEN for one in (1.0, *(float(n.median()) for n in norms)) for other in sides
    )


def _rest(found: Factors, ratio: Tensor) -> Tensor | None:
    """Rows of a matrix with what is left of its columns behind a norm that was multiplied by ``ratio``; None if that
    is more than one factor.
    """
    if len(ratio) != len(found.columns):
        return None
    product = found.columns * ratio
    if not _are_alike(product, found.left):
        return None
    centre = product.median()
    # What a norm did to a single channel shows in no mean.
    return None if bool((_is_far(ratio) & _apart(found, ratio, centre)).any()) else found.rows * centre


def _apart(found: Factors, ratio: Tensor, centre: Tensor) -> Tensor:
    """Columns whose factor is not what a norm of that ``ratio`` asks for, by more than rounding puts them."""
    if found.left > _COARSE:
        return ratio.new_zeros(len(ratio)).bool()
    wanted = centre / ratio
    return _is_far(found.columns / wanted) & ((found.columns - wanted).square() * found.mass > _BEYOND * found.error)


def _has(names: Collection[str], own: str) -> bool:
    return any(_own(name) == own for name in names)


def _own(norm: str) -> str:
    """``input_layernorm`` of ``model.layers.0.input_layernorm.weight``."""
    return norm.removesuffix(".weight").rpartition(".")[2]


def _kind(module: str) -> str:
    """``down_proj`` of ``model.layers.0.mlp.down_proj``."""
    return module.rpartition(".")[2]


@lru_cache(maxsize=1 << 16)
def _block(name: str) -> str:
    """``model.layers.3`` of anything in that block."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else ""


def _is_even(factors: Tensor, left: float = 0.0) -> bool:
    centre = factors.median()
    return bool(centre) and float((factors / centre - 1).abs().mean()) < _EVEN + left / 2


def _is_one(factors: Tensor, left: float = 0.0) -> bool:
    """Whether they are all 1; ``left``: what they leave of the matrices, squared: few bits leave smaller ones, where
    ranges are clipped.
    """
    near = _is_even(factors) and abs(float(factors.median()) - 1) < _EVEN + left / 2
    return float((factors - 1).abs().mean()) < _EVEN or (left > 0 and near)


def _is_far(factors: Tensor) -> Tensor:
    return (factors > _TIMES) | (factors < 1 / _TIMES)


def _are_alike(product: Tensor, left: float = 0.0) -> bool:
    """Whether products are one number, of either sign; ``left``: see `_is_one`, of noise on each factor here."""
    return _is_even(product, left) and float((product / product.median() - 1).abs().median()) < _ALIKE + left / 2


def _make_one(inputs: Tensor, rows: Tensor, repeats: int, left: float) -> bool:
    """Whether what ``rows`` were multiplied by is what ``inputs``, which read them, were divided by."""
    if len(rows) != len(inputs):
        shared = _repeated(rows, repeats) if len(rows) * repeats == len(inputs) else ()
        return any(_make_one(inputs, each, 1, left) for each in shared)
    product = inputs * rows
    return _are_alike(product) and abs(float(product.median()) - 1) < _EVEN + left / 2


def _cancel(columns: Tensor, rows: Tensor, repeats: int) -> bool:
    """Whether the products are all alike: 1, or another number where each side also has factors of its own."""
    if len(rows) != len(columns):
        if len(rows) * repeats != len(columns):
            return False
        # heads of values are shared by several of queries: head size = what both are multiples of
        return any(_cancel(columns, each, 1) for each in _repeated(rows, repeats))
    product = columns * rows
    return bool(product.median() > 0) and _are_alike(product)


def _longer_first(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    return (one, other) if len(one) >= len(other) else (other, one)


def _repeated(rows: Tensor, repeats: int) -> Iterator[Tensor]:
    heads = [heads for heads in range(1, 257) if len(rows) % heads == 0]
    for count in heads:
        yield rows.view(count, 1, -1).expand(count, repeats, -1).reshape(-1)


def _gathered(inputs: Tensor, repeats: int) -> Iterator[Tensor]:
    """`_repeated` the other way round: the mean over what shares a row."""
    for heads in (heads for heads in range(1, 257) if len(inputs) % (heads * repeats) == 0):
        yield inputs.view(heads, repeats, -1).mean(1).flatten()


def _repeats(config: Mapping[str, Any]) -> int:
    """How many query heads share one of keys and values."""
    inner = config.get("text_config")
    text = inner if isinstance(inner, Mapping) else config
    queries, keys = text.get("num_attention_heads"), text.get("num_key_value_heads")
    return queries // keys if isinstance(queries, int) and isinstance(keys, int) and keys > 0 else 1
