"""What quantizing does to abilities, not to scores: how much examples help, how much a worked chain of thought helps.

arXiv 2307.08072 asks which abilities survive. A score that falls says little about that: a model that answers worse
without examples and as much worse with them still learns from examples. So what is compared is a gain, item by item:
``(with - without) of the quantized model - (with - without) of the original`` over items that all four were scored on,
with a paired interval; Holm's correction over all of them. Everything follows from a run's results and outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from quantgate.core.cases import CaseKey
from quantgate.core.items import ItemOutcome
from quantgate.core.records import Result
from quantgate.studies.shift import Block, contrast
from quantgate.verdict.evidence import outcomes_from_json
from quantgate.verdict.family import holm

Sides = Callable[[CaseKey], Mapping[str, Any] | None]
STUDY: Final = "abilities"
_FEWEST: Final = 2
_LEVEL: Final = 0.05


@dataclass(frozen=True)
class Pair:
    """Two tasks that ask the same items ``without`` and ``given`` something that an ability makes use of."""

    ability: str
    benchmark: str
    without: str
    given: str


PAIRS: Final = (
    Pair("in-context learning", "MMLU", "mmlu_zero_shot", "mmlu"),
    Pair("in-context learning", "MMLU, texts of the options", "mmlu_cloze_zero_shot", "mmlu_cloze"),
    Pair("in-context learning", "BBH", "bbh_zero_shot", "bbh_direct"),
    Pair("chain of thought", "GSM8K", "gsm8k_direct", "gsm8k_cot"),
    Pair("chain of thought", "BBH", "bbh_direct", "bbh_cot"),
)
ALONE: Final[Mapping[str, str]] = {
    "ifeval": "instruction following",
    "followbench": "instruction following",
    "perplexity_wikitext2": "language modelling",
    "perplexity_prose": "language modelling",
}
"""Abilities that one task shows by itself: its own comparison stands for them."""
TASKS_ASKED: Final = tuple(dict.fromkeys([name for pair in PAIRS for name in (pair.without, pair.given)] + [*ALONE]))


@dataclass(frozen=True)
class Case:
    """One subject on one task: outcomes of both sides by item."""

    result: Result
    subject: Mapping[str, ItemOutcome]
    reference: Mapping[str, ItemOutcome]


def abilities_record(
    results: Sequence[Result], sides: Sides, subjects: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The study over all subjects that were asked both tasks of a pair; empty where there is none.

    ``subjects``: by their name within the run, as report.json lists them.
    """
    cases = _cases(results, sides)
    names = list(dict.fromkeys(name for name, _ in cases))
    gains, holes = _gains(names, cases)
    if not gains and not holes:
        return {}
    adjusted = holm([each["p"] for each in gains])
    gains = [each | {"adjusted": value} for each, value in zip(gains, adjusted, strict=True)]
    return {
        "study": STUDY,
        "question": "which abilities does quantizing cost, beyond what it costs any answer?",
        "subjects": [{"name": name, "bits": _bits(subjects.get(name, {}))} for name in names],
        "gains": gains,
        "alone": [_alone(*key, case) for key, case in cases.items() if key[1] in ALONE],
        "answers": [found for key, case in cases.items() if (found := _answers(*key, case))],
        "holes": holes,
        "answer": answer(gains),
    }


def _cases(results: Sequence[Result], sides: Sides) -> dict[tuple[str, str], Case]:
    found = {}
    for result in results:
        outcomes = sides(result.key)
        if outcomes is not None and outcomes["subject"]:
            found[result.about, result.task] = Case(
                result, _by_item(outcomes["subject"]), _by_item(outcomes["reference"])
            )
    return found


def _by_item(content: Any) -> dict[str, ItemOutcome]:
    return {each.item_id: each for each in outcomes_from_json(content) if each.score is not None}


def _bits(subject: Mapping[str, Any]) -> float:
    return float(subject.get("bits_effective", math.nan))


