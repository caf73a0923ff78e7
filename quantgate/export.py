"""``quantgate export METHOD DIR``: a directory with the quantized model that other runtimes load.

What is exported is the subject that the suite judges: it comes from the same store, under the same key, and is made
there if the suite has not made it yet. Which runtimes load it, and why one does not, is said before anything is
computed. The files are those of the store; W8A8 is rewritten into compressed-tensors' layout, and in NVFP4
layers that a runtime may fuse are given a common scale. For AutoGPTQ an output head that is tied to the embedding is
stored a second time.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantgate.checkpoints.checkpoint import bytes_on_disk, ties_its_head, untie
from quantgate.checkpoints.mixed import mixed_config
from quantgate.checkpoints.nvfp4 import share_scales
from quantgate.checkpoints.readers import linear_shapes, readers
from quantgate.checkpoints.w8a8 import convert, is_w8a8, w8a8_config
from quantgate.core.arguments import whole_number
from quantgate.core.errors import UsageError
from quantgate.core.progress import Progress
from quantgate.core.words import say
from quantgate.models.digest import HEAD
from quantgate.models.loading import context_length, load_tokenizer
from quantgate.models.source import ModelFiles, resolve_model
from quantgate.quantize.base import Method
from quantgate.quantize.calibration.samples import Calibration
from quantgate.quantize.calibration.sources import NAMES, CalibrationChoice, build_calibration
from quantgate.quantize.catalogue.methods import algorithm_of, get_method
from quantgate.quantize.settings import FloatSettings
from quantgate.runs.preflight import Wanted, check_methods, check_options
from quantgate.store.store import Store, default_root
from quantgate.subjects.subject import Workshop, make_subject
from quantgate.tasks.data import BUNDLED_DATA, open_data
from quantgate.tasks.prompts import Prompts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; names and defaults are those of the suite's options."""
    choice = CalibrationChoice()
    add = parser.add_argument
    add("method", metavar="METHOD", help="a row of the method table, for example gptq4")
    add("directory", metavar="DIR", type=Path, help="where to write; must not exist, or be empty")
    add("--model", default="bundled", metavar="ID|DIR", help="16-bit original: 'bundled', a directory or a hub id")
    add("--revision", metavar="REV", help="branch, tag or commit of a hub model")
    add("--device", default="cpu", metavar="NAME", help="torch device to quantize on")
    add("--data", default="bundled", metavar="NAME|DIR", help="where calibration corpora come from")
    count = whole_number(1)
    add("--calibration", default=choice.name, choices=NAMES, help="calibration set")
    add("--calibration-samples", type=count, default=choice.n_samples, metavar="N", help="number of samples")
    add("--calibration-length", type=count, default=choice.length, metavar="N", help="tokens of a corpus sample")
    add(
        "--calibration-seed",
        type=whole_number(0),
        default=choice.seed,
        metavar="N",
        help="seed of the calibration draw",
    )
    add("--store", type=Path, metavar="DIR", help="cache of quantized models")
    add("--offline", action="store_true", help="never ask the hub")


def run(args: argparse.Namespace, progress: Progress) -> int:
    """Quantize, or take what the store has, and copy it to the directory.

    Raises:
        UsageError: an unknown method, or a directory that holds something.
        QuantgateError: see `make_subject`.
    """
    method = get_method(args.method)
    _refuse_occupied(args.directory)
    choice = CalibrationChoice(
        args.calibration, args.calibration_samples, args.calibration_length, args.calibration_seed
    )
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
    found = readers(export_config(method), linear_shapes(model.path, method.id))
    for reader in found:
        say(str(reader))
    calibration = _calibration(args, model) if method.needs_calibration else None
    subject = make_subject(model, method, calibration, Workshop(store, args.device))
    rewrite = rewrite_of(method)
    if rewrite is None and ties_its_head(subject.path) and any(reader.needs_head for reader in found):
        say(f"{HEAD} is stored beside the embedding it is tied to: AutoGPTQ leaves it at zero otherwise")
        rewrite = untie
    _copy(subject.path, args.directory, rewrite)
    size = bytes_on_disk(args.directory)
    say(f"{args.directory}: {method.id}, {subject.record.bits_effective:.3f} bits a weight, {size} bytes")
    return 0


def export_config(method: Method) -> dict[str, Any]:
    """``quantization_config`` of what an export by ``method`` writes."""
    if is_w8a8(method):
        return w8a8_config()
    if method.activations or method.kv_cache:
        return mixed_config({}, None)
    return algorithm_of(method).checkpoint_config()


def rewrite_of(method: Method) -> Callable[[Path, Path], None] | None:
    """What turns a copy (second argument) of the subject's files into what is exported; None: they are it already."""
    if is_w8a8(method):
        return convert
    return share_scales if method.settings == FloatSettings("nvfp4") else None


def _calibration(args: argparse.Namespace, model: ModelFiles) -> Calibration:
    limit = context_length(model.path, model.id)
    prompts = Prompts(load_tokenizer(model.path, model.id), limit, model.id)
    choice = CalibrationChoice(
        args.calibration, args.calibration_samples, args.calibration_length, args.calibration_seed
    )
    data = open_data(args.data, BUNDLED_DATA, offline=args.offline)
    return build_calibration(choice, data, open_data("bundled", BUNDLED_DATA, offline=True), prompts)


def _refuse_occupied(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError("DIR", f"{directory} holds something", expected="a directory that is empty or not there yet")


def _copy(source: Path, target: Path, rewrite: Callable[[Path, Path], None] | None) -> None:
    """All files but the store's own note, then rewritten; the directory appears as a whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        work = Path(scratch) / "export"
        shutil.copytree(source, work, ignore=shutil.ignore_patterns("entry.json"))
        if rewrite:
            rewrite(source, work)
        for file in work.iterdir():
            file.chmod(0o644)  # safetensors makes files that only their owner can read
        if target.exists():
            target.rmdir()
        work.rename(target)
