"""Between models: a larger one in few bits against a smaller one in 16 (paper A's question), item by item.

Every subject is compared with the 16-bit answers of each other model that is no larger than the subject's own. Items
are paired, so both models must have been asked the very same ones: the same rows with the same examples, and where a
text is cut into tokens, the same cuts, which takes one tokenizer. A distance from one's own 16-bit model says nothing
between models. What cannot be paired is named, never filled.

The intervals hold together: with m of them each is made at 1 - (1 - confidence) / m (Bonferroni). They change no
verdict. Everything follows from results, evidence and the entries of models and subjects, so that `quantgate verify`
draws it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from quantgate.core.cases import CaseKey
from quantgate.core.errors import ProvenanceError
from quantgate.core.metrics import KLD_MEAN
from quantgate.core.records import Result
from quantgate.core.words import counted
from quantgate.verdict.comparison import Comparison
from quantgate.verdict.evidence import Evidence
from quantgate.verdict.paired import compare

STUDY: Final = "between models"
REFERENCE: Final = "16-bit"
_MIB: Final = 2**20
_WORDS: Final = {"better": "better on", "worse": "worse on", "open": "not told apart on"}
EvidenceOf = Callable[[CaseKey], "Evidence | None"]


@dataclass(frozen=True)
class _Pair:
    """A subject's case and a case of another model on the same task, whose 16-bit answers it meets."""

    mine: Result
    other: Result


def reference_of(model: str) -> str:
    """What the 16-bit model is called between others: ``16-bit`` of the main one, ``small:16-bit``."""
    return CaseKey(REFERENCE, "", model=model).about


