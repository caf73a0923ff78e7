"""A model's tokenizer and context length as what encodes prompts for it."""

from __future__ import annotations

from pathlib import Path

from quantgate.core.requests import Sampling
from quantgate.models.ending import end_tokens
from quantgate.models.loading import context_length, load_tokenizer
from quantgate.tasks.prompts import SEED, Prompts
from quantgate.tasks.remembered import Remembered


def open_prompts(
    path: Path, name: str, *, tokenizer: Remembered | None = None, shipped: Sampling | None = None, seed: int = SEED
) -> Prompts:
    """What encodes prompts for the model in ``path``; they end where its files say that answers end.

    Args:
        path: folder of the model.
        name: what messages call it.
        tokenizer: its tokenizer, where what it said before is remembered.
        shipped: how its files say that answers are drawn, where something is drawn that way.
        seed: of what is drawn.

    Raises:
        ModelError: tokenizer or configuration cannot be read.
    """
    if tokenizer is None:
        loaded = load_tokenizer(path, name)
        return Prompts(loaded, context_length(path, name), name, end_tokens(path, loaded), shipped=shipped, seed=seed)
    ends = tokenizer.said("ends", lambda: end_tokens(path, tokenizer.real))
    length = tokenizer.said("context", lambda: context_length(path, name))
    return Prompts(tokenizer, length, name, tuple(ends), shipped=shipped, seed=seed)
