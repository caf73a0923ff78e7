"""Drawing the next token as transformers' ``generate`` does: penalty, temperature, top-k, top-p, then one draw.

The draws of an answer hang on its seed and its prompt alone, never on what is asked beside it, so an answer stays the
same in another batch as far as its logits do; and reference and subject draw with the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from quantgate.core.requests import Sampling, Tokens


def kept(logits: Tensor, seen: Sequence[int], how: Sampling) -> Tensor:
    """What is drawn from: ``logits`` [vocabulary] after all of ``how``, float32, -inf where nothing is drawn.

    ``seen``: prompt and answer so far, which the penalty is about.
    """
    scores = logits.float().clone()
    if how.repetition_penalty != 1.0:
        places = torch.tensor(sorted(set(seen)), dtype=torch.int64, device=scores.device)
        old = scores[places]
        scores[places] = torch.where(old < 0, old * how.repetition_penalty, old / how.repetition_penalty)
    scores = scores / how.temperature
    if how.top_k:
        least = torch.topk(scores, min(how.top_k, len(scores))).values[-1]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if how.top_p < 1.0:
        ascending, places = torch.sort(scores, stable=True)
        gone = ascending.softmax(-1).cumsum(-1) <= 1 - how.top_p
        gone[-1] = False
        scores[places[gone]] = -torch.inf
    return scores


class Draws:
    """The draws of one answer to ``prompt``."""

    def __init__(self, prompt: Tokens, how: Sampling) -> None:
        self.prompt, self.how = prompt, how
        self._name = hashlib.sha256(json.dumps([asdict(how), list(prompt)]).encode()).hexdigest()

    def token(self, logits: Tensor, new: Sequence[int]) -> int:
        """The token behind ``new`` ones, by ``logits`` [vocabulary]."""
        scores = kept(logits, (*self.prompt, *new), self.how).cpu()
        places = torch.argsort(scores, descending=True, stable=True)
        shares = scores[places].double().softmax(-1).cumsum(-1)
        drawn = random.Random(f"{self._name} {len(new)}").random()
        at = int(torch.searchsorted(shares, drawn * float(shares[-1]), right=True))
        return int(places[min(at, len(places) - 1)])
