"""Perplexity and logit fidelity over a text corpus: one pass over the same tokens gives both.

Protocol of paper A (section 1.3 of the facts): raw text, no chat template; non-overlapping segments, incomplete tail
dropped; per segment the mean cross-entropy over its n - 1 shifted tokens in float32; perplexity = exp(mean over the
segments). Fidelity: KL(reference || subject) per token, and the share of positions where both models' likeliest token
is the same (llama.cpp's vocabulary: ``kld_mean``, ``kld_p99``, ``same_top_p``). Segments are the independent unit, so
every interval is taken over segments, never over tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from quantgate.errors import DataError
from quantgate.scoring.requests import Request, Response, Rolling, RollingResponse
from quantgate.tasks.base import KLD_MEAN, PERPLEXITY, Item, ItemOutcome, Metric, Selection, only
from quantgate.tasks.corpora import CORPORA
from quantgate.tasks.data import DataSource
from quantgate.tasks.prompts import Prompts

_METRICS: Final = {"ppl": PERPLEXITY, "kld": KLD_MEAN}


@dataclass(frozen=True)
class RollingTask:
    """``perplexity_<corpus>`` (``measure`` ppl) or ``kld_<corpus>`` (``measure`` kld).

    ``max_segments`` bounds a run that gives no ``--limit``. Both measures ask literally the same, so their answers are
    computed once.
    """

    id: str
    corpus: str
    measure: Literal["ppl", "kld"]
    length: int = 2048
    max_segments: int = 16
    dimension: ClassVar[str] = "fidelity"
    version: ClassVar[int] = 1

    @property
    def dataset(self) -> str:
        """Hub id of the corpus; empty for text that CPython carries."""
        return CORPORA[self.corpus].dataset

    @property
    def metric(self) -> Metric:
        """Perplexity or mean KL divergence."""
        return _METRICS[self.measure]

    @property
    def protocol(self) -> str:
        """Segments and what is averaged."""
        what = "mean token loss" if self.measure == "ppl" else "KL(reference || subject) per token"
        return f"non-overlapping segments of {self.length} tokens, {what}"

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Segments from the start of the corpus; ``--limit`` counts segments."""
        length = min(self.length, prompts.max_length)
        tokens = prompts.encode(CORPORA[self.corpus].read(data))
        count = min(len(tokens) // length, selection.limit or self.max_segments)
        if not count:
            raise DataError(f"corpus {self.corpus!r}", f"{len(tokens)} tokens", expected=f"at least {length}")
        names = [f"{self.corpus}/{index}" for index in range(count)]
        cuts = [tokens[index * length : (index + 1) * length] for index in range(count)]
        return [Item(name, name, {"tokens": list(cut)}) for name, cut in zip(names, cuts, strict=True)]

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """The segment itself."""
        return [Rolling(tuple(item.row["tokens"]))]

    def shortened(self, item: Item, prompts: Prompts) -> str:
        """Segments are no longer than the model's context."""
        length = len(item.row["tokens"])
        return f"segments of {length} tokens" if length < self.length else ""

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """Mean loss (or mean KL divergence) of the segment. The reference itself has KL 0 by definition."""
        response = only(responses, RollingResponse)
        nll = math.fsum(response.nll) / len(response.nll)
        fidelity = _fidelity(response)
        score = nll if self.measure == "ppl" else fidelity.get("kld_mean", 0.0)
        if not math.isfinite(score):
            reason = "the model gave probabilities that are not finite"
            return ItemOutcome(item.id, item.group, None, unscored=reason)
        return ItemOutcome(item.id, item.group, score, companions={"nll": nll, **fidelity})


def _fidelity(response: RollingResponse) -> dict[str, float]:
    if not response.kld:
        return {}
    ordered = sorted(response.kld)
    return {
        "kld_mean": math.fsum(ordered) / len(ordered),
        "kld_p99": ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)],
        "same_top_p": sum(response.same_top) / len(response.same_top),
    }
