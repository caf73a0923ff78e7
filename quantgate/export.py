"""``quantgate export METHOD DIR``: a directory with the quantized model that other runtimes load.

What is exported is the subject that the suite judges: it comes from the same store, under the same key, and is made
there if the suite has not made it yet. Which runtimes load it, and why one does not, is said before anything is
computed. The files are those of the store; W8A8 is rewritten into compressed-tensors' layout, and in NVFP4
layers that a runtime may fuse are given a common scale. For AutoGPTQ an output head that is tied to the embedding is
stored a second time. ``--gguf TYPE`` writes the same weights as one file for llama.cpp instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from quantgate.core.arguments import names, whole_number
from quantgate.core.errors import UsageError
from quantgate.core.progress import Progress
from quantgate.models.source import resolve_model
from quantgate.quantize.calibration.sources import CalibrationChoice
from quantgate.quantize.catalogue.methods import get_method
from quantgate.runs.preflight import Wanted, check_methods, check_options
from quantgate.store.store import Store, default_root
from quantgate.tasks.data import BUNDLED_DATA, open_data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; names and defaults are those of the suite's options."""
    choice = CalibrationChoice()
    add = parser.add_argument
    add("method", metavar="METHOD", help="a row of the method table, for example gptq4")
    add("directory", metavar="DIR", type=Path, help="where to write; must not exist, or be empty")
    add("--gguf", metavar="TYPE", help="write one GGUF file for llama.cpp, its matrices in this type, for example F16")
    add("--model", default="bundled", metavar="ID|DIR", help="16-bit original: 'bundled', a directory or a hub id")
    add("--revision", metavar="REV", help="branch, tag or commit of a hub model")
    add("--device", default="cpu", metavar="NAME", help="torch device to quantize on")
    add("--data", default="bundled", metavar="NAME|DIR", help="where calibration corpora come from")
    count = whole_number(1)
    add("--calibration", default=choice.name, metavar="NAME", help="calibration set (docs/calibration.md)")
    add("--calibration-samples", type=count, default=choice.n_samples, metavar="N", help="number of samples")
    add("--calibration-length", type=count, default=choice.length, metavar="N", help="tokens of a corpus sample")
    add(
        "--calibration-seed",
        type=whole_number(0),
        default=choice.seed,
        metavar="N",
        help="seed of the calibration draw",
    )
    add("--statistics", type=names, default=[], metavar="A,B", help="files of private shards instead of a text")
    add("--store", type=Path, metavar="DIR", help="cache of quantized models")
    add("--offline", action="store_true", help="never ask the hub")


def run(args: argparse.Namespace, progress: Progress) -> int:
    """Quantize, or take what the store has, and copy it to the directory.

    Raises:
        UsageError: an unknown method, or a directory that holds something.
        QuantgateError: see `make_subject`.
    """
    method = get_method(args.method)
    _check_type(args.gguf)
    _refuse_occupied(args.directory)
    choice = CalibrationChoice(
        args.calibration, args.calibration_samples, args.calibration_length, args.calibration_seed,
        statistics=tuple(args.statistics),
    )  # fmt: skip
    wanted = Wanted(
        model=args.model,
        revision=args.revision,
        offline=args.offline,
        device=args.device,
        calibration=choice,
        texts={"DIR": str(args.directory), "--model": args.model, "--data": args.data},
        directories={"DIR": args.directory, "--store": args.store or default_root()},
    )
    check_options(wanted)
    check_methods(wanted, [method], open_data(args.data, BUNDLED_DATA, offline=args.offline))
    store = Store(args.store or default_root(), progress)
    model = resolve_model(args.model, args.revision, store, offline=args.offline)
    from quantgate.subjects.exporting import write  # loads torch: a wrong command, and other commands, need none

    write(args, model, method, store)
    return 0


def _check_type(kind: str | None) -> None:
    from quantgate.checkpoints.gguf_export import TYPES

    if kind is not None and kind not in TYPES:
        raise UsageError("--gguf", repr(kind), expected=f"one of {', '.join(TYPES)}: the gguf library writes no others")


def _refuse_occupied(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError("DIR", f"{directory} holds something", expected="a directory that is empty or not there yet")
