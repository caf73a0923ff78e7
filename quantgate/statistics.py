"""``quantgate statistics``: sums over a private text, from which others quantize without seeing it.

The text stays where it lies. What leaves is a file of second moments of the 16-bit model's inputs, which says a lot
about the text: docs/calibration.md says what.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from quantgate.core.arguments import whole_number
from quantgate.core.errors import UsageError
from quantgate.core.progress import Progress
from quantgate.core.words import say
from quantgate.models.source import resolve_model
from quantgate.quantize.calibration.sources import CalibrationChoice
from quantgate.quantize.calibration.table import source_called
from quantgate.runs.preflight import Wanted, check_options, check_writable
from quantgate.store.store import Store, default_root

PRECISIONS = ("float64", "float32", "16", "8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = "example: quantgate statistics --data ward-3.jsonl:note --out ward-3.safetensors"
    add = parser.add_argument
    add("--data", required=True, metavar="SHARD", help="FILE.txt, FILE.jsonl or FILE.jsonl:FIELD")
    add("--out", required=True, type=Path, metavar="FILE", help="where to write the sums (safetensors)")
    add("--model", default="bundled", metavar="ID|DIR", help="16-bit original: 'bundled', a directory or a hub id")
    add("--revision", metavar="REV", help="branch, tag or commit of a hub model")
    add("--calibration-length", type=whole_number(2), default=512, metavar="N", help="tokens of a sample")
    add("--precision", default="float32", choices=PRECISIONS, help="of the sums: exact, float32, or 16- or 8-bit codes")
    add("--store", type=Path, metavar="DIR", help="cache of models")
    add("--offline", action="store_true", help="never ask the hub")


def run(args: argparse.Namespace, progress: Progress) -> int:
    """Collect and write. All of the shard's text is used, cut into samples.

    Raises:
        UsageError: no such text, or a file in the place of the output.
        QuantgateError: the model or the text cannot be read.
    """
    source = source_called(args.data)
    if not hasattr(source, "path"):
        raise UsageError("--data", f"{args.data!r} is no file", expected="FILE.txt or FILE.jsonl")
    if args.out.exists():
        raise UsageError("--out", f"{args.out} is there already", expected="a new file")
    check_writable(args.out.absolute().parent, "--out")
    check_options(
        Wanted(
            model=args.model,
            revision=args.revision,
            offline=args.offline,
            calibration=CalibrationChoice(args.data, length=args.calibration_length),
            texts={"--data": args.data, "--out": str(args.out), "--model": args.model},
            directories={"--store": args.store or default_root()},
        )
    )
    store = Store(args.store or default_root(), progress)
    model = resolve_model(args.model, args.revision, store, offline=args.offline)
    from quantgate.subjects.sharding import write  # loads torch

    facts, error = write(source, model, args.out, args.calibration_length, args.precision, progress)
    lossy = f"; its codes change a matrix by at most {error:.1e} (relative)" if error else ""
    say(f"{args.out}: {facts.n_tokens} tokens in {facts.n_samples} samples, {args.precision}{lossy}")
    return 0
