"""lm-evaluation-harness's sample files (``samples_TASK_DATE.jsonl``, of ``--log_samples``), read for comparison.

A line is an item under one filter: what was asked (as digests), what was answered, and its score under each metric. Two
files can be paired when they hold the same items, asked the same: `paired` refuses everything else.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.errors import UsageError
from quantgate.core.items import REPEATED, ItemOutcome
from quantgate.core.metrics import ACC_NORM, ACCURACY, EXACT_MATCH, PERPLEXITY, PROB_RIGHT, Metric
from quantgate.core.reading import Unreadable, visible
from quantgate.tasks.choices import probabilities

_METRICS: Final[Mapping[str, Metric]] = {
    "acc": ACCURACY, "acc_norm": ACC_NORM, "exact_match": EXACT_MATCH, "perplexity": PERPLEXITY,
}  # fmt: skip
_SAME: Final = {"doc_hash": "question", "target_hash": "right answer", "prompt_hash": "prompt"}
_FILE: Final = re.compile(r"samples_(.+?)(?:_\d{4}-\d\d-\d\d.*)?")
_ANSWER: Final = 200
_USUAL: Final = "none"
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_LONG: Final = 160  # characters of an item's answers from which on two models never give the same everywhere
_HINT: Final = "run both with the same lm-eval, tasks, examples and chat template, and --log_samples"


@dataclass(frozen=True)
class Samples:
    """A file: filter -> item -> its line. ``task``: as its name says."""

    name: str
    task: str
    digest: str
    lines: Mapping[str, Mapping[int, Mapping[str, Any]]]


@dataclass(frozen=True)
class Pair:
    """Both sides of one task under one filter and metric. ``chance``: of a guess among the options, None without.

    ``problems``: what shows that the two sides are one.
    """

    task: str
    metric: Metric
    filter: str
    reference: tuple[ItemOutcome, ...]
    subject: tuple[ItemOutcome, ...]
    chance: float | None
    problems: tuple[str, ...] = ()


def read_samples(path: Path) -> Samples:
    """The lines of a file. Raises UsageError naming the file and the line that is none of lm-eval's."""
    try:
        text = reading.read_text(path, reading.MOST_ROWS)
    except (OSError, Unreadable) as error:
        raise UsageError(str(path), f"cannot be read ({error})", expected="a sample file of lm-eval") from error
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
        who = f"{path.name}, line {number}"
        try:
            row = reading.parse_object(line, reading.MOST_LINE)
        except Unreadable as error:
            raise UsageError(who, str(error), expected="a line of lm-eval's --log_samples") from error
        item, metrics = row.get("doc_id"), row.get("metrics")
        if type(item) is not int or not isinstance(metrics, list) or not all(isinstance(each, str) for each in metrics):
            found_ = f"doc_id {item!r} and metrics {metrics!r}"[:120]
            raise UsageError(who, found_, expected="a line of lm-eval's --log_samples (0.4.2 or newer)")
        mine = found.setdefault(str(row.get("filter", _USUAL)), {})
        if item in mine:
            raise UsageError(who, f"item {item} stands there twice", expected="every item once", hint=_HINT)
        mine[item] = row
    match = _FILE.fullmatch(path.stem)
    task = re.sub(r"[^a-z0-9_]", "_", (match[1] if match else path.stem).lower())
    return Samples(path.name, task, sha256(text.encode()).hexdigest()[:16], found)


def paired(reference: Samples, subject: Samples) -> tuple[list[Pair], list[str]]:
    """Both files item by item, a pair a filter and metric; and a sentence for each metric that cannot be compared.

    Raises:
        UsageError: they do not hold the same items, asked the same.
    """
    if set(reference.lines) != set(subject.lines):
        raise _unlike(reference, subject, f"filters {sorted(reference.lines)} and {sorted(subject.lines)}")
    pairs, notes = [], []
    for filter_, lines in reference.lines.items():
        others = subject.lines[filter_]
        _check(reference, subject, lines, others)
        problems, told = _one_model(reference, subject, lines, others)
        notes += told
        for name in _metrics(reference, subject, [*lines.values(), *others.values()]):
            if (metric := _METRICS.get(name)) is None:
                notes.append(f"the metric {name} is left out: read are {', '.join(_METRICS)}")
                continue
            pairs.append(replace(_pair(reference, subject, filter_, metric, name), problems=problems))
    if not pairs:
        raise _unlike(reference, subject, f"no metric of {', '.join(_METRICS)} in both")
    names = Counter(pair.task for pair in pairs)
    if twice := [name for name, count in names.items() if count > 1]:
        raise _unlike(reference, subject, f"filters and metrics of which {names[twice[0]]} would be called {twice[0]}")
    return pairs, list(dict.fromkeys(notes))


