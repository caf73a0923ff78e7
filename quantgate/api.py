"""``quantgate.quantize``: one model by one method, from Python."""

from __future__ import annotations

from pathlib import Path

from quantgate.core.progress import Progress, Silent
from quantgate.models.source import ModelFiles, resolve_model
from quantgate.quantize.base import Method
from quantgate.quantize.calibration.samples import Calibration
from quantgate.quantize.calibration.sources import CalibrationChoice, build_calibration
from quantgate.quantize.catalogue.methods import get_method
from quantgate.runs.preflight import Wanted, check_before
from quantgate.store.store import Store, default_root
from quantgate.subjects.subject import Subject, Workshop, make_subject
from quantgate.tasks.data import BUNDLED_DATA, DataSource, open_data
from quantgate.tasks.opening import open_prompts


def quantize(
    model: str | Path,
    method: str | Method,
    calibration: Calibration | CalibrationChoice | None = None,
    store: str | Path | None = None,
    *,
    device: str = "cpu",
    offline: bool = False,
    progress: Progress | None = None,
) -> Subject:
    """Quantize ``model``, or take it from the store if that was done before.

    Nothing that is passed is changed, and the same call gives the same files again.

    Args:
        model: ``bundled``, a directory or a hub id of a 16-bit model.
        method: id of a row of the method table, or a row (`recipe_method`, `load_recipe`).
        calibration: text a method may look at: token samples, or a named set (default: the bundled dialogues).
            Looked at only if the method needs it.
        store: directory of the cache (default: that of the suite).
        device: where to quantize.
        offline: never ask the hub.
        progress: told about long steps.

    Returns:
        The subject: ``path`` of the checkpoint, and its ``record`` (effective bits, bytes, losses, seconds).

    Raises:
        UsageError: no such method (the message names the closest ones), device or calibration set.
        ModelError: the model cannot be found or read.
        MethodError: the method cannot be applied to it.
    """
    told = progress or Silent()
    row = get_method(method) if isinstance(method, str) else method
    choice = calibration if isinstance(calibration, CalibrationChoice) else CalibrationChoice()
    wanted = Wanted(model=str(model), offline=offline, device=device, calibration=choice)
    check_before(wanted, row, None if isinstance(calibration, Calibration) else _data(offline=offline))
    kept = Store(Path(store) if store else default_root(), told)
    files = resolve_model(str(model), None, kept, offline=offline)
    if not isinstance(calibration, Calibration):
        calibration = _built(files, choice, offline=offline) if row.needs_calibration else None
    return make_subject(files, row, calibration, Workshop(kept, device))


def _built(model: ModelFiles, choice: CalibrationChoice, *, offline: bool) -> Calibration:
    prompts = open_prompts(model.path, model.id)
    data, bundled = _data(offline=offline), _data(offline=True)
    return build_calibration(choice, data, bundled, prompts)


def _data(*, offline: bool) -> DataSource:
    """Where calibration corpora come from: the hub, or what is bundled where it must not be asked."""
    return open_data("bundled" if offline else "hub", BUNDLED_DATA, offline=offline)
