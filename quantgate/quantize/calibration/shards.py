"""Statistics of private text: collected where the text lies, added up where a model is quantized.

A shard's file holds sums over its tokens (safetensors), the counts, and what must agree between shards: model,
tokenizer, sample length, precision, version. In float64 the sums are exact, so that shards pooled equal the whole text
bit for bit, however it is cut; in float32 they differ by rounding. 16- and 8-bit payloads round each entry of a matrix,
relative to its diagonal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from quantgate.core import reading
from quantgate.core.errors import DataError
from quantgate.core.reading import Unreadable
from quantgate.quantize.calibration.samples import Calibration
from quantgate.quantize.numerics.exact import PARTS, ExactStatistics
from quantgate.quantize.numerics.statistics import InputStatistics

Precision: TypeAlias = Literal["float64", "float32", "16", "8"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
VERSION: Final = 1
_META: Final = "quantgate"
_AGREE: Final = ("version", "model", "tokenizer", "length", "precision")
_SUMS: Final = {"float64": (*PARTS, "magnitude", "least", "most"), "": ("total", "magnitude", "least", "most")}
Stages: TypeAlias = "dict[str, ExactStatistics | InputStatistics]"


@dataclass(frozen=True)
class ShardFacts:
    """What a shard says of itself. ``text``: digest of its tokens; ``stages``: layers of every stage, by its name."""

    model: str
    tokenizer: str
    length: int
    precision: Precision
    n_samples: int
    n_tokens: int
    text: str
    stages: Mapping[str, Sequence[str]]
    version: int = VERSION


def save_shard(path: Path, facts: ShardFacts, statistics: Mapping[tuple[str, ...], Any]) -> float:
    """Write a shard. Returns the largest relative error that its payload puts into a matrix (Frobenius norm)."""
    tensors: dict[str, Tensor] = {}
    worst = 0.0
    for names, found in statistics.items():
        for part, tensor in _parts(found, facts.precision).items():
            tensors[f"{names[0]}.{part}"] = tensor.contiguous()
        if facts.precision in ("16", "8"):
            worst = max(worst, _payload_error(found, facts.precision))
    counts = {names[0]: found.count for names, found in statistics.items()}
    meta = {**{name: getattr(facts, name) for name in facts.__dataclass_fields__}, "counts": counts}
    unfinished = path.with_name(f".{path.name}.part")
    save_file(tensors, unfinished, metadata={_META: json.dumps(meta)})
    unfinished.replace(path)
    return worst


def _parts(found: Any, precision: Precision) -> dict[str, Tensor]:
    if precision == "float64":
        return {name: getattr(found, name) for name in _SUMS["float64"]}
    rest = {"magnitude": found.magnitude_sum, "least": found.low, "most": found.high}
    total = found.total.triu()
    if precision == "float32":
        return {"total": total, **rest}
    return {**_coded(total, precision), **rest}


def _coded(total: Tensor, precision: Precision) -> dict[str, Tensor]:
    """Codes of ``H_ij / sqrt(H_ii H_jj)``, which lies in [-1, 1], and the diagonal in float32."""
    top = 2 ** (int(precision) - 1) - 1
    scale = total.diagonal().clamp(min=1e-30).sqrt()
    codes = (total / scale / scale.unsqueeze(1) * top).round().clamp(-top, top)
    kind = torch.int16 if precision == "16" else torch.int8
    return {"codes": codes.to(kind), "diagonal": total.diagonal().clone()}


def _decoded(codes: Tensor, diagonal: Tensor, precision: Precision) -> Tensor:
    top = 2 ** (int(precision) - 1) - 1
    scale = diagonal.clamp(min=1e-30).sqrt()
    total: Tensor = codes.to(torch.float32) / top * scale * scale.unsqueeze(1)
    total.diagonal().copy_(diagonal)
    return total.triu()


def _payload_error(found: Any, precision: Precision) -> float:
    total = found.total.triu()
    again = _decoded(**_coded(total, precision), precision=precision)
    return float((again - total).norm() / total.norm().clamp(min=1e-30))


def read_facts(path: Path) -> tuple[ShardFacts, dict[str, int]]:
    """What a shard says of itself, and its counts by stage. Raises DataError for any other file."""
    try:
        with safe_open(path, "pt") as file:
            meta = reading.parse_object((file.metadata() or {}).get(_META, ""))
        counts = {str(name): int(count) for name, count in meta.pop("counts").items()}
        return ShardFacts(**meta), counts
    except (OSError, SafetensorError, Unreadable, TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"statistics {path.name}", f"cannot be read ({type(error).__name__})",
            expected="a file that `quantgate statistics` wrote",
        ) from error  # fmt: skip


def load_shard(path: Path) -> tuple[ShardFacts, Stages]:
    """A shard's facts and statistics by stage. Raises DataError when a part is missing or of another shape."""
    facts, counts = read_facts(path)
    found: Stages = {}
    try:
        with safe_open(path, "pt") as file:
            for name in facts.stages:
                tensors = {part: file.get_tensor(f"{name}.{part}") for part in _names(facts.precision)}
                found[name] = _statistics(tensors, counts[name], facts.precision)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise DataError(
            f"statistics {path.name}", f"a stage is damaged ({error})", expected="all of its sums"
        ) from error
    return facts, found


