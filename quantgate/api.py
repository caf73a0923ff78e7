"""``quantgate.quantize``: one model by one method, from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from quantgate.models.loading import context_length, load_tokenizer
from quantgate.models.source import ModelFiles, resolve_model
from quantgate.progress import Progress, Silent
from quantgate.quantize.base import Method
from quantgate.quantize.calibration import Calibration
from quantgate.quantize.calibration_sets import CalibrationChoice, build_calibration
from quantgate.quantize.methods import get_methods
from quantgate.store.store import Store, default_root
from quantgate.subjects import Subject, make_subject
from quantgate.tasks.data import open_data
from quantgate.tasks.prompts import Prompts

_BUNDLED_DATA: Final = Path(__file__).resolve().parent.parent / "evals" / "data"


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
        UsageError: no such method. The message names the closest ones.
        ModelError: the model cannot be found or read.
        MethodError: the method cannot be applied to it.
    """
    told = progress or Silent()
    (row,) = get_methods([method]) if isinstance(method, str) else [method]
    kept = Store(Path(store) if store else default_root(), told)
    files = resolve_model(str(model), None, kept, offline=offline)
    return make_subject(
        files,
        row,
        lambda: calibration if isinstance(calibration, Calibration) else _built(files, calibration, offline=offline),
        kept,
        device=device,
        shared=False,
        progress=told,
    )


def _built(model: ModelFiles, choice: CalibrationChoice | None, *, offline: bool) -> Calibration:
    limit = context_length(model.path, model.id)
    prompts = Prompts(load_tokenizer(model.path, model.id), limit, model.id)
    bundled = open_data("bundled", _BUNDLED_DATA, offline=True)
    data = bundled if offline else open_data("hub", _BUNDLED_DATA, offline=offline)
    return build_calibration(choice or CalibrationChoice(), data, bundled, prompts)
