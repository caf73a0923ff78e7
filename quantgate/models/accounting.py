"""Every tensor accounted for, both ways: what the architecture needs was in the files, and what was there has a place.

transformers initialises what is missing at random, drops what it has no place for, and goes on. Here both stop the run.
What an architecture itself declares as ignorable (``_keys_to_ignore_on_load_*``) and tied weights are left out by
transformers before it reports. A bias of zeros without a place is left out here: it adds nothing (older packers of
GPTQ checkpoints write one for every layer).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from quantgate.core.errors import ModelError
from quantgate.core.words import counted

if TYPE_CHECKING:
    from torch import Tensor


REPORTING: Final = {"output_loading_info": True, "ignore_mismatched_sizes": True}
"""How to call ``from_pretrained``: weights of another shape are reported with their names, not only counted."""


def check_loaded(model: Any, info: Mapping[str, Any], who: str, tensor: Callable[[str], Tensor]) -> None:
    """Check what ``from_pretrained`` reports about ``model`` (called as `REPORTING` says).

    Args:
        model: what it gave.
        info: its report.
        who: for messages.
        tensor: a tensor of the files by its name there.

    Raises:
        ModelError: weights are missing, of another shape, without a place, not finite, or a tied head is none.
    """
    other = (f"{name} is {tuple(stored)}, not {tuple(wanted)}" for name, stored, wanted in info["mismatched_keys"])
    missing = sorted(info["missing_keys"]) + sorted(other)
    if missing:
        raise ModelError(
            who,
            f"{counted(len(missing), 'weight is', 'weights are')} missing or of another shape ({_named(missing)})",
            expected="every weight of the architecture in the safetensors files",
            hint="finish the download, or compare config.json with the weights",
        )
    check_placed(sorted(name for name in info["unexpected_keys"] if not adds_nothing(name, tensor)), who)
    if errors := list(info["error_msgs"]):
        raise ModelError(
            who, f"{counted(len(errors), 'weight')} could not be loaded ({_named(errors)})", hint="check the files"
        )
    _check_head(model, who)
    check_finite(model, who)


def check_placed(names: Iterable[str], who: str) -> None:
    """Refuse tensors that nothing reads. Raises ModelError with their names."""
    names = list(names)
    if names:
        raise ModelError(
            who,
            f"{counted(len(names), 'tensor has', 'tensors have')} no place in the architecture ({_named(names)})",
            expected="only weights that config.json's architecture reads",
            hint="compare config.json with the weights: what they hold would silently be left out",
        )


def check_finite(model: Any, who: str) -> None:
    """Refuse weights that are no numbers. Raises ModelError with their names."""
    import torch

    broken = [  # one-byte floats are packed weights: their scales are checked where they are unpacked
        name
        for name, weight in model.named_parameters()
        if weight.is_floating_point() and weight.itemsize > 1 and not bool(torch.isfinite(weight).all())
    ]
    if broken:
        raise ModelError(
            who, f"{counted(len(broken), 'weight is', 'weights are')} not finite ({_named(broken)})",
            expected="numbers",
            hint="they were NaN or infinite in the files, or became so in this --dtype",
        )  # fmt: skip


def _check_head(model: Any, who: str) -> None:
    """transformers unties a head whose stored copy differs from the embedding; other readers drop the copy."""
    text = model.config.get_text_config(decoder=True)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if not getattr(text, "tie_word_embeddings", False) or head is None or embedding is None:
        return
    if getattr(head, "weight", None) is not getattr(embedding, "weight", None):
        raise ModelError(
            who,
            "tie_word_embeddings is set, but the output head is stored with other values than the embedding",
            expected="one matrix for both",
            hint="set tie_word_embeddings to false, or store the embedding once",
        )


def adds_nothing(name: str, tensor: Callable[[str], Tensor]) -> bool:
    """Whether a tensor without a place is a bias of zeros."""
    return name.endswith(".bias") and not bool(tensor(name).any())


def _named(names: list[str]) -> str:
    return ", ".join(names[:3])