def _names(precision: Precision) -> tuple[str, ...]:
    if precision == "float64":
        return _SUMS["float64"]
    return _SUMS[""] if precision == "float32" else ("codes", "diagonal", "magnitude", "least", "most")


def _statistics(tensors: Mapping[str, Tensor], count: int, precision: Precision) -> ExactStatistics | InputStatistics:
    features = len(tensors["magnitude"])
    if precision == "float64":
        exact = ExactStatistics(features)
        for name, tensor in tensors.items():
            setattr(exact, name, tensor)
        exact.count = count
        return exact
    found = InputStatistics(features, torch.device("cpu"), ("hessian", "magnitude", "range"))
    coded = precision != "float32"
    found.total = _decoded(tensors["codes"], tensors["diagonal"], precision) if coded else tensors["total"]
    found.magnitude_sum, found.low, found.high = (tensors[name] for name in ("magnitude", "least", "most"))
    found.count = count
    return found


@dataclass(frozen=True)
class PooledStatistics(Calibration):
    """A calibration set of which only sums are known. ``stages``: by the name of a stage's first layer."""

    stages: Mapping[str, InputStatistics] = field(default_factory=dict, compare=False, repr=False)
    facts: ShardFacts | None = field(default=None, compare=False)
    tokens: int = 0
    count: int = 0

    @property
    def n_tokens(self) -> int:
        """Of all shards."""
        return self.tokens

    @cached_property
    def digest(self) -> str:
        """sha256 over the pooled sums as the methods read them."""
        found = hashlib.sha256()
        for name in sorted(self.stages):
            each = self.stages[name]
            for tensor in (each.total, each.magnitude_sum, each.low, each.high):
                found.update(tensor.contiguous().numpy().tobytes())
        return found.hexdigest()

    def as_record(self) -> dict[str, Any]:
        """What a report says; that the text was never seen here is part of it."""
        return {**super().as_record(), "n_samples": self.count, "text": "not seen: sums of shards"}

    def check_made_for(self, model: str, tokenizer: str) -> None:
        """Raise DataError when the sums are of another model or tokenizer than the one that is quantized."""
        assert self.facts is not None
        for name, ours in (("model", model), ("tokenizer", tokenizer)):
            if (theirs := getattr(self.facts, name)) != ours:
                found, expected = f"{name} {theirs[:16]}...", f"{name} {ours[:16]}..., which is quantized here"
                raise DataError("--statistics", found, expected=expected)


def pooled(paths: Sequence[Path]) -> PooledStatistics:
    """The sum of shards.

    Raises:
        DataError: a file is none of ours, two do not belong together (names the field), or hold the same text.
    """
    facts, stages = load_shard(paths[0])
    seen, tokens, samples = {facts.text: paths[0].name}, facts.n_tokens, facts.n_samples
    for path in paths[1:]:
        other, theirs = load_shard(path)
        _check_alike(facts, other, paths[0], path)
        if other.text in seen:
            raise DataError(
                f"statistics {path.name}", f"the same text as {seen[other.text]}", expected="every shard once"
            )
        seen[other.text] = path.name
        tokens, samples = tokens + other.n_tokens, samples + other.n_samples
        for name, statistics in stages.items():
            statistics.merge(theirs[name])  # type: ignore[arg-type]  # both of one precision
    rounded = {name: each.rounded() if isinstance(each, ExactStatistics) else each for name, each in stages.items()}
    return PooledStatistics(
        "statistics", "private text", (), (), 0, f"sums of {len(paths)} shards, {facts.precision}", "not stated",
        length=facts.length, stages=rounded, facts=facts, tokens=tokens, count=samples,
    )  # fmt: skip


def _check_alike(one: ShardFacts, two: ShardFacts, first: Path, second: Path) -> None:
    for name in (*_AGREE, "stages"):
        ours, theirs = getattr(one, name), getattr(two, name)
        if ours != theirs:
            shown = f"another {name}" if name == "stages" else f"{name} {theirs}"
            expected = "the same stages" if name == "stages" else f"{name} {ours}, as in {first.name}"
            raise DataError(f"statistics {second.name}", shown, expected=expected, hint="collect it anew, alike")
