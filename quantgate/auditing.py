"""``quantgate audit PLACE [OTHER]``: what is really in the files of a checkpoint, before anything is scored.

With one place, the checkpoint is looked into beside its 16-bit original (``--model``; ``none`` for no comparison). With
two, a table of what differs between them: both may be quantized. Nothing is executed and nothing is unpickled. The exit
code is 1 when a finding is an error, and 0 otherwise.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.core.errors import UsageError
from quantgate.core.memory import large_pages
from quantgate.core.progress import Progress
from quantgate.models.hub import is_on_hub, local
from quantgate.store.store import Store, default_root

if TYPE_CHECKING:
    from quantgate.checkpoints.differences import Difference
    from quantgate.checkpoints.findings import Audit

_NONE: Final = "none"
_WORST: Final = 5
_EPILOG: Final = "example: quantgate audit ./Model-AWQ --model org/Model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("place", metavar="PLACE", help="a checkpoint: a directory, a GGUF file, or hub:ORG/REPO@REV")
    add("other", metavar="OTHER", nargs="?", help="a second one of the same model: show what differs")
    add(
        "--model", default="bundled", metavar="ID|DIR", help="16-bit original: 'bundled', a directory, a hub id, 'none'"
    )
    add("--revision", metavar="REV", help="branch, tag or commit of a hub model")
    add("--json", action="store_true", help="everything that was found, as JSON")
    add("--store", type=Path, metavar="DIR", help="cache of models")
    add("--offline", action="store_true", help="never ask the hub")


def run(args: argparse.Namespace, progress: Progress) -> int:
    """Audit one checkpoint, or compare two.

    Raises:
        UsageError: a place that is not there.
        ModelError: files that are missing, damaged or of no known layout.
    """
    large_pages()  # matrices are unpacked one after the other, each looked at once
    args.place, args.other = (_found(place, args.offline) for place in (args.place, args.other))
    reference = _reference(args, progress)
    if args.other is not None:
        from quantgate.checkpoints.differences import differences

        rows = differences(args.place, args.other, reference)
        print(json.dumps([row.as_record() for row in rows], indent=2) if args.json else "\n".join(_table(rows)))
        return 0
    from quantgate.checkpoints.audit import whole_audit
    from quantgate.checkpoints.findings import ERROR

    found = whole_audit(args.place, reference, str(args.place))
    print(json.dumps(found.as_record(), indent=2) if args.json else "\n".join(_lines(found)))
    return int(bool(found.of_level(ERROR)))


def _found(place: str | None, offline: bool) -> Path | None:
    if place is None:
        return None
    if is_on_hub(place):
        return local(place, offline=offline)
    if not Path(place).exists():
        raise UsageError("PLACE", f"{place!r} is not there", expected="a directory, a GGUF file, or hub:ORG/REPO@REV")
    return Path(place)


def _reference(args: argparse.Namespace, progress: Progress) -> Path | None:
    if args.model == _NONE:
        return None
    from quantgate.models.source import resolve_model

    store = Store(args.store or default_root(), progress)
    return resolve_model(args.model, args.revision, store, offline=args.offline).path


def _lines(found: Audit) -> Iterator[str]:
    """The audit for a terminal: what was found, and the matrices that are furthest off."""
    counts = Counter(each.level for each in found.findings)
    yield f"layout {found.layout}; {counts['error']} errors, {counts['warning']} warnings"
    for each in found.findings:
        yield f"{each.level:8} {each.code:18} {each.sentence}"
    measured = [(row.error / row.least, row) for row in found.matrices if row.error is not None and row.least]
    for times, row in sorted(measured, key=lambda each: -each[0])[:_WORST]:
        yield f"{'':8} {row.module}: error {row.error:.2%}, {times:.1f} times that of the nearest values of such a grid"


def _table(rows: list[Difference]) -> Iterator[str]:
    if not rows:
        yield "nothing differs"
    columns: list[tuple[str, str, str, Any]] = [("what", "first", "second", "distance")]
    columns += [
        (row.what, row.first, row.second, "" if row.distance is None else f"{row.distance:.3%}") for row in rows
    ]
    widths = [max(len(str(line[column])) for line in columns) for column in range(3)]
    for line in columns:
        yield "  ".join(
            [*(f"{each:{width}}" for each, width in zip(line[:3], widths, strict=True)), str(line[3])]
        ).rstrip()
