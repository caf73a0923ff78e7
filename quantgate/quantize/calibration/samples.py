"""Calibration sets: the text a method may look at, as token samples with a name, a domain and a digest.

Three ways from text to samples, of which a source has one:

* whole documents at native length, no padding, no concatenation, drawn without replacement by a seeded numpy generator
  (chat dialogues, as in paper A's code);
* segments of a fixed length at seeded positions of a running text (GPTQ's convention for corpora);
* documents in a seeded order, joined and cut into samples of exactly the length asked for (`packed`): so every set can
  be given the same budget in tokens, however short its documents are.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from quantgate.core.errors import DataError

if TYPE_CHECKING:
    from quantgate.core.requests import Tokens

Leaking: TypeAlias = Callable[[Sequence[str]], Collection[int]]  # numbers of the texts that are tested

MOST_LEFT_OUT: Final = 0.1  # share of a draw's documents
LEFT_OUT: Final = "rows whose text is tested"
FEWER: Final = "ask for fewer --calibration-samples, a smaller --calibration-length, or add text"


@dataclass(frozen=True)
class Calibration:
    """``samples``: token ids per sample; ``texts``: what they say; ``seed``: of the draw; ``source``: which split.

    ``pool``: tokens there were to draw from (0: without end). ``length``: tokens a sample was to have (0: its own).
    """

    name: str
    domain: str
    samples: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    seed: int
    source: str = ""
    language: str = ""
    pool: int = 0
    length: int = 0

    @property
    def n_tokens(self) -> int:
        """Total number of tokens over all samples."""
        return sum(len(sample) for sample in self.samples)

    @property
    def share(self) -> float:
        """Share of the pool that was drawn, 0 to 1; 0 where the pool has no end. Large shares leave draws alike."""
        return min(1.0, self.n_tokens / self.pool) if self.pool else 0.0

    @property
    def digest(self) -> str:
        """sha256 over the token ids: two sets with equal digests calibrate identically."""
        digest = hashlib.sha256()
        for sample in self.samples:
            digest.update(np.asarray(sample, dtype="<i8").tobytes() + b"|")
        return digest.hexdigest()

    def check_made_for(self, model: str, tokenizer: str) -> None:
        """Raise DataError when it cannot be used for the model of these digests: text can, sums of text may not."""

    def as_record(self) -> dict[str, Any]:
        """What a report says about the set."""
        return {
            "name": self.name,
            "domain": self.domain,
            "language": self.language,
            "n_samples": len(self.samples),
            "n_tokens": self.n_tokens,
            "length": self.length,
            "pool_tokens": self.pool,
            "digest": self.digest,
            "seed": self.seed,
            "source": self.source,
        }


@dataclass(frozen=True)
class Want:
    """How much is asked of a source: ``n_samples`` of ``length`` tokens, drawn with ``seed``.

    ``packed``: also of documents that are otherwise kept whole, so that sets of all kinds hold equally many tokens.
    """

    n_samples: int
    length: int
    seed: int
    packed: bool = False


@dataclass(frozen=True)
class Drawn:
    """Samples of one source, what they say, and ``pool``: how many tokens there were to draw from (0: no end)."""

    samples: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    origin: str
    pool: int = 0


@dataclass(frozen=True)
class Documents:
    """Texts with their tokens. ``first``: tokens in front of every sample; ``joint``: tokens between two documents."""

    texts: Sequence[str]
    tokens: Sequence[Tokens]
    origin: str
    first: Tokens = ()
    joint: Tokens = field(default=())

    @property
    def n_tokens(self) -> int:
        """Tokens of all documents with what stands between them."""
        return sum(map(len, self.tokens)) + len(self.joint) * max(0, len(self.tokens) - 1)

    def capacity(self, length: int) -> int:
        """How many samples of ``length`` tokens they fill when they are joined."""
        return self.n_tokens // max(1, length - len(self.first))


def nothing(texts: Sequence[str]) -> Collection[int]:
    """No document is tested."""
    del texts
    return ()


def draw(pool: Sequence[str], n_samples: int, seed: int, who: str) -> list[str]:
    """``n_samples`` texts from ``pool`` without replacement, seeded. Raises DataError when the pool is too small."""
    if len(pool) < n_samples:
        raise DataError(
            who,
            f"{len(pool)} texts",
            expected=f"at least {n_samples}",
            hint="add text or ask for fewer calibration samples",
        )
    order = np.random.default_rng(seed).choice(len(pool), size=n_samples, replace=False)
    return [pool[i] for i in order]


def segments(tokens: Sequence[int], n_samples: int, length: int, seed: int, who: str) -> list[tuple[int, ...]]:
    """``n_samples`` segments of ``length`` tokens at seeded positions of ``tokens`` (GPTQ's convention)."""
    if len(tokens) <= length:
        raise DataError(who, f"{len(tokens)} tokens of text", expected=f"more than one segment of {length}", hint=FEWER)
    starts = np.random.default_rng(seed).integers(0, len(tokens) - length, size=n_samples)
    return [tuple(tokens[start : start + length]) for start in starts]


def whole(documents: Documents, want: Want, who: str, leaking: Leaking) -> Drawn:
    """``want.n_samples`` documents at native length, drawn without replacement, less those that are tested.

    Raises:
        DataError: there are too few documents.
    """
    names = [str(number) for number in range(len(documents.texts))]

    def drawn(out: Collection[int]) -> list[int]:
        pool = [name for name in names if int(name) not in out]
        return [int(name) for name in draw(pool, want.n_samples, want.seed, who)]

    chosen, out = _apart(documents, drawn, leaking)
    samples = tuple(tuple(documents.tokens[number]) for number in chosen)
    texts = tuple(documents.texts[number] for number in chosen)
    return Drawn(samples, texts, documents.origin + less(out), documents.n_tokens)


def packed(documents: Documents, want: Want, who: str, leaking: Leaking = nothing) -> Drawn:
    """Documents in a seeded order without replacement, joined, cut into samples of exactly ``want.length`` tokens.

    A document goes on in the next sample where it does not end with one. ``texts`` are the documents that are used.
    Documents that are tested are passed over.

    Raises:
        DataError: there is too little text; says how many samples there are.
    """
    body = want.length - len(documents.first)
    most = documents.capacity(want.length)
    if body < 1 or most < want.n_samples:
        raise _too_little(documents, want, most, who)
    needed = want.n_samples * body
    chosen, out = _apart(documents, lambda out: _filling(documents, want, needed, out), leaking)
    row: list[int] = []
    for index in chosen:
        row.extend((*(documents.joint if row else ()), *documents.tokens[index]))
    if len(row) < needed:
        raise _too_little(documents, want, len(row) // body, who)
    samples = tuple((*documents.first, *row[at : at + body]) for at in range(0, needed, body))
    texts = tuple(documents.texts[index] for index in chosen)
    return Drawn(samples, texts, documents.origin + less(out), documents.n_tokens)


def _filling(documents: Documents, want: Want, needed: int, out: Collection[int]) -> list[int]:
    """Documents in the seeded order, less ``out``, until they fill ``needed`` tokens."""
    found: list[int] = []
    length = 0
    for index in map(int, np.random.default_rng(want.seed).permutation(len(documents.tokens))):
        if length >= needed:
            break
        if index not in out:
            length += len(documents.tokens[index]) + (len(documents.joint) if found else 0)
            found.append(index)
    return found


def _too_little(documents: Documents, want: Want, most: int, who: str) -> DataError:
    return DataError(
        who,
        f"{documents.n_tokens} tokens in {len(documents.tokens)} texts, which fill {most} samples of {want.length}",
        expected=f"at least {want.n_samples}",
        hint=FEWER,
    )


def _apart(
    documents: Documents, drawn: Callable[[Collection[int]], list[int]], leaking: Leaking
) -> tuple[list[int], set[int]]:
    """Documents as ``drawn`` says (given what is out), and those that were left out because they are tested.

    Where more than a tenth of them is tested the set is drawn as if none were: it is no text apart from the test, and
    the check that every set goes through refuses it and names the items.
    """
    first = chosen = drawn(())
    out: set[int] = set()
    while found := leaking([documents.texts[index] for index in chosen]):
        out |= {chosen[number] for number in found}
        if len(out) > max(1, MOST_LEFT_OUT * len(first)):
            return first, set()
        chosen = drawn(out)
    return chosen, out


def less(out: Collection[int]) -> str:
    """What a record says of rows that were left out."""
    return f", less {len(out)} {LEFT_OUT}" if out else ""


def shares(weights: Sequence[float], count: int) -> list[int]:
    """``count`` split by ``weights`` (largest remainders): whole numbers that add up to ``count``."""
    exact = [weight / math.fsum(weights) * count for weight in weights]
    found = [math.floor(each) for each in exact]
    by_rest = sorted(range(len(exact)), key=lambda index: (found[index] - exact[index], index))
    for index in by_rest[: count - sum(found)]:
        found[index] += 1
    return found
