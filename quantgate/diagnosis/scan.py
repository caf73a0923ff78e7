"""The effects of all units: cheap estimates for every one, and exact ones where they are worth their price.

Exact means: the model is run with the unit exchanged, from the first block whose output can change, and gives what a
full evaluation of such a model gives. With ``L`` blocks that costs ``(L + 1) / 2L`` of a full evaluation on average,
which no caching can lower; so the estimates rank first, the leading units of every level are measured, and so are a few
others, drawn by the seed, that show how far the estimates can be believed.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from torch import nn

from quantgate.core.errors import ModelError
from quantgate.core.progress import Progress
from quantgate.diagnosis.aspects import all_but, alone, aspects_of
from quantgate.diagnosis.estimate import Draws, draw
from quantgate.diagnosis.passes import Bench, Effect, Segment, Spent
from quantgate.diagnosis.units import ASPECT, LEVELS, Anatomy, Unit, changed_modules, groups_of, tied_components
from quantgate.verdict.intervals import t_quantile

ALL: Final = -1
_CONFIDENCE: Final = 0.95
_AUDITED: Final = 6  # units of a level that are measured although the estimate does not lead to them


@dataclass(frozen=True)
class Plan:
    """How much is paid. ``exact``: units of a level whose isolated effect is measured (`ALL`: every one).

    ``marginal``: units of a level of which it is also measured what leaving them in 16 bit saves. ``probes``: backward
    passes of the estimate. ``seed``: of its draws, and of the units that check it.
    """

    exact: int = 5
    marginal: int = 3
    probes: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Value:
    """A mean over segments with its interval (Student's t over segments), nats a token."""

    mean: float
    low: float
    high: float

    def as_record(self) -> dict[str, float]:
        """For JSON."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def value_of(by_segment: Sequence[float]) -> Value:
    """Mean and 95% interval; the interval is NaN with a single segment."""
    values = np.asarray(by_segment, dtype=np.float64)
    mean = float(values.mean())
    if values.size < 2:
        return Value(mean, math.nan, math.nan)
    arm = t_quantile(_CONFIDENCE, values.size - 1) * float(values.std(ddof=1)) / math.sqrt(values.size)
    return Value(mean, mean - arm, mean + arm)


@dataclass(frozen=True)
class Row:
    """One unit. ``estimate``: to second order; ``isolated``: only this unit exchanged; ``loss``: then, of the text's
    own tokens; ``marginal``: what leaving it in 16 bit saves. None: not measured. ``why``: ``leading``, ``check`` or
    empty.
    """

    unit: Unit
    weights: int
    estimate: Value
    isolated: Value | None = None
    loss: Value | None = None
    marginal: Value | None = None
    why: str = ""

    @property
    def effect(self) -> float:
        """The isolated effect, or its estimate where it was not measured."""
        return (self.isolated or self.estimate).mean


@dataclass
class Scan:
    """All that was measured. ``whole``: of the subject itself; ``reference_nats``: entropy of the reference there.

    ``rows``: by level, greatest effect first. ``spent``: forwards in full evaluations, by what they were for;
    ``seconds``: CPU time of the process.
    """

    anatomy: Anatomy
    segments: Sequence[Segment]
    whole: Effect
    draws: Draws
    rows: dict[str, list[Row]] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def of(self, level: str) -> list[Row]:
        """The rows of a level."""
        return self.rows.get(level, [])


class Scanner:
    """Compares two loaded models part by part.

    Args:
        reference: the 16-bit model, in evaluation mode.
        subject: the quantized one; both in the same dtype on the same device.
        segments: what they read.
        folds: of the subject's record.
        who: the subject's name for messages.
        progress: told about the steps.

    Raises:
        ModelError: nothing of the subject differs, or it lacks modules of the reference.
    """

    def __init__(
        self,
        reference: Any,
        subject: Any,
        segments: Sequence[Segment],
        folds: Mapping[str, str],
        who: str,
        progress: Progress,
    ) -> None:
        self.reference, self.subject, self.progress, self.who = reference, subject, progress, who
        kinds = changed_modules(reference, subject, who)
        if not kinds:
            raise ModelError(who, "no module differs from the 16-bit model's", expected="a quantized model")
        self.bench = Bench(reference, segments, who)
        self.other = Bench(subject, segments, who)
        groups = groups_of(reference, self.bench.blocks, self.bench.chunks[0].ids[:1])
        tied = tied_components(reference, subject, kinds, folds)
        self.anatomy = Anatomy(kinds, groups, len(self.bench.blocks), tied)
        self.donors = {name: subject.get_submodule(name) for name in kinds}
        self.originals = {name: reference.get_submodule(name) for name in kinds}

    def run(self, plan: Plan) -> Scan:
        """Everything that ``plan`` pays for."""
        begun = time.process_time()
        scan = self.prepare(plan)
        chosen = {level: self._chosen(scan, level, plan) for level in LEVELS}
        total, done = sum(map(len, chosen.values())), 0
        for level, units in chosen.items():
            for place, why in units.items():
                self.progress.step(f"{self.who}: exchanging units", done, total)
                done += 1
                scan.rows[level][place] = self.measured(scan.rows[level][place], why)
            scan.rows[level].sort(key=lambda row: -row.effect)
            scan.spent["isolated"] = self._taken(self.bench) + scan.spent.get("isolated", 0.0)
        self._marginal(scan, plan)
        self._aspects(scan, plan)
        self.progress.step(f"{self.who}: exchanging units", total, total)
        scan.seconds = time.process_time() - begun
        return scan

    def prepare(self, plan: Plan) -> Scan:
        """Both models as they are, and the estimates of every unit."""
        self.progress.step(f"{self.who}: reading the segments", 0, 3)
        self.bench.observe()
        self.progress.step(f"{self.who}: reading the segments", 1, 3)
        whole = self._whole()
        spent = {"reference": self._taken(self.bench), "whole": self._taken(self.other)}
        self.progress.step(f"{self.who}: reading the segments", 2, 3)
        draws = draw(self.bench, self.donors, plan.probes, plan.seed)
        spent["estimates"] = self._taken(self.bench)
        self.progress.step(f"{self.who}: reading the segments", 3, 3)
        scan = Scan(self.anatomy, self.bench.segments, whole, draws, spent=spent)
        for level in LEVELS:
            rows = [
                Row(unit, self._weights(unit), value_of(draws.of(unit.modules))) for unit in self.anatomy.units(level)
            ]
            scan.rows[level] = sorted(rows, key=lambda row: -row.effect)
        return scan

    def _whole(self) -> Effect:
        whole = self.other.observe(self.bench)
        if whole is None or not bool(whole.divergence.isfinite().all()):
            raise ModelError(
                self.who, "its probabilities are not finite", expected="a model that computes",
                hint="look at `quantgate audit` first: a scale of zero or infinity is no question of degree",
            )  # fmt: skip
        return whole

    def measured(self, row: Row, why: str = "leading") -> Row:
        """The row with its isolated effect."""
        modules = {name: self.donors[name] for name in row.unit.modules}
        found = self.bench.effect(modules, row.unit.first)
        return Row(
            row.unit, row.weights, row.estimate, value_of(found.by_segment()),
            value_of(found.by_segment(found.loss)), row.marginal, why,
        )  # fmt: skip

    def _chosen(self, scan: Scan, level: str, plan: Plan) -> dict[int, str]:
        """Places in the level's ranking by estimate -> why they are measured."""
        count = len(scan.rows[level])
        if plan.exact == ALL:
            return dict.fromkeys(range(count), "leading")
        leading = dict.fromkeys(range(min(plan.exact if level != "part" else count, count)), "leading")
        others = [place for place in range(count) if place not in leading]
        audited = random.Random(plan.seed).sample(others, min(_AUDITED, len(others))) if level == "module" else []
        return leading | dict.fromkeys(audited, "check")

    def _marginal(self, scan: Scan, plan: Plan) -> None:
        whole = np.asarray(scan.whole.by_segment())
        for level in LEVELS:
            rows = scan.rows[level]
            for place, row in enumerate(rows[: plan.marginal]):
                modules = {name: self.originals[name] for name in row.unit.modules}
                without = np.asarray(self.other.effect(modules, row.unit.first).by_segment())
                rows[place] = Row(
                    row.unit, row.weights, row.estimate, row.isolated, row.loss,
                    value_of((whole - without).tolist()), row.why,
                )  # fmt: skip
        scan.spent["marginal"] = self._taken(self.other)

    def _aspects(self, scan: Scan, plan: Plan) -> None:
        """Weights, inputs, keys and values, each of all layers at once: all of them are measured, they are few."""
        every = aspects_of(self.originals, self.donors, tied=bool(self.anatomy.tied))
        whole = np.asarray(scan.whole.by_segment())
        for aspect in every:
            modules = alone(aspect, every, self.donors, self.originals)
            estimate = draw(self.bench, modules, plan.probes, plan.seed).of(tuple(modules))
            found = self.bench.effect(modules)
            rest = all_but(aspect, self.donors, self.originals)
            saved = whole - np.asarray(self.other.effect(rest).by_segment())
            unit = Unit(aspect, ASPECT, tuple(modules), 0)
            row = Row(
                unit, self._weights(unit), value_of(estimate), value_of(found.by_segment()),
                value_of(found.by_segment(found.loss)), value_of(saved.tolist()), "leading",
            )  # fmt: skip
            scan.rows.setdefault(ASPECT, []).append(row)
        if every:
            scan.rows[ASPECT].sort(key=lambda row: -row.effect)
            scan.spent["aspects"] = self._taken(self.bench) + self._taken(self.other)

    def _weights(self, unit: Unit) -> int:
        return sum(sum(p.numel() for p in self.originals[name].parameters()) for name in unit.modules)

    def _taken(self, bench: Bench) -> float:
        """Forwards since it was last asked, in full evaluations."""
        found = bench.spent.full_evaluations(self.anatomy.blocks, self.head_in_blocks)
        bench.spent = Spent()
        return found

    @property
    def head_in_blocks(self) -> float:
        """How many blocks the output head costs, by its weights."""
        head = self.reference.get_output_embeddings()
        size = sum(p.numel() for p in self.bench.blocks[0].module.parameters())
        return sum(p.numel() for p in head.parameters()) / size if isinstance(head, nn.Module) else 0.0


def ranks_agree(rows: Sequence[Row]) -> float:
    """Spearman's rank correlation of estimates and isolated effects among the rows that have both; NaN below three."""
    from scipy.stats import spearmanr

    both = [(row.estimate.mean, row.isolated.mean) for row in rows if row.isolated is not None]
    if len({one for one, _ in both}) < 3 or len({other for _, other in both}) < 3:
        return math.nan
    return float(spearmanr(*zip(*both, strict=True)).statistic)


def sums(scan: Scan, level: str) -> Iterator[tuple[str, float]]:
    """``measured``: sum of the isolated effects of ``level`` if all were measured; ``estimated``: of the estimates."""
    rows = scan.of(level)
    if rows and all(row.isolated for row in rows):
        yield "measured", math.fsum(row.isolated.mean for row in rows if row.isolated)
    yield "estimated", math.fsum(row.estimate.mean for row in rows)
