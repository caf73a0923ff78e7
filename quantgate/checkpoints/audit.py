"""What the files of a foreign checkpoint say against it before it is run: tensors that are missing, weights that cannot
have come from rounding the reference's.

The answers would show most of this too, but only on a task that is sensitive to it: a layer without effect can pass a
coarse margin.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from quantgate.checkpoints import cache_scales
from quantgate.checkpoints.findings import ERROR, FACT, LEVELS, WARNING, Audit, Finding, from_record, named
from quantgate.core.errors import ModelError
from quantgate.core.keys import AuditKey
from quantgate.core.words import counted
from quantgate.models.digest import HEAD
from quantgate.models.files import read_json
from quantgate.models.loading import empty_model, read_config
from quantgate.models.quantized import quantized_tensors
from quantgate.models.source import ModelFiles
from quantgate.models.tensors import stored
from quantgate.store import bound
from quantgate.store.store import Store

_BLOCK_MATRIX: Final = re.compile(r".*\.\d+\..*\.weight")


def whole_audit(place: Path, reference: Path | None, who: str) -> Audit:
    """Everything that can be said about ``place`` without running it: tensors, declaration, and what lies beside.

    Raises:
        ModelError: files that are missing, damaged or of no known layout.
    """
    from quantgate.checkpoints import inspection  # loads torch
    from quantgate.checkpoints.beside import beside

    more: list[Finding] = []
    if (place / "config.json").is_file():
        read_json(place / "config.json", who)  # before libraries do, which read whatever is there
        more += _claims(place, reference, who)
        if reference is not None:
            more += [*_missing(reference, place, who), *beside(place, reference, who)]
    found = inspection.inspect(place, reference, who)
    findings = sorted([*more, *found.findings], key=lambda each: LEVELS.index(each.level))
    return replace(found, findings=tuple(findings))


def _missing(reference: Path, place: Path, who: str) -> Iterator[Finding]:
    try:
        check_complete(reference, place, who)
    except ModelError as error:
        yield Finding("missing", ERROR, error.found)


def _claims(place: Path, reference: Path | None, who: str) -> Iterator[Finding]:
    """What is stored in few bits and what in 16, against what the configuration says of both."""
    from quantgate.checkpoints.declared import read_declared
    from quantgate.checkpoints.layouts.table import open_checkpoint

    try:
        declared = read_declared(place, who)
    except ModelError as error:
        yield Finding("not_scored", WARNING, f"its declaration is not computed here: {error.found}")
        return
    codes = list(quantized_tensors(place)) if declared.reader == "transformers" and declared.bits is None else []
    if codes:
        sentence = f"{codes[0][0]} is stored in {codes[0][1]}, but config.json has no quantization_config"
        yield Finding("no_declaration", ERROR, sentence, tuple(name for name, _ in codes))
    if declared.beside:
        sentence = (
            f"no quantization_config in config.json; {declared.beside} declares it, which transformers does not read"
        )
        yield Finding("declared_beside", FACT, sentence)
    checkpoint = open_checkpoint(place, reference, who)
    if cache_scales.is_read(declared):
        yield from cache_scales.findings(checkpoint, declared, who)
    if reference is not None:
        known = stored(reference, who).keys() | {HEAD}
        extra = tuple(name for name in checkpoint.plain if name not in known)
        if extra and not codes:
            yield Finding("unplaced", WARNING, f"tensors without a place: {named(extra)}", extra)
    if against := [name for name in checkpoint.modules if declared.kept(name)]:
        sentence = f"{named(against)} are stored quantized, and the configuration keeps them in 16 bit"
        yield Finding("declared_16_bit", ERROR, sentence, tuple(against))
    if not checkpoint.modules:
        return
    inside = {
        name.removesuffix(".weight"): math.prod(shape)
        for name, (_, shape) in checkpoint.plain.items()
        if len(shape) == 2 and _BLOCK_MATRIX.fullmatch(name)
    }
    if kept := tuple(name for name in inside if declared.kept(name)):
        quantized = sum(math.prod(each.shape) for each in checkpoint.modules.values())
        share = sum(inside[name] for name in kept) / (quantized + sum(inside.values()))
        yield Finding("kept", FACT, f"declared to stay in 16 bit: {named(kept)} ({share:.0%} of the weights)", kept)
    if lacking := tuple(name for name in inside if name not in kept):
        sentence = f"{named(lacking)} are declared quantized, and stored in 16 bit"
        yield Finding("not_quantized", WARNING, sentence, lacking)


def check_complete(reference: Path, candidate: Path, who: str) -> None:
    """Check, from headers alone, that every weight the architecture needs is in the candidate's files in some form.

    A matrix may be there as any tensors under its module's name. Whether each of them has a place is known once they
    are loaded (`accounting`).

    Raises:
        ModelError: names the weights that are missing.
    """
    config = read_config(candidate, who)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = empty_model(config, who)
    ours, theirs = stored(reference, who), stored(candidate, who)
    packed = {name.rpartition(".")[0] for name in theirs if not name.endswith(".bias")}
    packed |= {name.rpartition(".")[0] for name in packed}  # ``up_proj.weight.absmax``
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    missing = [
        name
        for name in model.state_dict()
        if (name in ours or name == HEAD)  # others are converted while they are loaded
        and name not in theirs
        and not (name in tied and tied[name] in theirs)
        and not (name.endswith(".weight") and name.removesuffix(".weight") in packed)
    ]
    if missing:
        raise ModelError(
            who,
            f"{counted(len(missing), 'weight is', 'weights are')} missing ({', '.join(missing[:3])})",
            expected="every weight of the architecture, quantized or not",
            hint="finish the download, or write the checkpoint again",
        )


def audit_of(reference: ModelFiles, candidate: Path, weights: str, store: Store, who: str) -> Audit:
    """The audit of the candidate whose digest is ``weights``; kept in the store.

    Raises:
        ModelError: an incomplete layer.
    """
    from quantgate.checkpoints import inspection  # loads torch

    key = AuditKey(reference=reference.digest.weights, subject=weights, claims="files", version=inspection.VERSION)

    def build(target: Path) -> None:
        found = inspection.inspect(candidate, reference.path, who)
        bound.write_json(target / "problems.json", found.as_record(), key.digest)

    entry = store.fetch(key, build, what=f"the audit of {who}")
    return from_record(entry.json("problems.json"))


def audited(reference: ModelFiles, candidate: Path, weights: str, store: Store, who: str) -> list[str]:
    """What is wrong with the candidate, in sentences: it is not scored then. Raises ModelError."""
    return [each.sentence for each in audit_of(reference, candidate, weights, store, who).of_level(ERROR)]


def weight_problems(reference: Path, candidate: Path) -> list[str]:
    """What is wrong with the checkpoint in ``candidate``, looked into now; directories. Raises ModelError."""
    from quantgate.checkpoints import inspection

    return [each.sentence for each in inspection.inspect(candidate, reference, str(candidate)).of_level(ERROR)]
