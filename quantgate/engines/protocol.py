"""What an engine is: whatever answers requests, and says what about it could change an answer.

A row of the table of engines tells its identity before anything is loaded, because the store is asked first; it opens a
model when an answer is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from quantgate.core.progress import Progress
from quantgate.core.requests import Generate, Likelihood, Request, Sink

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Setting:
    """How a model is run. ``dtype``: ``bfloat16``, ``float16`` or ``float32``; ``device``: ``cpu``, ``cuda:1``, ..."""

    dtype: str = "bfloat16"
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can be asked. ``losses``: of every token of a segment; ``distributions``: also what else the model
    held likely there, so that two models can be compared; ``chat_template``: applies the model's own; ``sample``: draws
    tokens as a request says, from a seed.
    """

    likelihood: bool = False
    losses: bool = False
    distributions: bool = False
    generate: bool = False
    chat_template: bool = False
    sample: bool = False

    def lacking(self, requests: Sequence[Request], *, compared: bool) -> str:
        """What ``requests`` need and the engine has not, in a few words; empty when it can answer them all."""
        for request in requests:
            if isinstance(request, Likelihood):
                able, what = self.likelihood, "log-likelihoods of given text"
            elif isinstance(request, Generate):
                able, what = self.generate, "generated text"
                if able and request.sampling is not None:
                    able, what = self.sample, "text drawn with given settings and seed"
            else:
                able, what = self.losses, "losses of every token of a text"
                if able and compared:
                    able, what = self.distributions, "distributions over the next token"
            if not able:
                return what
        return ""


@dataclass(frozen=True, slots=True)
class Kept:
    """Where distributions lie, and the digest of the ``key`` that they are tied to."""

    directory: Path
    key: str


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep the distributions of Rolling requests ``at`` a place: whole ones if ``exact``. The first of the requests
    is number ``start`` of a longer list."""

    at: Kept
    exact: bool = False
    start: int = 0


@dataclass(frozen=True, slots=True)
class Against:
    """Compare every Rolling request with what `Keep` left ``at`` a place."""

    at: Kept
    start: int = 0


Distributions: TypeAlias = Keep | Against | None


@dataclass(frozen=True, slots=True)
class Job:
    """How a list of requests is asked: ``what`` it is, for progress; in passes of ``batch_tokens`` at most (None: as
    the engine likes); and what becomes of the distributions."""

    what: str
    progress: Progress
    batch_tokens: int | None = None
    distributions: Distributions = None


class Weights(Protocol):
    """A model that can be loaded: the reference, or a subject."""

    @property
    def name(self) -> str:
        """``reference``, or the subject's: for progress."""
        ...

    @property
    def who(self) -> str:
        """For messages."""
        ...

    @property
    def digest_loaded(self) -> str:
        """Digest of what is loaded: two models are the same exactly when it is."""
        ...

    def load(self, dtype: str, device: str) -> PreTrainedModel:
        """The model in evaluation mode. Raises ModelError when it cannot be loaded."""
        ...

    def check_unchanged(self) -> None:
        """Raise ModelError when its files are no longer those that were digested."""
        ...


class Engine(Protocol):
    """An open model."""

    def run(self, requests: Sequence[Request], sink: Sink, job: Job) -> Mapping[str, float]:
        """Answer all requests, calling ``sink(index, response)`` once for each, in any order.

        Returns:
            ``seconds`` of wall time and ``tokens`` read and generated.

        Raises:
            DataError: a request cannot be answered at all; nothing was run then.
        """
        ...


class EngineRow(Protocol):
    """A kind of engine."""

    @property
    def name(self) -> str:
        """What it is called in records."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can be asked."""
        ...

    @property
    def comparison(self) -> int:
        """Counts up whenever the same distributions would be kept or compared otherwise; 0 without distributions."""
        ...

    def identity(self, model: Path, who: str, setting: Setting) -> dict[str, Any]:
        """Everything about the engine that could change an answer of the model whose configuration lies in ``model``;
        JSON-able, part of keys and provenance. ``batch_tokens`` in it holds for every run.
        """
        ...

    def open(self, weights: Weights, tokenizer: PreTrainedTokenizerBase, setting: Setting) -> Engine:
        """Load ``weights``; ``tokenizer`` (always the reference's) reads what is generated."""
        ...