def between_record(
    results: Sequence[Result],
    evidence_of: EvidenceOf,
    subjects: Mapping[str, Mapping[str, Any]],
    models: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The study of a run; empty where it has one model. ``models``: their entries by their name within the run."""
    if len(models) < 2:
        return {}
    known = cache(evidence_of)
    pairs, holes = ([], []) if _one_under_two_names(models) else _pairs(results, known, models)
    whys = [(pair, _unpaired(pair, known)) for pair in pairs]
    holes += [_hole(pair, why) for pair, why in whys if why]
    fit = [pair for pair, why in whys if not why]
    rows = []
    for pair in fit:
        try:
            rows.append(_row(pair, known, subjects, models, len(fit)))
        except ProvenanceError as error:
            holes.append(_hole(pair, error.found))
    return {
        "study": STUDY,
        "question": "is a larger model in few bits better than a smaller one in 16?",
        "contrasts": rows,
        "holes": holes,
        "sentences": _sentences(rows),
        "answer": _answer(rows, models),
    }


def _one_under_two_names(models: Mapping[str, Mapping[str, Any]]) -> bool:
    digests = [str((each.get("digest") or {}).get("whole", name)) for name, each in models.items()]
    return len(set(digests)) < len(digests)


def _pairs(
    results: Sequence[Result], evidence_of: EvidenceOf, models: Mapping[str, Mapping[str, Any]]
) -> tuple[list[_Pair], list[dict[str, str]]]:
    """Each subject's case with the first case of every other, no larger model on the same task."""
    size = {name: each.get("bytes_on_disk") or 0 for name, each in models.items()}
    first: dict[tuple[str, str], Result] = {}
    for result in results:
        if (result.model, result.task) not in first and evidence_of(result.key) is not None:
            first[result.model, result.task] = result
    pairs: list[_Pair] = []
    holes: list[dict[str, str]] = []
    for result in results:
        if result.dimension == "efficiency":
            continue
        for name in models:
            if name == result.model or size[name] > size.get(result.model, 0):
                continue
            if (other := first.get((name, result.task))) is not None:
                pairs.append(_Pair(result, other))
            else:
                why = f"nothing was scored on it beside {reference_of(name)}"
                holes.append({"subject": result.about, "against": reference_of(name), "task": result.task, "why": why})
    return pairs, holes


def _unpaired(pair: _Pair, evidence_of: EvidenceOf) -> str:
    """Why two cases cannot be compared item by item; empty when they can."""
    mine, other = evidence_of(pair.mine.key), evidence_of(pair.other.key)
    if mine is None or other is None or pair.mine.verdict == "invalid":
        return f"its own case is invalid: {pair.mine.reason}"
    if mine.rule.metric.name == KLD_MEAN.name:
        return "a distance from its own 16-bit model says nothing between models"
    if len(mine.subject) < len(other.reference):
        return "only a part of the items was asked (--sequential, or a budget that ended)"
    if pair.mine.data_digest != pair.other.data_digest:
        return (
            "the two models were not asked the same: another tokenizer cuts a text elsewhere, and in a shorter context "
            "fewer examples fit"
        )
    return ""


def _hole(pair: _Pair, why: str) -> dict[str, str]:
    return {"subject": pair.mine.about, "against": reference_of(pair.other.model), "task": pair.mine.task, "why": why}


def _row(
    pair: _Pair, evidence_of: EvidenceOf, subjects: Mapping[str, Mapping[str, Any]],
    models: Mapping[str, Mapping[str, Any]], among: int,
) -> dict[str, Any]:  # fmt: skip
    mine, other = evidence_of(pair.mine.key), evidence_of(pair.other.key)
    assert mine is not None
    assert other is not None
    metric = mine.rule.metric
    confidence = 1 - (1 - mine.rule.confidence) / among
    found = compare(other.reference, mine.subject, metric, confidence)
    return {
        "subject": pair.mine.about,
        "subject_bytes": subjects.get(pair.mine.about, {}).get("bytes_on_disk"),
        "against": reference_of(pair.other.model),
        "against_bytes": models[pair.other.model].get("bytes_on_disk"),
        "task": pair.mine.task,
        "metric": metric.name,
        "higher_is_better": metric.higher_is_better,
        "items": found.n_items,
        "against_value": found.reference,
        "value": found.value,
        "delta": found.delta,
        "low": found.ci_low,
        "high": found.ci_high,
        "confidence": confidence,
        "together": mine.rule.confidence,
        "says": _says(found),
        "undefined": found.undefined,
        "statement": found.statement,
    }


def _says(found: Comparison) -> str:
    """``better`` or ``worse`` where the whole interval is on one side of 0, else ``open``."""
    low, high = (found.ci_low, found.ci_high) if found.metric.higher_is_better else (-found.ci_high, -found.ci_low)
    if found.undefined:
        return "open"
    return "better" if low > 0 else "worse" if high < 0 else "open"


def _sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One for each subject and model that it was compared with."""
    told = []
    for subject, against in dict.fromkeys((row["subject"], row["against"]) for row in rows):
        mine = [row for row in rows if (row["subject"], row["against"]) == (subject, against)]
        parts = [
            f"{words} {', '.join(row['task'] for row in mine if row['says'] == says)}"
            for says, words in _WORDS.items()
            if any(row["says"] == says for row in mine)
        ]
        sizes = [_size(mine[0][name]) for name in ("subject_bytes", "against_bytes")]
        told.append(f"{subject}{sizes[0]} against {against}{sizes[1]}: {'; '.join(parts)}")
    return told


def _size(count: int | None) -> str:
    return f" ({count / _MIB:.1f} MiB)" if count else ""


def _answer(rows: Sequence[Mapping[str, Any]], models: Mapping[str, Mapping[str, Any]]) -> str:
    if _one_under_two_names(models):
        return "two of the models hold the same weights under two names: between them there is nothing to compare"
    if not rows:
        return "nothing could be compared item by item"
    says = [row["says"] for row in rows]
    return (
        f"of {counted(len(rows), 'paired comparison')} of a quantized model with another one in 16 bit, "
        f"{says.count('better')} are better, {says.count('worse')} worse and {says.count('open')} not told apart; the "
        f"intervals hold together at {min(row['together'] for row in rows):.0%}"
    )
