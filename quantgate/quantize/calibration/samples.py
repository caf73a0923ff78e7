"""Calibration sets: the text a method may look at, as token samples with a name, a domain and a digest.

Default (as in paper A's code): complete chat dialogues at native length, no padding, no
concatenation; 128 drawn without replacement by a seeded numpy generator. For text corpora the GPTQ convention:
fixed-length segments cut from the joined text at seeded positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantgate.core.errors import DataError


@dataclass(frozen=True)
class Calibration:
    """``samples``: token ids per sample; ``texts``: what they say; ``seed``: of the draw; ``source``: which split."""

    name: str
    domain: str
    samples: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    seed: int
    source: str = ""

    @property
    def n_tokens(self) -> int:
        """Total number of tokens over all samples."""
        return sum(len(sample) for sample in self.samples)

    @property
    def digest(self) -> str:
        """sha256 over the token ids: two sets with equal digests calibrate identically."""
        digest = hashlib.sha256()
        for sample in self.samples:
            digest.update(np.asarray(sample, dtype="<i8").tobytes() + b"|")
        return digest.hexdigest()

    def as_record(self) -> dict[str, Any]:
        """What a report says about the set."""
        return {
            "name": self.name,
            "domain": self.domain,
            "n_samples": len(self.samples),
            "n_tokens": self.n_tokens,
            "digest": self.digest,
            "seed": self.seed,
            "source": self.source,
        }


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
        raise DataError(who, f"{len(tokens)} tokens of text", expected=f"more than one segment of {length}")
    starts = np.random.default_rng(seed).integers(0, len(tokens) - length, size=n_samples)
    return [tuple(tokens[start : start + length]) for start in starts]
