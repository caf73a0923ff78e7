"""Along the reference's own answers: how sure a subject is of them, and whether it would have said the same.

The reference answers a task greedily; then both models read prompt and answer, and what counts is the answer's tokens:

* ``decode_ppl_NAME``: perplexity of the answer. The reference's own is what it was while it spoke.
* ``token_consistency_NAME``: share of the answer's places at which the subject's likeliest token is the reference's
  (LLMC's token consistency; 1 for the reference itself). Where a subject departs, it is put back on the path, so one
  early difference costs one token and not the rest of the answer, which exact texts would make of it.

Answers are read in one pass over the text: what a compressed cache of keys and values does to later tokens is seen as
far as the subject compresses it in that pass. The path is the answer's text, encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final, Literal

from quantgate.core.items import Item
from quantgate.core.metrics import BLOCK, GUESSING, PERPLEXITY, SAME_TOP, Metric
from quantgate.core.requests import Generate, GenerateResponse, Response
from quantgate.tasks.base import Selection, Task
from quantgate.tasks.data import DataSource
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.rolling import RollingTask

_NAMES: Final = {"ppl": "decode_ppl", "same": "token_consistency"}
NO_PATH: Final = "the reference's answer has no text"


@dataclass(frozen=True)
class Decoded(RollingTask):
    """``decode_ppl_NAME`` and ``token_consistency_NAME`` of a task ``first`` that asks one greedy answer an item."""

    id: str = ""
    corpus: str = ""
    measure: Literal["ppl", "kld", "same"] = "ppl"
    length: int = BLOCK
    first: Task = field(kw_only=True)
    dimension: ClassVar[str] = "fidelity"
    every_item: ClassVar[bool] = True  # copies were left out of what the reference was asked; examples are shared text

    @property
    def dataset(self) -> str:
        """The task's."""
        return str(getattr(self.first, "dataset", ""))

    def metric_in(self, context: int) -> Metric:
        """Answers are no running text, and a whole one may be lost."""
        return replace(PERPLEXITY, stake=GUESSING, serial=False) if self.measure == "ppl" else SAME_TOP

    @property
    def protocol(self) -> str:
        """Whose answers, and what is averaged."""
        what = "mean token loss" if self.measure == "ppl" else "share of places with the reference's likeliest token"
        return f"the reference's answers to {self.first.id} ({self.first.protocol}), read by both; {what}"

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """The task's; what is asked hangs on the reference's answers, see `behind`."""
        return self.first.items(data, selection, prompts)

    def behind(
        self, asked: Sequence[tuple[Item, Sequence[Generate], Sequence[Response]]], prompts: Prompts
    ) -> list[Item]:
        """An item for every one that the reference answered: its prompt and answer as tokens."""
        items = []
        for item, [request], [response] in asked:
            assert isinstance(response, GenerateResponse)
            path = prompts.piece(response.text) if response.text.strip() else ()
            path = path[: max(0, prompts.max_length - len(request.prompt))]
            row = {"tokens": [*request.prompt, *path], "first": len(request.prompt), "path": len(path)}
            items.append(Item(item.id, item.group, row))
        return items

    def unscorable(self, item: Item) -> str:
        """An answer without a text has no path."""
        return "" if item.row.get("path", 1) else NO_PATH

    def as_asked(self, items: Sequence[Item], prompts: Prompts) -> str:
        """How much text it is."""
        total = sum(item.row.get("path", 0) for item in items)
        return f"{total:,} tokens of {len(items)} answers"

    def shortened(self, item: Item, prompts: Prompts) -> str:
        """What the reference was asked tells it."""
        return ""


def decoded(task: Task) -> list[Decoded]:
    """Both measures of ``task``."""
    return [Decoded(f"{name}_{task.id}", measure=measure, first=task) for measure, name in _NAMES.items()]  # type: ignore[arg-type]  # its keys are the measures
