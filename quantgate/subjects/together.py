"""Several subjects from one pass: methods that read the 16-bit model's inputs share loading, forward and statistics."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from quantgate.core.errors import MethodError
from quantgate.models.source import ModelFiles
from quantgate.quantize.base import Method
from quantgate.quantize.calibration.samples import Calibration
from quantgate.quantize.catalogue.methods import algorithm_of
from quantgate.quantize.catalogue.recipe import ALGORITHM as RECIPE
from quantgate.subjects.subject import Workshop, key_of

MOST: Final = 4
"""Methods in one sweep: each keeps its quantized layers in memory until the sweep ends."""


def shares(method: Method) -> bool:
    """Whether it looks at text, and at the inputs of layers that are not quantized yet."""
    if not method.needs_calibration or method.algorithm == RECIPE:
        return False
    algorithm = algorithm_of(method)
    if not getattr(algorithm, "needs", True):
        return True  # only what is folded in, or static activations, look at text: the 16-bit model's inputs
    order = algorithm.order
    return not (order.true_sequential or order.block_sequential)


def make_together(model: ModelFiles, methods: Sequence[Method], calibration: Calibration, workshop: Workshop) -> None:
    """Put into the store, from one sweep, those of ``methods`` that can share one and are not there yet.

    A method that fails takes the others down; then nothing is kept, and each is made alone, which says what is wrong.
    """
    store = workshop.store
    keys = {each.id: key_of(model, each, calibration, workshop.device) for each in methods if each.needs_calibration}
    missing = [each for each in methods if each.id in keys and not store.path_of(keys[each.id]).exists()]
    missing = [each for each in missing if shares(each)][:MOST]
    if len(missing) < 2:
        return
    from quantgate.subjects.make import quantize_many  # loads torch

    with tempfile.TemporaryDirectory(dir=store.root / "tmp", prefix="together-") as scratch:
        targets = {Path(scratch) / method.id: method for method in missing}
        for target in targets:
            target.mkdir()
        try:
            with store.computing(workshop.shared):
                quantize_many(model.path, targets, calibration, device=workshop.device, progress=workshop.progress)
        except MethodError as error:
            workshop.progress.note(f"{', '.join(each.id for each in missing)} are made one by one: {error}")
            return
        model.check_unchanged()
        for made, method in targets.items():
            store.fetch(keys[method.id], partial(_move, made), what=f"{method.id} of {model.id}")


def _move(source: Path, target: Path) -> None:
    for file in source.iterdir():
        file.replace(target / file.name)
