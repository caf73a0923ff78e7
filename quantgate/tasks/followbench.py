"""FollowBench: how many constraints can be put on an instruction before the answer stops following it?

Protocol of paper A (Jin et al., alignment: helpfulness) and of FollowBench's authors (Jiang et al. 2024). A group holds
an instruction with one to five constraints; the prompt is the instruction itself, and each of the five levels is
answered on its own. An item here is a whole group, because that is what the measures are means over:

* ``hsr``: share of the levels whose answer meets all its constraints (hard satisfaction rate),
* ``ssr``: mean over the levels of the share of constraints met (soft satisfaction rate; by a rule all or nothing),
* ``csl``: how many levels in a row, from the first, meet all their constraints (consistent satisfaction level, 0 to 5).

Where a rule can check a group (``followbench_rules``), it does; all others need a judge (``--judge``). Without one
they are unscored and counted, and the measures speak of the others. A reply of the judge that cannot be read leaves its
group unscored; paper A's script counts it as satisfied.
"""

from __future__ import annotations

import math
from ast import literal_eval as python_literal
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

from quantgate.core.errors import DataError
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import Metric
from quantgate.core.requests import Generate, GenerateResponse, Request, Response
from quantgate.tasks.base import Selection
from quantgate.tasks.data import DataSource, Fields, Row
from quantgate.tasks.followbench_rules import rule_for
from quantgate.tasks.items import limited, rows_of_split
from quantgate.tasks.llm_judge import Judge, constraints_prompt, parse_verdicts
from quantgate.tasks.prompts import Prompts, user

LEVELS: Final = 5
_FIELDS: Final[Fields] = {
    "example_id": int,
    "category": str,
    "source": str,
    "level": int,
    "instruction": str,
    "target": str,
}
NO_JUDGE: Final = "no rule can check it, and there is no judge"
UNREADABLE: Final = "the judge's reply cannot be read"

Measure = Literal["hsr", "ssr", "csl"]
_METRICS: Final[Mapping[Measure, Metric]] = {
    "hsr": Metric("hsr", True, "mean", best=1.0, worst=0.0),
    "ssr": Metric("ssr", True, "mean", best=1.0, worst=0.0),
    "csl": Metric("csl", True, "mean", "levels", best=float(LEVELS), worst=0.0),
}


