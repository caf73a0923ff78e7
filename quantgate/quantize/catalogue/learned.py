"""Rows of the method table that learn a block as a whole. As published, and brief ones for the minutes of a CPU."""

from __future__ import annotations

from typing import Any, Final

from quantgate.quantize.base import Method
from quantgate.quantize.settings import ActivationSettings, OmniQuantSettings

_OMNIQUANT: Final = "Shao et al. 2023 (OmniQuant, arXiv 2308.13137)"
_SLIM: Final = "Huang et al. 2024 (SliM-LLM+, arXiv 2405.14917)"
_BRIEF: Final[dict[str, Any]] = {"epochs": 2, "step_tokens": 1024, "clip_rate": 0.1, "scale_rate": 2e-2}
"""A tenth of the steps, and steps that are longer for it."""


def _row(id: str, settings: OmniQuantSettings, what: str, source: str = _OMNIQUANT, **changes: Any) -> Method:
    activations: ActivationSettings | None = changes.get("activations")
    brief = f", {settings.epochs} epochs" if "brief" in id else ""
    return Method(
        id=id,
        algorithm="omniquant",
        settings=settings,
        bits=settings.bits,
        needs_calibration=True,
        storage="packed",
        code_version=2,  # 1: beside one other method the blocks of that one were learned from
        summary=f"{what}{brief}",
        source=source,
        activation_bits=activations.bits if activations else 16,
        standard=False,
        **changes,
    )


def _weights(bits: int, **changes: Any) -> OmniQuantSettings:
    """The authors' for Llama's weights alone: ranges are learned, scales are not; below 4 bit two targets."""
    epochs = {"epochs": 40 if bits == 2 else 20}
    return OmniQuantSettings(bits, both=bits < 4, **epochs | changes)


def _both(**changes: Any) -> OmniQuantSettings:
    return OmniQuantSettings(4, -1, transform=True, **changes)


_RANGES: Final = "bit, groups of 128, asymmetric, ranges learned by block"
_FULL: Final = "OmniQuant, weights 4 bit by channel, inputs 4 bit by token, ranges and scales learned by block"
_PLUS: Final = "bit on average, groups of 128 by salience, ranges learned by block"
_A4: Final = ActivationSettings(4, "token")

ROWS: Final = (
    *(_row(f"omniquant{bits}", _weights(bits), f"OmniQuant, {bits} {_RANGES}") for bits in (4, 3, 2)),
    *(_row(f"omniquant-brief-w{bits}", _weights(bits, **_BRIEF), f"OmniQuant, {bits} {_RANGES}") for bits in (4, 3, 2)),
    _row("omniquant-a4-w4", _both(), _FULL, activations=_A4),
    _row("omniquant-brief-a4-w4", _both(**_BRIEF), _FULL, activations=_A4),
    *(
        _row(f"slim-omniquant-w{bits}", _weights(bits, salience=True), f"SliM-LLM+, {bits} {_PLUS}", _SLIM)
        for bits in (3, 2)
    ),
    *(
        _row(f"slim-brief-w{bits}", _weights(bits, salience=True, **_BRIEF), f"SliM-LLM+, {bits} {_PLUS}", _SLIM)
        for bits in (3, 2)
    ),
)
