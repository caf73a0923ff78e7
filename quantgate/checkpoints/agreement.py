"""Whether two declarations of one checkpoint leave the same matrices in 16 bit, each read as its own runtime reads it.

ModelOpt's ``exclude_modules`` are wildcards over whole names, compressed-tensors' ``ignore`` names or regular
expressions, AutoAWQ's ``modules_to_not_convert`` parts of names: the lists are compared by what they do to the matrices
that are stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from quantgate.checkpoints.fields import Declared
from quantgate.checkpoints.findings import named
from quantgate.core.errors import ModelError
from quantgate.models.tensors import StoredTensor

_LISTS: Final = (
    "ignore", "exclude_modules", "modules_to_not_convert", "ignored_layers", "llm_int8_skip_modules", "skip_modules",
    "modules_in_block_to_quantize", "dynamic", "extra_config",
)  # fmt: skip
_MATRIX: Final = re.compile(r"(?:.*\.\d+\..*|lm_head)")


def check_modules(
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    read: Callable[[Mapping[str, Any]], Declared],
    files: Callable[[], Mapping[str, StoredTensor]],
    place: str,
    who: str,
) -> None:
    """Check that both keep the same matrices; where only one of them lists modules, the other says nothing of it.

    Args:
        ours: ``quantization_config`` of config.json.
        theirs: what ``place`` says, in the same spelling.
        read: a declaration as its runtime reads it.
        files: the stored tensors, asked for only where the lists are not the same words.
        place: where ``theirs`` stands.
        who: for messages.

    Raises:
        ModelError: a matrix is quantized by one and in 16 bit by the other, or ``theirs`` cannot be read.
    """
    lists = [{name: each[name] for name in _LISTS if each.get(name)} for each in (ours, theirs)]
    if not all(lists) or _words(lists[0]) == _words(lists[1]):
        return
    expected, hint = "one declaration, or two that agree", "correct the one that is wrong"
    try:
        kept = [read(each).kept for each in (ours, {"quant_method": ours.get("quant_method"), **theirs})]
    except ModelError as error:
        found = (
            f"{', '.join(lists[1])} in {place} is not what {', '.join(lists[0])} in config.json says, and {error.found}"
        )
        raise ModelError(who, found, expected=expected, hint=hint) from error
    if apart := [name for name in _matrices(files()) if kept[0](name) != kept[1](name)]:
        first, second = ("16 bit", "quantized") if kept[0](apart[0]) else ("quantized", "16 bit")
        found = f"{first} by {', '.join(lists[0])} in config.json, {second} by {', '.join(lists[1])} in {place}"
        raise ModelError(who, f"{named(apart)}: {found}", expected=expected, hint=hint)


def _words(lists: Mapping[str, Any]) -> list[str] | None:
    """All entries of plain lists, sorted; None where one of them is more than that."""
    values = list(lists.values())
    if not all(isinstance(each, list) for each in values):
        return None
    return sorted(str(entry) for each in values for entry in each)


def _matrices(files: Mapping[str, StoredTensor]) -> Iterator[str]:
    """Modules inside the blocks, and the head, that hold a tensor of two dimensions."""
    names: Iterable[str] = (name.rpartition(".")[0] for name, tensor in files.items() if len(tensor.shape) > 1)
    return (name for name in dict.fromkeys(names) if _MATRIX.fullmatch(name))