def _metrics(one: Samples, other: Samples, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What every line of both files names; a metric that some lack may be the one that fell."""
    named = {tuple(dict.fromkeys(line["metrics"])) for line in lines}
    if len({frozenset(each) for each in named}) > 1:
        every = sorted({name for each in named for name in each})
        raise _unlike(one, other, f"not every line names the metrics {', '.join(every)}"[:200])
    return list(next(iter(named)))


def _one_model(
    one: Samples, other: Samples, lines: Mapping[int, Any], others: Mapping[int, Any]
) -> tuple[tuple[str, ...], list[str]]:
    """Why one model has answered both times, and what only looks like it; both empty when an answer differs.

    Log-likelihoods move with every weight, and so do long texts; of short ones a good quantization may give the same.
    """
    if one.digest == other.digest:
        return ("both files are the same to the last byte",), []
    said = [_said(line) for line in lines.values()]
    if said != [_said(others[item]) for item in lines]:
        return (), []
    fine = any(_options(line) or PROB_RIGHT.name in line for line in lines.values())
    if fine or len(json.dumps(said)) > _LONG * len(said):
        return ("all answers equal the reference's to the last bit",), []
    return (), ["all answers are the reference's, letter by letter; short answers of a good quantization may be"]


def _said(line: Mapping[str, Any]) -> list[Any]:
    """What a model said of an item, as finely as the line holds it."""
    return [line.get("filtered_resps"), line.get("resps"), line.get(PROB_RIGHT.name)]


def _check(one: Samples, other: Samples, lines: Mapping[int, Any], others: Mapping[int, Any]) -> None:
    if set(lines) != set(others):
        alone = sorted(set(lines) ^ set(others))
        raise _unlike(one, other, f"{len(alone)} items are in one of them only (item {alone[0]})")
    for item, line in lines.items():
        for key, what in _SAME.items():
            mine, theirs = line.get(key), others[item].get(key)
            if not mine or mine != theirs:
                raise _unlike(one, other, f"item {item} has another {what} in each ({key})")
    forms = {len(_entries(line)) > 1 for line in (*lines.values(), *others.values())}
    if len(forms) > 1:
        raise _unlike(one, other, "some items have log-likelihoods of options and some have none")
    if 2 * len(_copies(lines)) > len(lines):
        raise _unlike(one, other, f"{len(_copies(lines))} of {len(lines)} items ask the same as another one")


def _copies(lines: Mapping[int, Any]) -> set[int]:
    """Items that ask the same as an earlier one."""
    seen: set[tuple[str, str]] = set()
    found = set()
    for item, line in sorted(lines.items()):
        asked = (str(line["doc_hash"]), str(line["prompt_hash"]))
        if asked in seen:
            found.add(item)
        seen.add(asked)
    return found


def _unlike(one: Samples, other: Samples, found: str) -> UsageError:
    return UsageError(f"{one.name} and {other.name}", found, expected="the same items, asked the same", hint=_HINT)


def _pair(reference: Samples, subject: Samples, filter_: str, metric: Metric, name: str) -> Pair:
    suffix = {"acc_norm": "_norm", "perplexity": "_perplexity"}.get(name, "")
    label = "" if filter_ == _USUAL or len(reference.lines) == 1 else "_" + re.sub(r"[^a-z0-9_]", "_", filter_.lower())
    copies = _copies(reference.lines[filter_])
    sides = [
        tuple(
            ItemOutcome(str(item), str(item), None, unscored=REPEATED)
            if item in copies
            else _outcome(samples, item, line, name)
            for item, line in sorted(samples.lines[filter_].items())
        )
        for samples in (reference, subject)
    ]
    options = [len(_entries(line)) for line in reference.lines[filter_].values()]
    chosen = metric.scale.either and min(options) > 1
    chance = math.fsum(1 / count for count in options) / len(options) if chosen else None
    return Pair(f"{reference.task}{label}{suffix}", metric, filter_, sides[0], sides[1], chance)


def _outcome(samples: Samples, item: int, line: Mapping[str, Any], name: str) -> ItemOutcome:
    value = line.get(name)
    who = f"{samples.name}, item {item}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(who, f"{name} is {value!r}"[:120], expected="a number", hint=_HINT)
    score = -float(value) if name == "perplexity" else float(value)
    if not math.isfinite(score):
        return ItemOutcome(str(item), str(item), None, unscored="its score is not finite")
    if name != "perplexity" and score not in (0.0, 1.0):
        raise UsageError(who, f"{name} is {value!r}", expected="0 or 1")
    options = _options(line)
    companions = _written_by_us(line, who)
    answer = visible(str(line.get("filtered_resps", ""))[:_ANSWER])
    if len(options) > 1:
        answer = str(max(range(len(options)), key=options.__getitem__))
        if (right := _right(line, len(options))) is not None:
            companions["prob_right"] = probabilities(options)[right]
            chosen = float(options[right] == max(options))
            tie = options.count(max(options)) > 1
            if name == "acc" and chosen != score and not tie:
                found = f"acc is {score:g}, and by its log-likelihoods it is {chosen:g}"
                raise UsageError(who, found, expected="the score of these answers", hint=_HINT)
    return ItemOutcome(str(item), str(item), score, answer, companions)


def _written_by_us(line: Mapping[str, Any], who: str) -> dict[str, float]:
    """The right option's probability, which `quantgate report --lm-eval` writes in place of log-likelihoods."""
    found = line.get(PROB_RIGHT.name)
    if found is None:
        return {}
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found <= 1:
        raise UsageError(who, f"{PROB_RIGHT.name} is {found!r}"[:120], expected="a probability", hint=_HINT)
    return {PROB_RIGHT.name: float(found)}


def _right(line: Mapping[str, Any], count: int) -> int | None:
    """Number of the right option, where the line tells it as one."""
    target = line.get("target")
    if isinstance(target, bool) or not isinstance(target, (int, str)) or not _NUMBER.fullmatch(str(target)[:20]):
        return None
    return int(target) if int(target) < count else None


def _entries(line: Mapping[str, Any]) -> list[Any]:
    """The answers that are (log-likelihood, greedy) pairs: one for each option; empty for free answers."""
    given = line.get("filtered_resps")
    found = [each for each in given if isinstance(each, list) and each] if isinstance(given, list) else []
    return found if isinstance(given, list) and len(found) == len(given) else []


def _options(line: Mapping[str, Any]) -> list[float]:
    """Log-likelihoods of the options; empty for free answers, and where one is no finite number."""
    found = []
    for each in _entries(line):
        try:
            found.append(float(each[0]))
        except (TypeError, ValueError):
            return []
    return found if all(map(math.isfinite, found)) else []
