"""Calibration shift: what the text that a method looked at does to its answers elsewhere (paper B, with error bars).

A study's cells are method x set x draw x test. Of a method and a test they make a `Block`: item scores by set and draw.
All comparisons are paired by item. What differs between sets is set against three other sources of difference:

* items: with other items the difference would be another one;
* draws: another sample of the SAME set gives another model. With two draws or more the sets' means carry the variance
  of their draws, divided by 1 - (share of the set that a draw takes), because large draws of a finite set overlap;
* chance among many: contrasts are corrected by Holm, and counts of wins are compared with what permuted names give.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations, product
from typing import Final

import numpy as np
import numpy.typing as npt

from quantgate.verdict.family import holm
from quantgate.verdict.intervals import Codes, Floats, spread

_NO_SPREAD: Final = 1e-9  # of a difference: what rounding leaves where all items differ by the same
POWER: Final = 0.8


@dataclass(frozen=True)
class Block:
    """One method on one test.

    ``gains``: float64 ``[sets, draws, items]``, item scores turned so that more is better. ``codes``: groups of the
    items. ``own``: index of the set in whose distribution the test is, -1 for none. ``margin``: what the policy allows,
    on the scale of the scores (NaN: unknown). ``overlap``: share of its set that a draw takes, by set.
    """

    method: str
    test: str
    sets: tuple[str, ...]
    gains: npt.NDArray[np.float64]
    codes: Codes
    own: int = -1
    margin: float = math.nan
    overlap: tuple[float, ...] = ()
    unit: str = ""

    @property
    def n_draws(self) -> int:
        """Draws of every set."""
        return int(self.gains.shape[1])

    @property
    def means(self) -> Floats:
        """Mean over items, ``[sets, draws]``."""
        found: Floats = self.gains.mean(axis=2)
        return found

    @property
    def by_set(self) -> Floats:
        """Mean over items and draws, ``[sets]``."""
        found: Floats = self.means.mean(axis=1)
        return found

    def draw_variance(self) -> Floats:
        """Variance of the mean of a set over its draws, ``[sets]``; NaN with a single draw."""
        if self.n_draws < 2:
            return np.full(len(self.sets), math.nan)
        taken = np.array(self.overlap or (0.0,) * len(self.sets))
        found: Floats = self.means.var(axis=1, ddof=1) / self.n_draws / np.clip(1 - taken, 0.05, 1)
        return found


@dataclass(frozen=True)
class Contrast:
    """A set against another one: ``delta`` > 0 where the first is better, with its interval and Holm's p-value.

    ``with_draws``: whether the interval covers the draws of the sets; without, it speaks of these two samples only.
    ``smallest``: the difference that would have been seen with 80% power.
    """

    method: str
    test: str
    first: str
    second: str
    delta: float
    low: float
    high: float
    p: float
    adjusted: float = math.nan
    with_draws: bool = True
    smallest: float = math.nan
    unit: str = ""


def contrast(block: Block, first: int, second: int, confidence: float = 0.95) -> Contrast:
    """The paired difference of two sets' means; t with Satterthwaite's degrees of freedom over items and draws."""
    from scipy import stats  # takes a second to import, and every run imports this module

    differences: Floats = block.gains[first].mean(axis=0) - block.gains[second].mean(axis=0)
    items = spread(differences, block.codes)
    parts = [(items.se**2, items.df)]
    draws = block.draw_variance()[[first, second]]
    covered = block.n_draws > 1
    if covered:
        parts += [(float(each), block.n_draws - 1.0) for each in draws]
    variance, df = _summed(parts)
    delta, error = float(differences.mean()), math.sqrt(variance)
    names = (block.method, block.test, block.sets[first], block.sets[second])
    if error <= abs(delta) * _NO_SPREAD:
        chance = _all_alike(delta, block.codes)
        room = abs(delta) if chance > 1 - confidence else 0.0
        return Contrast(
            *names, delta, delta - room, delta + room, chance, with_draws=covered, smallest=0.0, unit=block.unit
        )
    arm = float(stats.t.ppf((1 + confidence) / 2, df))
    p = float(2 * stats.t.sf(abs(delta) / error, df))
    seen = (arm + float(stats.t.ppf(POWER, df))) * error
    low, high = delta - arm * error, delta + arm * error
    return Contrast(*names, delta, low, high, p, with_draws=covered, smallest=seen, unit=block.unit)


def _all_alike(delta: float, codes: Codes) -> float:
    """The chance of differences that are all ``delta``: two-sided sign test over what belongs together. Two items that
    both moved by the same have no spread, and prove nothing.
    """
    return 1.0 if delta == 0 else min(1.0, 2.0 ** (1 - len(np.unique(codes))))


def _summed(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Variance of a sum and its degrees of freedom (Satterthwaite 1946), of (variance, df) pairs."""
    known = [(variance, df) for variance, df in parts if variance > 0]
    total = math.fsum(variance for variance, _ in known)
    below = math.fsum(variance**2 / df for variance, df in known)
    return total, (total**2 / below if below else 1.0)


