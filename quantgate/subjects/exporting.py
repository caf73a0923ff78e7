"""What ``quantgate export`` does once its arguments are checked: quantize, copy, rewrite for the runtimes."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantgate.checkpoints.checkpoint import ties_its_head, untie
from quantgate.checkpoints.gguf_export import FLOATS, check_gguf, write_gguf
from quantgate.checkpoints.mixed import mixed_config
from quantgate.checkpoints.nvfp4 import share_scales
from quantgate.checkpoints.readers import linear_shapes, readers
from quantgate.checkpoints.record import bytes_on_disk
from quantgate.checkpoints.w8a8 import convert, is_w8a8, w8a8_config
from quantgate.core.errors import UsageError
from quantgate.core.words import say
from quantgate.models.digest import HEAD
from quantgate.models.files import read_json
from quantgate.models.source import ModelFiles
from quantgate.quantize.base import Method
from quantgate.quantize.calibration.samples import Calibration
from quantgate.quantize.calibration.sources import CalibrationChoice, build_calibration
from quantgate.quantize.catalogue.methods import algorithm_of
from quantgate.quantize.settings import FloatSettings
from quantgate.store.store import Store
from quantgate.subjects.subject import Subject, Workshop, make_subject
from quantgate.tasks.data import BUNDLED_DATA, open_data
from quantgate.tasks.opening import open_prompts


def write(args: argparse.Namespace, model: ModelFiles, method: Method, store: Store) -> None:
    """Quantize, or take what the store has, and copy it to the directory. Raises QuantgateError as `make_subject`."""
    if args.gguf:
        _check_gguf(model, method, args.gguf)
    found = [] if args.gguf else readers(export_config(method), linear_shapes(model.path, method.id))
    for reader in found:
        say(str(reader))
    calibration = _calibration(args, model) if method.needs_calibration else None
    subject = make_subject(model, method, calibration, Workshop(store, args.device))
    if args.gguf:
        _write_gguf(subject, model, args.gguf, args.directory)
        return
    rewrite = rewrite_of(method)
    if rewrite is None and ties_its_head(subject.path) and any(reader.needs_head for reader in found):
        say(f"{HEAD} is stored beside the embedding it is tied to: AutoGPTQ leaves it at zero otherwise")
        rewrite = untie
    _copy(subject.path, args.directory, rewrite)
    size = bytes_on_disk(args.directory)
    say(f"{args.directory}: {method.id}, {subject.record.bits_effective:.3f} bits a weight, {size} bytes")


def _check_gguf(model: ModelFiles, method: Method, kind: str) -> None:
    """Say what the file will be. Raises MethodError where there can be none."""
    if method.activations or method.kv_cache:
        raise UsageError("--gguf", f"{method.id} quantizes activations or the cache", expected="weights alone")
    check_gguf(read_json(model.path / "config.json", method.id), kind, method.id)
    if kind not in FLOATS:
        say(f"{kind} rounds the weights of {method.id} a second time: judge the file itself (--candidate NAME=FILE)")


def _write_gguf(subject: Subject, model: ModelFiles, kind: str, directory: Path) -> None:
    from quantgate.checkpoints.layouts.table import open_checkpoint

    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"{subject.name}-{kind}.gguf"
    with tempfile.TemporaryDirectory(dir=directory, prefix=".gguf-") as scratch:
        work = Path(scratch) / target.name
        write_gguf(open_checkpoint(subject.path, model.path, subject.who), model.path, kind, work, subject.who)
        work.rename(target)
    say(f"{target}: {subject.name} in {kind}, {target.stat().st_size} bytes")


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
    prompts = open_prompts(model.path, model.id)
    choice = CalibrationChoice(
        args.calibration, args.calibration_samples, args.calibration_length, args.calibration_seed,
        statistics=tuple(args.statistics),
    )  # fmt: skip
    data = open_data(args.data, BUNDLED_DATA, offline=args.offline)
    return build_calibration(choice, data, open_data("bundled", BUNDLED_DATA, offline=True), prompts)


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