def _gains(
    names: Sequence[str], cases: Mapping[tuple[str, str], Case]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    gains, holes = [], []
    for pair in PAIRS:
        for name in names:
            one, other = cases.get((name, pair.without)), cases.get((name, pair.given))
            if one is None or other is None:
                continue
            items = [item for item in one.subject if all(item in side for side in (
                one.reference, other.subject, other.reference))]  # fmt: skip
            if len(items) < _FEWEST:
                why = f"{pair.without} and {pair.given} share {len(items)} items that all answers to have a score"
                holes.append({"subject": name, "ability": pair.ability, "benchmark": pair.benchmark, "why": why})
                continue
            gains.append(_gain(name, pair, one, other, items))
    return gains, holes


def _gain(name: str, pair: Pair, one: Case, other: Case, items: Sequence[str]) -> dict[str, Any]:
    """A difference of differences, positive where the quantized model kept more of the gain than the original has."""
    sign = 1.0 if other.result.higher_is_better else -1.0

    def scores(side: Mapping[str, ItemOutcome]) -> Any:
        return sign * np.array([side[item].score for item in items], dtype=np.float64)

    kept = scores(other.subject) - scores(one.subject)
    had = scores(other.reference) - scores(one.reference)
    groups = [one.reference[item].group for item in items]
    codes = np.unique(np.array(groups), return_inverse=True)[1].astype(np.intp)
    block = Block(name, pair.given, ("quantized", "16-bit"), np.stack([kept, had])[:, None, :], codes)
    found, own = contrast(block, 0, 1), contrast(_alone_block(block, had), 0, 1)
    return {
        "subject": name,
        "ability": pair.ability,
        "benchmark": pair.benchmark,
        "without": pair.without,
        "given": pair.given,
        "items": len(items),
        "reference_gain": float(had.mean()),
        "reference_low": own.low,
        "gain": float(kept.mean()),
        "change": found.delta,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "smallest": found.smallest,
    }


def _alone_block(block: Block, had: Any) -> Block:
    """The original's gain against none: where that is not proven, there is nothing that could be lost."""
    sides = np.stack([had, np.zeros_like(had)])[:, None, :]
    return Block(block.method, block.test, ("gain", "none"), sides, block.codes)


def _alone(name: str, task: str, case: Case) -> dict[str, Any]:
    result = case.result
    return {
        "subject": name,
        "ability": ALONE[task],
        "task": task,
        "metric": result.metric,
        "items": result.n_items,
        "reference": result.reference,
        "value": result.value,
        "change": result.delta,
        "low": result.ci_low,
        "high": result.ci_high,
        "verdict": result.verdict,
    }


def _answers(name: str, task: str, case: Case) -> dict[str, Any]:
    """What free answers look like: length against the original's, what was cut, what was right but not said last.

    Lengths are compared by the mean logarithm of each item's ratio. Empty for a task that is not answered freely.
    """
    pairs = [(case.reference[item], each) for item, each in case.subject.items() if item in case.reference]
    pairs = [pair for pair in pairs if all("tokens" in side.companions for side in pair)]
    if not pairs:
        return {}
    both = [(ours.companions, theirs.companions) for ours, theirs in pairs]
    logs = np.array([math.log((theirs["tokens"] + 1) / (ours["tokens"] + 1)) for ours, theirs in both])
    codes = np.unique(np.array([ours.group for ours, _ in pairs]), return_inverse=True)[1].astype(np.intp)
    sides = np.stack([logs, np.zeros_like(logs)])[:, None, :]
    ratio = contrast(Block(name, task, ("quantized", "16-bit"), sides, codes), 0, 1) if len(logs) > 1 else None
    shares = {
        f"{share}{suffix}": float(np.mean([pair[side].get(share, math.nan) for pair in both]))
        for share in ("capped", "not_final")
        for side, suffix in ((0, "_reference"), (1, ""))
    }
    return {
        "subject": name,
        "task": task,
        "items": len(both),
        "length_ratio": math.exp(float(logs.mean())),
        "length_low": math.exp(ratio.low) if ratio else math.nan,
        "length_high": math.exp(ratio.high) if ratio else math.nan,
        **shares,
    }


def answer(gains: Sequence[Mapping[str, Any]]) -> str:
    """What is proven after the correction, in words; and where there was nothing to lose."""
    if not gains:
        return "no ability could be compared"
    lost = [each for each in gains if each["adjusted"] <= _LEVEL and each["change"] < 0]
    none = {(each["ability"], each["benchmark"]) for each in gains if not each["reference_low"] > 0}
    told = [f"{each['subject']} loses {each['ability']} ({each['benchmark']}: a gain of {each['reference_gain']:+.3f} "
            f"becomes {each['gain']:+.3f})" for each in lost]  # fmt: skip
    if not told:
        told = [f"none of {len(gains)} gains is proven to have changed"]
    told += [f"the original shows no proven {ability} on {benchmark}: nothing could be lost there"
             for ability, benchmark in sorted(none)]  # fmt: skip
    return "; ".join(told)
