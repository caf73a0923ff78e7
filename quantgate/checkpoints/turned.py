"""A model that was rotated as a whole, matrix by matrix: no element is the reference's, what tokens meet is.

Embedding and matrices were turned by the same rotation, so that the products of some tokens' embeddings with every
matrix (behind its norm) are what they were. Matrices that meet each other alone (values and o, up and down, queries
and keys) may be turned once more between them, or scaled: then the products of both are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from quantgate.checkpoints.layouts.protocol import Checkpoint
from quantgate.checkpoints.matrices import plain_distance
from quantgate.checkpoints.reordered import heads
from quantgate.models.digest import HEAD

if TYPE_CHECKING:
    from torch import Tensor

_TOKENS: Final = 128
_ALIKE: Final = 0.5  # of the products: rounding to 4 bits leaves up to 0.05, another matrix 1.2 and more
_FINE: Final = 4
_ALONG: Final = 0.3  # cosine: GPTQ to 2 bits leaves 0.52 and more, another matrix up to 0.08
_ALIKE_BOTH: Final = 0.2  # of both: rounding to 4 bits leaves up to 0.07
_ALONG_BOTH: Final = 0.68  # of values and o: rounding to 3 bits leaves 0.75 and more, another block's values 0.62
_COARSE: Final = 2
_TIMES: Final = 4.0  # GPTQ to 2 bits made one matrix 2.9 times as large as what it rounds
_SIXTEEN: Final = 16.0
_INPUT: Final = ("q_proj", "k_proj", "v_proj")
_SECOND: Final = ("gate_proj", "up_proj")
_LAST: Final = ("o_proj", "down_proj")
_PAIRS: Final = (("q_proj", "k_proj"), ("v_proj", "o_proj"), ("up_proj", "down_proj"))
_EMBEDDING: Final = "embed_tokens.weight"
_FLOATS: Final = ("F64", "F32", "F16", "BF16")
_Products = tuple["Tensor", "Tensor"]


@dataclass
class Turned:
    """``embeddings``: of the reference and of the candidate, ``[tokens, features]``; ``one_more``: of norms' weights.

    Feed it every quantized matrix by `see`, those of one attention or feed-forward one after the other, then
    `see_plain`. ``unlike``: by module, how far the products are apart.
    """

    checkpoint: Checkpoint
    ours: Checkpoint
    embeddings: _Products
    one_more: int
    unlike: dict[str, float] = field(default_factory=dict)
    _place: str = ""
    _met: dict[str, _Products] = field(default_factory=dict)
    _bits: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        step = max(1, len(self.embeddings[0]) // _TOKENS)
        one, other = (each[::step].float() for each in self.embeddings)
        self.embeddings = (one, other)

    def see(self, module: str, found: Tensor, bits: float) -> None:
        """Look at the candidate's matrix, float32 ``[out, in]``, which was rounded to so many ``bits``."""
        place, _, kind = module.rpartition(".")
        if place != self._place:
            self._end()
            self._place = place
        if (met := self._products(module, kind, found)) is not None:
            self._met[kind], self._bits[kind] = met, bits

    def see_plain(self) -> None:
        """Look at those that are stored as floats, and finish."""
        known = (*_INPUT, *_SECOND, *_LAST)
        for name, (dtype, shape) in sorted(self.checkpoint.plain.items()):
            module = name.removesuffix(".weight")
            if len(shape) == 2 and dtype in _FLOATS and module.rpartition(".")[2] in known:
                self.see(module, self.checkpoint.tensor(name).float(), _SIXTEEN)
        self._end()
        self._see_head()

    def _see_head(self) -> None:
        """The output head behind the last norm, where both have them in 16 bit."""
        name = next((each for each in self.ours.plain if each.endswith(_EMBEDDING)), "")
        norm = name.replace(_EMBEDDING, "norm.weight")
        sides = []
        for each, embeddings in zip((self.ours, self.checkpoint), self.embeddings, strict=True):
            head = HEAD if HEAD in each.plain else name
            if not {head, norm} <= each.plain.keys() or HEAD.removesuffix(".weight") in self.checkpoint.modules:
                return
            rows = each.tensor(head)
            rows = rows[:: max(1, len(rows) // _TOKENS)].float()
            sides.append((embeddings * (each.tensor(norm).float() + self.one_more)) @ rows.t())
        one, other = sides
        much = _apart(one, other, _SIXTEEN)
        self.unlike |= {HEAD.removesuffix(".weight"): much} if much > _ALIKE else {}

    def _end(self) -> None:
        """Behind the last matrix of one place."""
        apart = {kind: _apart(one, other, self._bits[kind]) for kind, (one, other) in self._met.items()}
        for pair in _PAIRS:
            if any(apart.get(kind, 0.0) > _ALIKE for kind in pair) and not self._is_apart(pair):
                apart |= dict.fromkeys(pair, 0.0)
        self.unlike |= {f"{self._place}.{kind}": much for kind, much in apart.items() if much > _ALIKE}
        self._met = {}

    def _products(self, module: str, kind: str, found: Tensor) -> _Products | None:
        """What the tokens meet in the reference's matrix and in the candidate's, ``[tokens, features]`` each."""
        name = f"{module}.weight"
        if name not in self.ours.plain or self.ours.plain[name][1] != tuple(found.shape):
            return None
        weight = self.ours.tensor(name).float()
        one, other = self.embeddings
        if kind in _LAST:
            return (one @ weight, other @ found) if len(found) == one.shape[1] == other.shape[1] else None
        norm = self._norm(module, kind)
        if norm is None or not len(norm[0]) == found.shape[1] == one.shape[1]:
            return None
        return (one * norm[0]) @ weight.t(), (other * norm[1]) @ found.t()

    def _norm(self, module: str, kind: str) -> _Products | None:
        block = module.rpartition(".")[0].rpartition(".")[0]
        names = {**dict.fromkeys(_INPUT, "input_layernorm"), **dict.fromkeys(_SECOND, "post_attention_layernorm")}
        name = f"{block}.{names.get(kind)}.weight"
        if name not in self.ours.plain or name not in self.checkpoint.plain:
            return None
        return self.ours.tensor(name).float() + self.one_more, self.checkpoint.tensor(name).float() + self.one_more

    def _is_apart(self, pair: tuple[str, str]) -> bool:
        """Whether what two matrices that meet each other give to the tokens is not the reference's; False where that
        cannot be told.
        """
        *_, size = heads(self.checkpoint.config)
        met = [self._met[kind] for kind in pair if kind in self._met]
        widths = [each[0].shape[1] for each in met]
        even = size > 0 and max(widths) % min(widths) == 0 and min(widths) % size == 0
        if len(met) < len(pair) or not (widths[0] == widths[1] or even):
            return False
        one, other = (_meet(met[0][side], met[1][side], size) for side in (0, 1))
        bits = min(self._bits[kind] for kind in pair)
        if bits < _FINE and pair[0] != "v_proj":
            return True  # few bits leave no more of these than another block's: each has to be found by itself
        # sums over all features hide some of them: an order of pairs left 0.49 of up and down
        return _apart(one, other, bits, _ALONG_BOTH if bits > _COARSE else _ALONG) > _ALIKE_BOTH


def _apart(one: Tensor, other: Tensor, bits: float, least: float = _ALONG) -> float:
    """`plain_distance`; infinite where it is no number, or between two shapes.

    Of coarse grids the angle decides, its cosine is at ``least`` that.
    """
    if one.shape != other.shape:
        return math.inf
    much, before, after = plain_distance(one, other), float(one.norm()), float(other.norm())
    if math.isnan(much):
        return math.inf
    along = float((one * other).sum()) >= least * before * after
    if bits < _FINE and along and before / _TIMES < after < before * _TIMES:
        return 0.0
    return much


def _meet(one: Tensor, other: Tensor, size: int) -> Tensor:
    """``[tokens, tokens]``; a head of the narrower side, ``size`` features, meets the sum of all that share it."""
    wide, narrow = (one, other) if one.shape[1] >= other.shape[1] else (other, one)
    if wide.shape[1] > narrow.shape[1]:
        wide = wide.reshape(len(wide), narrow.shape[1] // size, -1, size).sum(2).flatten(1)
    return wide @ narrow.t()
