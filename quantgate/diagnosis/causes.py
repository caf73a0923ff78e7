"""From numbers to sentences: which part did it, whether parts add up, and what kind of harm the leading ones show.

A cause is a hint where to look, with the figures it rests on. Every rule is a function; a new one is a row in `RULES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from quantgate.core.words import counted
from quantgate.diagnosis.profile import KINDS, Profile
from quantgate.diagnosis.scan import Row, Scan, sums, value_of

_DOMINANT: Final = 0.5  # share of the effect of all units of a level
_TIMES: Final = 3  # an equal share, where there are few units
_LOPSIDED: Final = 0.7
_BEYOND: Final = 1.15  # times its share of the weights: to cost as much as it weighs is no finding
_ADDS_UP: Final = 0.25  # relative distance of KL(all) from the sum of its parts
_LATE: Final = 2.0
_FEW_TOKENS: Final = 0.02
_LEADING: Final = 8  # modules whose kind of harm is named


@dataclass(frozen=True)
class Cause:
    """``kind``: a word for it; ``sentence``: with the figures; ``units``: names of what it is about."""

    kind: str
    sentence: str
    units: tuple[str, ...] = ()

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Case:
    """What the rules look at. ``profiles``: of the changed matrices, by name."""

    scan: Scan
    profiles: Mapping[str, Profile]


def _shares(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    total = math.fsum(max(row.effect, 0.0) for row in rows)
    return [(row, max(row.effect, 0.0) / total if total else 0.0) for row in rows]


def _one_unit(case: Case, level: str, kind: str) -> Iterator[Cause]:
    shares = _shares(case.scan.of(level))
    if len(shares) > 2 and shares[0][1] > max(_DOMINANT, _TIMES / len(shares)):
        row, share = shares[0]
        others = shares[1][0].effect
        yield Cause(
            kind,
            f"{row.unit.name} has {share:.0%} of the effects of its {len(shares)} kind: {row.effect:.4f} nats a token "
            f"alone, the next one {others:.4f}",
            (row.unit.name,),
        )


def one_bad_block(case: Case) -> Iterator[Cause]:
    """A single block with most of the effect."""
    yield from _one_unit(case, "block", "one bad block")


def one_bad_module(case: Case) -> Iterator[Cause]:
    """A single module with most of the effect."""
    yield from _one_unit(case, "module", "one bad module")


def head_or_embedding(case: Case) -> Iterator[Cause]:
    """The output head or the embedding with most of the effect."""
    for row, share in _shares(case.scan.of("part")):
        if row.unit.component in ("head", "embedding") and share > _DOMINANT:
            yield Cause(
                "head or embedding",
                f"{row.unit.name} has {share:.0%} of the effects of the parts ({row.effect:.4f} nats a token alone): "
                "keep it in more bits",
                (row.unit.name,),
            )


def attention_or_feed_forward(case: Case) -> Iterator[Cause]:
    """Which of the two costs more, and whether that is more than its share of the weights."""
    rows = {row.unit.component: row for row in case.scan.of("part")}
    if {"attention", "feed-forward"} <= rows.keys():
        pair = [rows["attention"], rows["feed-forward"]]
        pair.sort(key=lambda row: -row.effect)
        total = math.fsum(row.effect for row in pair)
        weights = sum(row.weights for row in pair)
        share = pair[0].effect / total if total > 0 else 0.0
        if share > _LOPSIDED and share > _BEYOND * pair[0].weights / weights:
            yield Cause(
                f"mostly {pair[0].unit.component}",
                f"{pair[0].unit.component} alone costs {pair[0].effect:.4f} nats a token and {pair[1].unit.component} "
                f"{pair[1].effect:.4f}; it holds {pair[0].weights / weights:.0%} of their weights",
                (pair[0].unit.name,),
            )


def harm_of_modules(case: Case) -> Iterator[Cause]:
    """Kinds of harm that the leading matrices show."""
    leading = [row.unit.name for row in case.scan.of("module")[:_LEADING] if row.unit.name in case.profiles]
    if not leading:  # tied by folds: the matrices of the leading components
        names = [name for row in case.scan.of("module")[:_LEADING] for name in row.unit.modules]
        leading = [name for name in names if name in case.profiles]
    for kind, meaning in KINDS.items():
        found = [name for name in leading if kind in case.profiles[name].kinds]
        if found:
            figures = _figures(kind, case.profiles[found[0]])
            which = f"{counted(len(found), 'leading matrix', 'leading matrices')}, first {found[0]} ({figures})"
            yield Cause(kind, f"{which}: {meaning}", tuple(found))


def _figures(kind: str, found: Profile) -> str:
    return {
        "dead channels": f"{found.dead_inputs} inputs, {found.dead_outputs} outputs",
        "scaled": f"factor {found.gain:.2f}",
        "clipped range": f"{found.clipped_rows:.0%} of its rows",
        "activation outliers": f"1% of the channels: {found.few_inputs:.0%} of the input, "
        f"{found.few_errors:.0%} of the output's error",
        "salient channels": f"1% of the channels: {found.few_errors:.0%} of the output's error, {found.few_inputs:.0%} "
        "of the input",
    }[kind]


def long_context(case: Case) -> Iterator[Cause]:
    """A divergence that grows along the segments."""
    early, late = [], []
    place = 0
    for segment in case.scan.segments:
        mine = case.scan.whole.divergence[place : place + segment.scored]
        place += segment.scored
        quarter = segment.scored // 4
        if quarter:
            early.append(float(mine[:quarter].mean()))
            late.append(float(mine[-quarter:].mean()))
    if early and math.fsum(late) > _LATE * math.fsum(early):
        yield Cause(
            "long context",
            f"the last quarter of the segments diverges by {math.fsum(late) / len(late):.4f} nats a token, the first "
            f"by {math.fsum(early) / len(early):.4f}: ask for longer segments, and look at keys and values",
        )


def few_tokens(case: Case) -> Iterator[Cause]:
    """A divergence that sits in few positions."""
    values = case.scan.whole.divergence.sort(descending=True).values
    few = max(1, int(_FEW_TOKENS * len(values)))
    share = float(values[:few].sum() / values.sum().clamp_min(1e-30))
    if len(values) >= 1 / _FEW_TOKENS and share > _DOMINANT:
        yield Cause(
            "few tokens", f"{few} of {len(values)} positions hold {share:.0%} of the divergence: see the tokens"
        )


def adding_up(case: Case) -> Iterator[Cause]:
    """Whether the effects of blocks sum up to that of the whole: only then may a search add them."""
    found = dict(sums(case.scan, "block"))
    total = value_of(case.scan.whole.by_segment()).mean
    kind = "measured" if "measured" in found else "estimated"
    distance = total - found[kind]
    holds = abs(distance) <= _ADDS_UP * max(total, 1e-12)
    words = "adds up" if holds else "does not add up"
    more = "harm done together exceeds" if distance > 0 else "harm done together stays below"
    sentence = f"KL(all) {total:.4f}, sum over blocks ({kind}) {found[kind]:.4f}: {words}"
    yield Cause("adds up" if holds else "does not add up", sentence if holds else f"{sentence}; {more} that sum")


RULES: Final[tuple[Callable[[Case], Iterator[Cause]], ...]] = (
    one_bad_block,
    one_bad_module,
    head_or_embedding,
    attention_or_feed_forward,
    harm_of_modules,
    long_context,
    few_tokens,
    adding_up,
)


def causes_of(scan: Scan, profiles: Mapping[str, Profile]) -> list[Cause]:
    """Everything that a rule finds, in the rules' order."""
    case = Case(scan, profiles)
    return [cause for rule in RULES for cause in rule(case)]


@dataclass(frozen=True)
class WorstToken:
    """A position where the two models differ most. ``position``: of the token in its segment; nats."""

    item: str
    position: int
    token: int
    divergence: float
    loss: float


def worst_tokens(scan: Scan, count: int) -> list[WorstToken]:
    """The ``count`` positions of the greatest divergence."""
    places = [
        (segment, position) for segment in scan.segments for position in range(segment.first, len(segment.tokens))
    ]
    best = torch.topk(scan.whole.divergence, min(count, len(places)))
    return [
        WorstToken(
            places[at][0].item,
            places[at][1],
            places[at][0].tokens[places[at][1]],
            float(value),
            float(scan.whole.loss[at]),
        )
        for value, at in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