@dataclass(frozen=True)
class FollowBench:
    """The tasks ``followbench`` (hard rate), ``followbench_ssr`` and ``followbench_csl``; groups are the categories."""

    id: str = "followbench"
    measure: Measure = "hsr"
    max_new_tokens: int = 512
    judge: Judge | None = field(default=None, repr=False)
    dataset: str = "YuxinJiang/FollowBench"
    dimension: ClassVar[str] = "alignment"
    version: ClassVar[int] = 1

    @property
    def metric(self) -> Metric:
        """Mean over the groups."""
        return _METRICS[self.measure]

    @property
    def protocol(self) -> str:
        """How it is asked, and who checks."""
        who = f"judge {self.judge.model}" if self.judge else "no judge: the rest is unscored"
        return (
            f"zero-shot chat, greedy, at most {self.max_new_tokens} new tokens, levels 1 to {LEVELS}, {self.measure}, "
            f"rules where they exist, {who}"
        )

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """One item per group of levels."""
        items = []
        for config in data.configs(self.dataset):
            for rows in _groups(data, self.dataset, config):
                first = rows[0]
                row = {name: first[name] for name in ("category", "source", "example_id")}
                row["levels"] = [{name: each[name] for name in ("level", "instruction", "target")} for each in rows]
                items.append(Item(f"{config}/train/{first['example_id']}", config, row))
        return limited(items, selection.limit, selection.seed)

    def unscorable(self, item: Item) -> str:
        """Without a judge, what no rule can check."""
        row = item.row
        ruled = rule_for(row["category"], row["source"], row["example_id"]) is not None
        return "" if ruled or self.judge is not None else NO_JUDGE

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One greedy answer per level."""
        asked = [each["instruction"] for each in item.row["levels"] if each["level"]]
        return [Generate(prompts.chat(user(text)), self.max_new_tokens) for text in asked]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """The group's measure; the others, and each level's hard satisfaction, are companions."""
        given = [each for each in responses if isinstance(each, GenerateResponse)]
        answers = [each.text.strip() for each in given]
        met = self._met(item.row, answers)
        if isinstance(met, str):
            return ItemOutcome(item.id, item.group, None, unscored=met)
        hard = [share == 1 for share in met]
        numbers: dict[str, float] = {
            "hsr": sum(hard) / LEVELS,
            "ssr": sum(met) / LEVELS,
            "csl": float((*hard, False).index(False)),
            **{f"hsr_{level}": float(full) for level, full in enumerate(hard, start=1)},
            "capped": sum(each.finish == "length" for each in given) / LEVELS,
        }
        return ItemOutcome(item.id, item.group, numbers[self.measure], "".join("ny"[full] for full in hard), numbers)

    def summary(self, outcomes: Sequence[ItemOutcome]) -> Mapping[str, float]:
        """The measure per category that has scored groups, and the mean of those, as papers print it."""
        scores: dict[str, list[float]] = {}
        for outcome in outcomes:
            if outcome.score is not None:
                scores.setdefault(outcome.group, []).append(outcome.score)
        means = {f"{self.measure}_{name}": math.fsum(each) / len(each) for name, each in sorted(scores.items())}
        return means | ({f"{self.measure}_average": math.fsum(means.values()) / len(means)} if means else {})

    def _met(self, row: Mapping[str, Any], answers: Sequence[str]) -> list[float] | str:
        """Share of constraints met per level, or why it cannot be told."""
        rule = rule_for(row["category"], row["source"], row["example_id"])
        levels = [each for each in row["levels"] if each["level"]]
        if rule is not None:
            pairs = zip(answers, levels, strict=True)
            return [float(rule(answer, level["target"], level["level"])) for answer, level in pairs]
        assert self.judge is not None  # otherwise the item was not asked
        chain = [each["instruction"] for each in row["levels"]]
        asked = [constraints_prompt(chain[: level + 1], answer) for level, answer in enumerate(answers, start=1)]
        with ThreadPoolExecutor(LEVELS) as pool:
            verdicts = [parse_verdicts(reply, n + 1) for n, reply in enumerate(pool.map(self.judge.reply, asked))]
        shares = [sum(verdict) / len(verdict) for verdict in verdicts if verdict is not None]
        return shares if len(shares) == LEVELS else UNREADABLE


def _groups(data: DataSource, dataset: str, config: str) -> list[list[Row]]:
    """The rows of every group, by level. Raises DataError when levels are missing or out of order."""
    groups: dict[int, list[tuple[str, Row]]] = {}
    for name, row in rows_of_split(data, dataset, config, "train", _FIELDS, _check_row):
        groups.setdefault(row["example_id"], []).append((name, row))
    wanted = list(range(1, LEVELS + 1))
    for example, named in groups.items():
        levels = [row["level"] for _, row in named]
        if [level for level in levels if level] != wanted or levels.count(0) > 1:
            line = int(named[0][0].rpartition("/")[2]) + 1
            where = f"{dataset}/{config}/train in {data.name}, line {line}"
            raise DataError(where, f"example_id {example} has the levels {levels}", expected="0 (or not), 1 to 5")
    return [[row for _, row in named] for named in groups.values()]


def _check_row(row: Row, where: str) -> None:
    if row["level"] and not row["instruction"].strip():
        raise DataError(where, "field 'instruction' is empty", expected="an instruction (only level 0 may have none)")
    if row["level"] and row["source"] == "CONLL2003" and row["category"] == "content":
        try:
            fits = isinstance(python_literal(row["target"]), list)
        except (ValueError, SyntaxError):
            fits = False
        if not fits:
            raise DataError(where, f"field 'target' is {row['target']!r}", expected="a Python list of names")
