"""Perplexity and logit fidelity over a text corpus: one pass over the same tokens gives both.

Non-overlapping segments, incomplete tail dropped; per segment the mean cross-entropy over its scored tokens in float32;
perplexity = exp(mean over the segments). No chat template. Two forms of a segment:

* The usual one starts with the special tokens that the tokenizer puts in front of every text (Gemma: ``<bos>``): models
  trained with them need them, and without them the perplexity of a 270M Gemma is ten times as large. They are part of
  the segment's length and are not scored. Tokenizers that add none give plain segments.
* ``raw``, paper A's and GPTQ's: the joined text is encoded once, so that at most the first
  segment starts with such a token, and the whole corpus is read.

Fidelity: KL(reference || subject) per token: exact from the reference's hidden states where an engine keeps them;
elsewhere an estimate within 1% from its likeliest tokens with a lower bound beside it (``kld_bound``;
:mod:`quantgate.engines.torch.fidelity`), or all of its distributions where a task is ``exact``; and the share of
positions where the likeliest token of both models is the same (llama.cpp's vocabulary: ``kld_mean``, ``kld_p99``,
``same_top_p``). Segments are the independent unit, so every interval is taken over segments, never over tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal

from quantgate.core.errors import DataError
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import BLOCK, GUESSING, KLD_MEAN, PERPLEXITY, SAME_TOP, Metric
from quantgate.core.requests import KEPT_DRAWS, KEPT_TOKENS, Request, Response, Rolling, RollingResponse
from quantgate.tasks.base import Selection, only
from quantgate.tasks.corpora import CORPORA
from quantgate.tasks.data import DataSource
from quantgate.tasks.prompts import Prompts

_METRICS: Final = {"ppl": PERPLEXITY, "kld": KLD_MEAN, "same": SAME_TOP}
_FOUND_IN: Final = {"ppl": "nll", "kld": KLD_MEAN.name, "same": SAME_TOP.name}


@dataclass(frozen=True)
class RollingTask:
    """``perplexity_<corpus>`` (``measure`` ppl) or ``kld_<corpus>`` (``measure`` kld).

    ``max_segments`` bounds a run that gives no ``--limit``; None reads all. ``raw``, ``exact``: see the module.
    Measures of one form ask literally the same, so their answers are computed once.
    """

    id: str
    corpus: str
    measure: Literal["ppl", "kld", "same"]
    length: int = 2048
    max_segments: int | None = 16
    raw: bool = False
    exact: bool = False
    dimension: ClassVar[str] = "fidelity"
    version: ClassVar[int] = 2

    @property
    def dataset(self) -> str:
        """Hub id of the corpus; empty for text that CPython carries."""
        return CORPORA[self.corpus].dataset

    @property
    def metric(self) -> Metric:
        """Perplexity or mean KL divergence of segments of full length."""
        return self.metric_in(self.length)

    def metric_in(self, context: int) -> Metric:
        """The metric for a model of so many tokens of context: a segment has one block of guessing at stake."""
        return replace(_METRICS[self.measure], stake=GUESSING * min(1.0, BLOCK / min(self.length, context)))

    @property
    def protocol(self) -> str:
        """Text, segments and what is averaged."""
        what = "mean token loss" if self.measure == "ppl" else f"KL(reference || subject) per token, {self._kept}"
        many = "all" if self.max_segments is None else f"first {self.max_segments} without --limit"
        form = "paper A's raw form, the text encoded once" if self.raw else "each behind what the tokenizer puts first"
        text = CORPORA[self.corpus].described
        return f"{text}; non-overlapping segments of {self.length} tokens ({many}), {form}; {what}"

    @property
    def _kept(self) -> str:
        if self.exact:
            return "exact, over the whole vocabulary"
        estimated = f"estimated from {KEPT_TOKENS} tokens and {KEPT_DRAWS} draws of the rest, with its lower bound"
        return f"exact where the reference's hidden states are kept, otherwise {estimated}"

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Segments from the start of the corpus; ``--limit`` counts segments.

        A row holds its tokens, how many of them stand in front of the text, and how many segments the corpus has.
        """
        length = min(self.length, prompts.max_length)
        text = CORPORA[self.corpus].read(data)
        first = () if self.raw else prompts.first
        tokens = prompts.encode(text) if self.raw else prompts.plain(text)
        step = length - len(first)
        whole = len(tokens) // step if step > 1 else 0
        if not whole:
            raise DataError(f"corpus {self.corpus!r}", f"{len(tokens)} tokens", expected=f"at least {max(step, 2)}")
        count = min(whole, selection.limit or self.max_segments or whole)
        return [
            Item(
                name := f"{self.corpus}/{index}",
                name,
                {"tokens": [*first, *tokens[index * step : (index + 1) * step]], "first": len(first), "of": whole},
            )
            for index in range(count)
        ]

    def as_asked(self, items: Sequence[Item], prompts: Prompts) -> str:
        """How many of the corpus's segments are read, and what they start with."""
        row = items[0].row
        which = "all" if len(items) == row["of"] else f"the first {len(items)} of"
        start = "as the text was encoded"
        if not self.raw:
            start = f"each behind {prompts.decode(prompts.first)!r}" if row["first"] else "no token put before them"
        return f"{which} {row['of']} segments of {len(row['tokens'])} tokens, {start}"

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """The segment itself."""
        return [Rolling(tuple(item.row["tokens"]))]

    def shortened(self, item: Item, prompts: Prompts) -> str:
        """Segments are no longer than the model's context."""
        length = len(item.row["tokens"])
        return f"segments of {length} tokens" if length < self.length else ""

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """Mean loss, or mean KL divergence, of the segment. Distributions that nobody compared have no distance."""
        response = only(responses, RollingResponse)
        # of n tokens in front, n - 1 are predicted too, which says nothing about text
        front = max(0, item.row.get("first", 0) - 1)
        nll = math.fsum(response.nll[front:]) / len(response.nll[front:])
        fidelity = _fidelity(response, front)
        score = {"nll": nll, **fidelity}.get(_FOUND_IN[self.measure])
        if score is None:
            reason = "its distributions were not compared with the reference's"
            return ItemOutcome(item.id, item.group, None, unscored=reason)
        if not math.isfinite(score):
            reason = "the model gave probabilities that are not finite"
            return ItemOutcome(item.id, item.group, None, unscored=reason)
        return ItemOutcome(item.id, item.group, score, companions={"nll": nll, **fidelity})


def _fidelity(response: RollingResponse, front: int) -> dict[str, float]:
    if not response.kld:
        return {}
    ordered = sorted(response.kld[front:])
    same, bound = response.same_top[front:], response.kld_bound[front:] or ordered
    return {
        "kld_mean": math.fsum(ordered) / len(ordered),
        "kld_p99": ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)],
        "kld_bound": math.fsum(bound) / len(bound),
        "same_top_p": sum(same) / len(same),
    }
