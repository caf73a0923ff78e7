"""IFEval: instructions that a program can check ("no commas", "at least 300 words"), answered in one chat turn.

The checks are Google's, as lm-evaluation-harness keeps them (Zhou et al. 2023); nothing of them is written anew here.
The library is optional (``pip install 'quantgate[ifeval]'``), and so is nltk's data set ``punkt_tab``: without it,
prompts whose checks cut text into sentences or words with it are unscored and counted. The task's value is the strict
accuracy by prompt: all its instructions are followed.
"""

from __future__ import annotations

import importlib
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Final

from quantgate.core.errors import DataError, UsageError, translated
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import ACCURACY, Metric
from quantgate.core.requests import Generate, GenerateResponse, Request, Response
from quantgate.tasks.base import Selection, only
from quantgate.tasks.data import DataSource, Fields, Row
from quantgate.tasks.items import items_of_split
from quantgate.tasks.prompts import Prompts, user

_FIELDS: Final[Fields] = {"key": int, "prompt": str, "instruction_id_list": list, "kwargs": list}
NO_PUNKT: Final = "its check needs nltk's punkt_tab, which is not at hand"


@cache
def _checker() -> Any:
    """lm-eval's module of checks. Raises UsageError when it is not installed."""
    asked_to_download = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = "1"  # on rank 0 its import downloads punkt_tab, and nobody asked for that
    try:
        with translated(
            "--tasks ifeval",
            "its checks cannot be loaded: pip install 'quantgate[ifeval]'",
            kind=UsageError,
            expected="lm-eval, langdetect and immutabledict",
            hint="choose other --tasks",
        ):
            importlib.import_module("langdetect").DetectorFactory.seed = 0  # its answers are drawn at random otherwise
            return importlib.import_module("lm_eval.tasks.ifeval.utils")
    finally:
        del os.environ["LOCAL_RANK"]
        if asked_to_download is not None:
            os.environ["LOCAL_RANK"] = asked_to_download


@contextmanager
def _drawn_with(seed: int) -> Iterator[None]:
    # a check whose arguments are not all given draws them from the module ``random``
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


@dataclass(frozen=True)
class IfEval:
    """The task ``ifeval``; every prompt is its own group."""

    id: str = "ifeval"
    max_new_tokens: int = 1280
    dataset: str = "google/IFEval"
    dimension: ClassVar[str] = "alignment"
    version: ClassVar[int] = 1
    metric: ClassVar[Metric] = ACCURACY

    @property
    def protocol(self) -> str:
        """How it is asked and scored."""
        return (
            f"zero-shot chat, greedy, at most {self.max_new_tokens} new tokens, all instructions of the prompt "
            "followed (strict; lm-eval's checks)"
        )

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """The prompts (the hub calls their split ``train``)."""
        _checker()
        return items_of_split(data, self.dataset, "default", "train", _FIELDS, selection, _check_row)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One greedy answer."""
        return [Generate(prompts.chat(user(item.row["prompt"])), self.max_new_tokens)]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when every instruction is followed; companions: the loose rule, and shares of the instructions."""
        response = only(responses, GenerateResponse)
        try:
            with _drawn_with(item.row["key"]):
                found = _checker().process_results(dict(item.row), [response.text])
        except LookupError:
            return ItemOutcome(item.id, item.group, None, unscored=NO_PUNKT)
        strict, loose = found["inst_level_strict_acc"], found["inst_level_loose_acc"]
        companions = {
            "prompt_loose": float(found["prompt_level_loose_acc"]),
            "share_strict": sum(strict) / len(strict),
            "share_loose": sum(loose) / len(loose),
            "capped": float(response.finish == "length"),
        }
        answer = "".join("ny"[followed] for followed in strict)
        return ItemOutcome(item.id, item.group, float(found["prompt_level_strict_acc"]), answer, companions)


def _check_row(row: Row, where: str) -> None:
    named, given = row["instruction_id_list"], row["kwargs"]
    if not named or len(named) != len(given):
        raise DataError(where, f"{len(named)} instructions with {len(given)} kwargs", expected="one dict for each")