def contrasts(blocks: Sequence[Block]) -> list[Contrast]:
    """The own set of every test against each other one, corrected by Holm over all of them."""
    found = [
        contrast(block, block.own, other)
        for block in blocks
        if block.own >= 0
        for other in range(len(block.sets))
        if other != block.own
    ]
    adjusted = holm([each.p for each in found])
    return [replace(each, adjusted=p) for each, p in zip(found, adjusted, strict=True)]


# --- how much of the difference is the set, the draw, the items -----------------------------------------------------


@dataclass(frozen=True)
class Shares:
    """Of the variance between the means of models that differ in set and draw: how much is whose, as shares of 1.

    ``p``: of "the set does not matter beyond the draw", by permuting the draws among the sets; NaN with one draw.
    ``n_permutations``: how many arrangements that rests on.
    """

    set: float
    draw: float
    items: float
    p: float
    n_permutations: int = 0


def shares(blocks: Sequence[Block], seed: int = 0, most: int = 4000) -> Shares:
    """Over the tests of one method. Each test counts the same: its variances are divided by their sum."""
    parts = [each for block in blocks if (each := _parts(block)) is not None]
    if not parts:
        return Shares(math.nan, math.nan, math.nan, math.nan)
    mean = np.mean(np.array(parts), axis=0)
    p, count = _set_test(blocks, seed, most)
    draws = all(block.n_draws > 1 for block in blocks)
    return Shares(float(mean[0]), float(mean[1]) if draws else math.nan, float(mean[2]), p, count)


def _parts(block: Block) -> tuple[float, float, float] | None:
    """Shares of set, draw and items; None where all models answered alike."""
    k, draws = len(block.sets), block.n_draws
    if k < 2:
        return None
    centred = block.gains.mean(axis=1) - block.gains.mean(axis=(0, 1))
    items = float(np.mean([spread(row, block.codes).se ** 2 for row in centred])) * k / (k - 1)
    draw = float(block.draw_variance().mean()) * draws if draws > 1 else 0.0
    between = float(block.by_set.var(ddof=1))
    of_set = max(0.0, between - items - draw / draws)
    total = of_set + draw + items
    return (of_set / total, draw / total, items / total) if total > 0 else None


def _set_test(blocks: Sequence[Block], seed: int, most: int) -> tuple[float, int]:
    """Whether sets differ by more than draws of one set: a permutation test over whole models.

    A model is a set's draw, and keeps its answers on all tests of a family while it is given to another set.
    """
    families: dict[tuple[str, ...], list[Floats]] = {}
    for block in blocks:
        if block.n_draws > 1 and len(block.sets) > 1:
            means = block.means.reshape(-1)
            scale = means.std()
            if scale > 0:
                families.setdefault((*block.sets, str(block.n_draws)), []).append((means - means.mean()) / scale)
    if not families:
        return math.nan, 0
    tables = [(int(key[-1]), np.array(rows)) for key, rows in families.items()]
    observed = sum(_between(rows, draws) for draws, rows in tables)
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(most):
        total = sum(_between(rows[:, generator.permutation(rows.shape[1])], draws) for draws, rows in tables)
        hits += total >= observed - 1e-12
    return (hits + 1) / (most + 1), most


def _between(rows: Floats, draws: int) -> float:
    """Sum of squares between the sets of standardized means ``[tests, sets * draws]``."""
    return float(draws * np.square(rows.reshape(len(rows), -1, draws).mean(axis=2)).sum())


# --- paper B's count ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wins:
    """In how many blocks the own set is the best (ties count their share), what exchangeable sets would give, and p.

    ``pairs``: in how many own-against-other pairs it is better (a tie counts a half), of ``n_pairs``.
    ``p``: one-sided, of at least so many wins; ``p_fewer``: of at most so many.
    """

    best: float
    expected: float
    n_blocks: int
    pairs: float
    n_pairs: int
    p: float
    p_fewer: float
    n_permutations: int


def wins(blocks: Sequence[Block], seed: int = 0, most: int = 20_000) -> Wins:
    """Paper B's statistic with its permutation test.

    Under exchangeability the sets' names mean nothing. One permutation of the names of a family goes through all its
    blocks, because every method saw the same texts and every test the same models. All arrangements are counted where
    there are at most ``most``, else as many are drawn.
    """
    families: dict[tuple[str, ...], list[Block]] = {}
    for block in blocks:
        if block.own >= 0:
            families.setdefault(block.sets, []).append(block)
    tables = [_table(members) for members in families.values()]
    if not tables:
        return Wins(0, 0, 0, 0, 0, math.nan, math.nan, 0)
    best = sum(each.best[np.arange(len(each.own)), each.own].sum() for each in tables)
    pairs = sum(each.better[np.arange(len(each.own)), each.own].sum() for each in tables)
    expected = sum(float(each.best.mean(axis=1).sum()) for each in tables)
    null, count = _null(tables, seed, most)
    drawn = count > 0  # then the arrangement that was seen is one of the draws
    p = (float(np.sum(null >= best - 1e-9)) + drawn) / (len(null) + drawn)
    fewer = (float(np.sum(null <= best + 1e-9)) + drawn) / (len(null) + drawn)
    n_pairs = sum(len(each.own) * (each.best.shape[1] - 1) for each in tables)
    n_blocks = sum(len(each.own) for each in tables)
    return Wins(float(best), expected, n_blocks, float(pairs), n_pairs, p, fewer, abs(count))


