"""``quantgate inspect METHOD,METHOD``: block outputs, channels and losses by layer of quantized models, side by side.

Subjects are those that the suite judges, from the same store. docs/diagnosis.md says what every number means.
"""

from __future__ import annotations

import argparse
import csv
import gc
import io
import json
from pathlib import Path
from typing import Any, Final

from quantgate.core.arguments import names, whole_number
from quantgate.core.errors import DataError, UsageError
from quantgate.core.naming import suggestion
from quantgate.core.progress import Progress
from quantgate.diagnose import add_common, check, evaluation_of
from quantgate.quantize.catalogue.methods import get_methods
from quantgate.store.store import write_atomically
from quantgate.tasks.corpora import CORPORA
from quantgate.tasks.data import BUNDLED_DATA, open_data
from quantgate.tasks.table import select_tasks

FILES: Final = ("inside.json", "inside.csv", "inside.svg")
_EPILOG: Final = "example: quantgate inspect rtn4,smoothquant8,gptq4 --limit 4 --out inside"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; names and defaults are those of the suite's options where it has them."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("methods", type=names, metavar="A,B", help="rows of the method table")
    add("--text", default="prose", metavar="NAME", help="the corpus that is read (default: prose)")
    add("--limit", type=whole_number(1), default=4, metavar="N", help="segments (default 4)")
    add("--length", type=whole_number(8), default=128, metavar="N", help="tokens of a segment (default 128)")
    add_common(parser)
    add("--out", type=Path, metavar="DIR", help=f"write {', '.join(FILES)} there")
    add("--json", action="store_true", help="everything that was found, as JSON")


def run(args: argparse.Namespace, progress: Progress) -> int:
    """Read with the reference and every method, print or write.

    Raises:
        UsageError: no such method or text, or a place that cannot be written.
        QuantgateError: a method cannot be made.
    """
    methods = get_methods(args.methods)
    data = open_data(args.data, BUNDLED_DATA, offline=args.offline)
    if args.text not in CORPORA:
        raise UsageError("--text", f"unknown text {args.text!r}", hint=suggestion(args.text, list(CORPORA)))
    tasks = select_tasks([f"perplexity_{args.text}"], data, progress.note)
    check(args, methods, data, {"--out": args.out})
    from quantgate.diagnosis.inside import COLUMNS, compared, layers_by_block, look, rows

    evaluation = evaluation_of(args, tasks, data, progress)
    segments = [tuple(item.row["tokens"][: args.length]) for item in evaluation.asked(tasks[0]).items]
    if len({len(each) for each in segments}) != 1:
        raise DataError(f"text {args.text}", "segments of several lengths", expected="a smaller --length")
    reference = evaluation.model.load("float32", args.device)
    layers = layers_by_block(reference)
    seen = look(reference, layers, segments)
    del reference
    records: list[dict[str, Any]] = []
    for method in methods:
        subject = evaluation.subject(method)
        evaluation.release()
        gc.collect()
        progress.step(f"looking into {method.id}", len(records), len(methods))
        theirs = look(subject.load("float32", args.device), layers, segments)
        records.append(compared(method, subject.record.losses, seen, theirs))
    table = [COLUMNS, *rows(records)]
    print(json.dumps(records, indent=1) if args.json else "\n".join(aligned(table)))
    if args.out is not None:
        from quantgate.diagnosis.inside_picture import svg

        texts = (json.dumps(records, indent=1) + "\n", as_csv(records), svg(records))
        for name, text in zip(FILES, texts, strict=True):
            write_atomically(args.out / name, text)
    return 0


def aligned(table: list[tuple[str, ...]]) -> list[str]:
    """Rows with columns under one another."""
    widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def as_csv(records: list[dict[str, Any]]) -> str:
    """A line a method and linear layer: loss, and the reach of input and weight before and after."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    parts = ("input_before", "input_after", "weight_before", "weight_after")
    numbers = ("kurtosis", "peak", "across")
    writer.writerow(["method", "layer", "loss", *(f"{part}_{what}" for part in parts for what in numbers)])
    for record in records:
        for name, layer in record["layers"].items():
            cells = [(layer[part] or {}).get(what, "") for part in parts for what in numbers]
            writer.writerow([record["method"], name, "" if layer["loss"] is None else layer["loss"], *cells])
    return out.getvalue()
