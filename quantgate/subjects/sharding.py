"""What ``quantgate statistics`` does once its arguments are checked: cut the text, run the model, write sums."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from quantgate.core.errors import DataError
from quantgate.core.progress import Progress
from quantgate.models.source import ModelFiles
from quantgate.quantize.calibration.protocol import CalibrationSource
from quantgate.quantize.calibration.shards import Precision, ShardFacts, save_shard
from quantgate.quantize.calibration.texts import OwnText
from quantgate.quantize.numerics.exact import ExactStatistics
from quantgate.quantize.numerics.statistics import InputStatistics
from quantgate.quantize.sweep.collect import Adding, collect
from quantgate.subjects.make import load_for_quantizing
from quantgate.tasks.opening import open_prompts


def write(
    source: CalibrationSource, model: ModelFiles, target: Path, length: int, precision: Precision, progress: Progress
) -> tuple[ShardFacts, float]:
    """Write the sums over all of a text; gives what the file says, and the payload's largest relative error.

    Raises:
        DataError: the text is empty.
    """
    assert isinstance(source, OwnText)
    prompts = open_prompts(model.path, model.id)
    return write_samples(source.whole(prompts, length), model, target, length, precision, progress)


def write_samples(
    samples: Sequence[Sequence[int]], model: ModelFiles, target: Path, length: int, precision: Precision,
    progress: Progress,
) -> tuple[ShardFacts, float]:  # fmt: skip
    """As `write`, of token samples."""
    if not samples:
        raise DataError(f"text for {target.name}", "no tokens", expected="text")
    loaded, _ = load_for_quantizing(model.path, "cpu")

    def empty(features: int) -> Adding:
        if precision == "float64":
            return ExactStatistics(features)
        return InputStatistics(features, torch.device("cpu"), ("hessian", "magnitude", "range"))

    found = collect(loaded, samples, empty, progress)
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(np.asarray(sample, dtype="<i8").tobytes() + b"|")
    facts = ShardFacts(
        model=model.digest.weights, tokenizer=model.digest.tokenizer, length=length, precision=precision,
        n_samples=len(samples), n_tokens=sum(map(len, samples)), text=digest.hexdigest(),
        stages={names[0]: list(names) for names in found},
    )  # fmt: skip
    return facts, save_shard(target, facts, found)