@dataclass(frozen=True)
class _Table:
    """Blocks of a family: which set is best, how many others each beats, and the own ones."""

    best: Floats
    better: Floats
    own: npt.NDArray[np.intp]


def _table(blocks: Sequence[Block]) -> _Table:
    means = np.array([block.by_set for block in blocks])
    top = means >= means.max(axis=1, keepdims=True) - 1e-12
    higher = (means[:, :, None] > means[:, None, :] + 1e-12).sum(axis=2)
    ties = (np.abs(means[:, :, None] - means[:, None, :]) <= 1e-12).sum(axis=2) - 1
    best: Floats = top / top.sum(axis=1, keepdims=True)
    better: Floats = higher + ties / 2
    return _Table(best, better, np.array([block.own for block in blocks], dtype=np.intp))


def _null(tables: Sequence[_Table], seed: int, most: int) -> tuple[Floats, int]:
    """Numbers of wins under permuted names. The count is negative where it is that of all arrangements."""
    sizes = [math.factorial(each.best.shape[1]) for each in tables]
    if math.prod(sizes) <= most:
        each_null = [
            [_won(table, np.array(order)) for order in permutations(range(table.best.shape[1]))] for table in tables
        ]
        found = np.array([sum(parts) for parts in product(*each_null)])
        return found, -len(found)
    generator = np.random.default_rng(seed)
    drawn = [sum(_won(table, generator.permutation(table.best.shape[1])) for table in tables) for _ in range(most)]
    return np.array(drawn), most


def _won(table: _Table, order: npt.NDArray[np.intp]) -> float:
    return float(table.best[np.arange(len(table.own)), order[table.own]].sum())


# --- advice ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Advice:
    """The set with the smallest worst-case regret over the tests, in shares of what the policy allows.

    ``regret`` of ``best`` with its bootstrap interval; ``worst``: the largest regret of any set, with the upper end of
    its interval: where that is below 1, no choice among these sets costs what the policy would not allow.
    ``by_set``: regret of every set. ``sure``: share of the resamples in which ``best`` was the best.
    """

    best: str
    regret: float
    low: float
    high: float
    worst_set: str
    worst: float
    worst_high: float
    sure: float
    by_set: Mapping[str, float] = field(default_factory=dict)


def advice(blocks: Sequence[Block], seed: int = 0, resamples: int = 400) -> Advice | None:
    """Over tests that share their sets; None where there are none with a margin, or only one set.

    Items are resampled by group, and draws within each set; where there is one draw, the interval does not cover it.
    """
    usable = [block for block in blocks if block.margin > 0 and len(block.sets) > 1]
    if not usable or len({(block.sets, block.n_draws) for block in usable}) != 1:
        return None
    names, generator = usable[0].sets, np.random.default_rng(seed)
    observed = _regrets([block.by_set for block in usable], usable)
    drawn = np.array([_regrets(_resampled(usable, generator), usable) for _ in range(resamples)])
    best, worst = int(observed.argmin()), int(observed.argmax())
    low, high = np.quantile(drawn[:, best], [0.025, 0.975])
    return Advice(
        best=names[best],
        regret=float(observed[best]),
        low=float(low),
        high=float(high),
        worst_set=names[worst],
        worst=float(observed[worst]),
        worst_high=float(np.quantile(drawn.max(axis=1), 0.975)),
        sure=float(np.mean(drawn.argmin(axis=1) == best)),
        by_set=dict(zip(names, map(float, observed), strict=True)),
    )


def _regrets(means: Sequence[Floats], blocks: Sequence[Block]) -> Floats:
    """Largest loss against the best set of each test, by set, in margins."""
    lost = [(each.max() - each) / block.margin for each, block in zip(means, blocks, strict=True)]
    found: Floats = np.max(np.array(lost), axis=0)
    return found


def _resampled(blocks: Sequence[Block], generator: np.random.Generator) -> list[Floats]:
    draws = blocks[0].n_draws
    chosen = generator.integers(0, draws, size=(len(blocks[0].sets), draws))  # the same models on every test
    found: list[Floats] = []
    for block in blocks:
        groups = int(block.codes.max()) + 1
        weights = np.bincount(generator.integers(0, groups, size=groups), minlength=groups)[block.codes]
        weights = weights / max(1, weights.sum())
        by_draw = block.gains @ weights
        found.append(np.take_along_axis(by_draw, chosen, axis=1).mean(axis=1))
    return found
