"""What all tasks with a choice between options share: the question, and the outcome of comparing likelihoods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from quantgate.core.items import Item, ItemOutcome
from quantgate.core.requests import Likelihood, LikelihoodResponse, Response
from quantgate.tasks.prompts import Prompts


@dataclass(frozen=True, slots=True)
class Question:
    """A multiple-choice question as text: option i is scored behind ``contexts[i]``, a space between them.

    Mostly all contexts are the same; where a benchmark fills the option into the text instead (partial evaluation),
    the options are. ``right``: index of the right one.
    """

    contexts: tuple[str, ...]
    options: tuple[str, ...]
    right: int

    @classmethod
    def of(cls, context: str, options: Sequence[str], right: int) -> Question:
        """The usual kind: one context. Raises ValueError when ``right`` is none of at least two options."""
        if len(options) < 2 or right not in range(len(options)):
            raise ValueError(f"{len(options)} options, of which number {right} is right")
        return cls((context,) * len(options), tuple(options), right)

    @property
    def solved(self) -> str:
        """The question with its right answer, as a few-shot example shows it."""
        return f"{self.contexts[self.right]} {self.options[self.right]}"

    def requests(self, prompts: Prompts, shots: str = "") -> list[Likelihood]:
        """One likelihood per option, behind ``shots``."""
        pairs = zip(self.contexts, self.options, strict=True)
        return [prompts.pair(shots + context, f" {option}") for context, option in pairs]


def log_likelihoods(responses: Sequence[Response]) -> list[float]:
    """Summed log-probability of every option, nats. Raises TypeError when something else was answered."""
    return [_likelihood(response).logprob for response in responses]


def mean_token_likelihoods(responses: Sequence[Response]) -> list[float]:
    """Mean log-probability per token of every option, nats."""
    answers = [_likelihood(response) for response in responses]
    return [answer.logprob / answer.n_tokens for answer in answers]


def _likelihood(response: Response) -> LikelihoodResponse:
    if not isinstance(response, LikelihoodResponse):
        raise TypeError(f"got a {type(response).__name__}, asked for a likelihood")
    return response


TIED: Final = " = "  # between the names of options that are equally likely
_TIE: Final = 1e-6  # nats: below what a sum of float32 log-probabilities resolves
NOT_FINITE = "the model gave a likelihood that is not finite"


def score_options(item: Item, logprobs: Sequence[float], right: int, names: Sequence[str]) -> ItemOutcome:
    """Outcome of a multiple-choice item: 1 when ``right`` alone is the likeliest; NaN likelihoods make it unscored.

    A tie is nobody's choice: a model whose probabilities are all equal would otherwise be right wherever the right
    option stands first (in TruthfulQA always). The recorded answer then names all that are likeliest: ``A = C``.

    The companion ``prob_right`` is the probability of the right option among the options: it moves before the argmax
    does, so it needs fewer items to show a loss.
    """
    if not all(math.isfinite(value) for value in logprobs):
        return ItemOutcome(item.id, item.group, None, unscored=NOT_FINITE)
    best = max(range(len(logprobs)), key=lambda index: logprobs[index])
    likeliest = [index for index, value in enumerate(logprobs) if logprobs[best] - value <= _TIE]
    answer = TIED.join(names[index] for index in likeliest)
    prob_right = probabilities(logprobs)[right]
    return ItemOutcome(item.id, item.group, float(likeliest == [right]), answer, {"prob_right": prob_right})


def probabilities(logprobs: Sequence[float]) -> list[float]:
    """Softmax over the options: their probabilities given that one of them is said."""
    best = max(logprobs)
    weights = [math.exp(value - best) for value in logprobs]
    total = math.fsum(weights)
    return [weight / total for weight in weights]
