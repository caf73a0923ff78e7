"""The likeliest next tokens alone: an option among them has its value, any other one an interval.

What is not shown is at most as likely as the least likely token shown, and as all that is left of the probability.
Where an option that is shown beats that bound, the bound stands for those that are not: which option is likeliest is
then certain. Where none does, what is not shown has no value (NaN), and its item no score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from quantgate.core.remote import RemoteError
from quantgate.core.requests import LikelihoodResponse, Tokens
from quantgate.engines.http.lines import CLOSE, Likely, Line, NotOfferedError, Plain, Scored

_WHOLE: Final = 1.01
COUNTS: Final = (20, 5)
"""How many are asked for: what most servers give at most, and what all give."""


class TopK(Plain):
    """See the module's docstring. ``top``: asks a server for the likeliest next tokens."""

    name: Final = "top-k"
    words: Final = "the likeliest next tokens, for options of one token"
    single: bool = True

    def __init__(self, top: Callable[[Line, Tokens, int], list[Likely]], *, as_text: bool = False) -> None:
        self._top, self.as_text = top, as_text
        self._counts: tuple[int, ...] = COUNTS

    def scores(self, line: Line, tokens: Tokens, start: int) -> list[Scored]:
        """See `Way.scores`: of the last token alone."""
        if start != len(tokens) - 1:
            raise NotOfferedError("only the next token's probabilities")
        [found] = self.likelihoods(line, tokens[:start], [tokens[start:]])
        return [Scored(found.logprob, found.greedy)]

    def likelihoods(self, line: Line, context: Tokens, continuations: Sequence[Tokens]) -> list[LikelihoodResponse]:
        """See `Way.likelihoods`: one call for all of them."""
        shown = self._shown(line, context)
        if not shown:
            raise NotOfferedError("no likeliest tokens in the reply")
        if not (total := math.fsum(math.exp(min(each.logprob, 1.0)) for each in shown)) <= _WHOLE:
            raise NotOfferedError(f"the {len(shown)} likeliest tokens have a probability of {total:.3g} together")
        bound = bound_of([each.logprob for each in shown])
        found = [self._among(line, shown, each) for each in continuations]
        known = [value for value in found if value is not None and not math.isnan(value)]
        decided = max(known, default=-math.inf) > bound + CLOSE
        unseen = bound if decided else math.nan
        return [LikelihoodResponse(unseen if value is None else value, 1, value == shown[0].logprob) for value in found]

    def _shown(self, line: Line, context: Tokens) -> list[Likely]:
        try:
            return self._top(line, context, self._counts[0])
        except RemoteError as error:
            if error.status not in (400, 422) or len(self._counts) == 1:
                raise
            self._counts = self._counts[1:]
            return self._shown(line, context)

    def _among(self, line: Line, shown: Sequence[Likely], continuation: Tokens) -> float | None:
        if len(continuation) != 1:
            raise NotOfferedError("only the next token's probabilities")
        text = line.codec.piece(continuation[0])
        if "\ufffd" in text and all(each.number is None for each in shown):
            return math.nan  # a part of a letter: several tokens are spelt so
        for each in shown:
            if each.number == continuation[0] or (each.number is None and each.text == text):
                return each.logprob
        return None


def bound_of(shown: Sequence[float]) -> float:
    """What log p of a token that is not shown is at most, nats."""
    left = 1.0 - math.fsum(math.exp(value) for value in shown)
    return min(min(shown), math.log(left) if left > 0 else -math.inf)
