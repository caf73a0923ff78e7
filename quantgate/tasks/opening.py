"""A model's tokenizer and context length as what encodes prompts for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantgate.core.requests import Sampling
from quantgate.models.ending import end_tokens
from quantgate.models.loading import context_length, load_tokenizer
from quantgate.tasks.prompts import SEED, Prompts


def open_prompts(
    path: Path, name: str, *, tokenizer: Any = None, shipped: Sampling | None = None, seed: int = SEED
) -> Prompts:
    """What encodes prompts for the model in ``path``; they end where its files say that answers end.

    Args:
        path: folder of the model.
        name: what messages call it.
        tokenizer: its tokenizer, where it is loaded already.
        shipped: how its files say that answers are drawn, where something is drawn that way.
        seed: of what is drawn.

    Raises:
        ModelError: tokenizer or configuration cannot be read.
    """
    loaded = load_tokenizer(path, name) if tokenizer is None else tokenizer
    ends = end_tokens(path, loaded)
    return Prompts(loaded, context_length(path, name), name, ends, shipped=shipped, seed=seed)
