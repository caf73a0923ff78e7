"""FLORES-200, English to Chinese and back: translate one sentence in a chat turn, scored by corpus BLEU.

Protocol of paper A (Jin et al.): the literal prompt, line feeds of the answer become spaces, BLEU through sacrebleu.
The paper cuts texts into the pieces of the FLORES-200 sentencepiece model (spBLEU). That model is a file which
sacrebleu downloads; where it is not at hand, sacrebleu's own tokenizer of the target language takes its place, and
metric and protocol say which one it was: a ``bleu_zh`` is never passed off as an ``spbleu``. (The paper's script sends
the pieces through the tokenizer 13a once more; sacrebleu's ``flores200``, used here, does not.)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from quantgate.core.errors import UsageError, translated
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import Metric
from quantgate.core.requests import Generate, GenerateResponse, Request, Response
from quantgate.tasks.base import Selection, only
from quantgate.tasks.data import DataSource, Fields
from quantgate.tasks.items import items_of_split
from quantgate.tasks.prompts import Prompts, user

_NAMES: Final = {"eng_Latn": "English", "zho_Hans": "Chinese"}
_OWN_TOKENIZER: Final = {"eng_Latn": "13a", "zho_Hans": "zh"}
_ORDERS: Final = 4


def tokenizer_for(target: str) -> str:
    """``flores200`` where its model file and sentencepiece are at hand, else sacrebleu's own for ``target``."""
    with _sacrebleu():
        from sacrebleu.utils import SACREBLEU_DIR

    at_hand = Path(SACREBLEU_DIR, "models", "flores200sacrebleuspm").is_file()
    return "flores200" if at_hand and importlib.util.find_spec("sentencepiece") else _OWN_TOKENIZER[target]


@cache
def _bleu(tokenizer: str) -> Any:
    with _sacrebleu():
        from sacrebleu.metrics import BLEU

        return BLEU(tokenize=tokenizer, effective_order=True)  # effective order is for the score of a single sentence


def _sacrebleu() -> AbstractContextManager[None]:
    return translated(
        "the tasks of flores",
        "their metric cannot be loaded",
        kind=UsageError,
        expected="sacrebleu",
        hint="choose other --tasks",
    )


def sentence_facts(hypothesis: str, reference: str, tokenizer: str) -> tuple[float, tuple[float, ...]]:
    """Sentence BLEU (0 to 100), and what adds up over a corpus: both lengths, n-gram matches and n-gram totals."""
    found = _bleu(tokenizer).sentence_score(hypothesis, [reference])
    facts = (found.sys_len, found.ref_len, *found.counts, *found.totals)
    return float(found.score), tuple(float(fact) for fact in facts)


def corpus_bleu(facts: npt.NDArray[np.float64]) -> float:
    """BLEU (0 to 100) of summed facts [10]: sacrebleu's default, exponential smoothing."""
    from sacrebleu.metrics import BLEU

    sys_len, ref_len, *counts = (round(fact) for fact in facts.tolist())  # sacrebleu wants whole numbers
    return float(
        BLEU.compute_bleu(
            correct=counts[:_ORDERS],
            total=counts[_ORDERS:],
            sys_len=sys_len,
            ref_len=ref_len,
            smooth_method="exp",
            effective_order=False,
        ).score
    )


@dataclass(frozen=True)
class Flores:
    """The tasks ``flores_en_zh`` and ``flores_zh_en``; every sentence is its own group."""

    id: str
    source: str
    target: str
    max_new_tokens: int = 256
    dataset: str = "facebook/flores"
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 1

    @property
    def tokenizer(self) -> str:
        """sacrebleu's name of what cuts texts into words or pieces."""
        return tokenizer_for(self.target)

    @property
    def metric(self) -> Metric:
        """Corpus BLEU, named after its tokenizer."""
        name = "spbleu" if self.tokenizer == "flores200" else f"bleu_{self.tokenizer}"
        return Metric(name, True, "corpus", aggregate=corpus_bleu, best=100.0)

    @property
    def protocol(self) -> str:
        """How it is asked, and which BLEU."""
        return (
            f"zero-shot chat, greedy, at most {self.max_new_tokens} new tokens, corpus BLEU "
            f"(sacrebleu, tokenizer {self.tokenizer})"
        )

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Sentence pairs of devtest."""
        fields: Fields = {"sentence_eng_Latn": str, "sentence_zho_Hans": str}
        return items_of_split(data, self.dataset, "eng_Latn-zho_Hans", "devtest", fields, selection)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """One greedy translation."""
        source, target = _NAMES[self.source], _NAMES[self.target]
        text = item.row[f"sentence_{self.source}"]
        ask = f"Please translate the following {source} text into {target}.\n{source} text: {text}"
        return [Generate(prompts.chat(user(ask)), self.max_new_tokens)]

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """Sentence BLEU, and the counts that make the corpus BLEU."""
        response = only(responses, GenerateResponse)
        answer = response.text.replace("\n", " ").strip()
        score, facts = sentence_facts(answer, item.row[f"sentence_{self.target}"], self.tokenizer)
        capped = {"capped": float(response.finish == "length")}
        return ItemOutcome(item.id, item.group, score, answer, capped, facts=facts)

    def golds(self, item: Item) -> list[str]:
        """The reference translation."""
        return [item.row[f"sentence_{self.target}"]]
