"""What the files of a foreign checkpoint say against it before it is run: tensors that are missing, weights that cannot
have come from rounding the reference's.

The answers would show most of this too, but only on a task that is sensitive to it: a layer without effect can pass a
coarse margin.
"""

from __future__ import annotations

from pathlib import Path

from quantgate.checkpoints.findings import ERROR, Audit, from_record
from quantgate.core.errors import ModelError
from quantgate.core.keys import AuditKey
from quantgate.core.words import counted
from quantgate.models.digest import HEAD
from quantgate.models.loading import empty_model, read_config
from quantgate.models.source import ModelFiles
from quantgate.models.tensors import stored
from quantgate.store import bound
from quantgate.store.store import Store


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
