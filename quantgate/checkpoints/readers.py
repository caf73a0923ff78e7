"""Which other runtimes load a checkpoint we write, and why one does not: known before anything is computed.

Seen to load our files and to unpack the same weights bit by bit: AutoGPTQ 0.7.1 (act-order) and GPTQModel 7.7
(``benchmarks/gptq_oracle.py``), transformers 5.17 with compressed-tensors 0.20 (NVFP4 up to its bf16 rounding of block
scales) and with bitsandbytes 0.50 (tests). For the others (`Reader.seen` is false) checkpoints are written in the
layout they document; they were not run here. vLLM's refusals were read in the sources of its ``gptq`` layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from quantgate.quantize.settings import QUANT_METHOD

# seen: "no longer supported"
_ORDERED: Final = "vLLM 0.32 refuses act-order (desc_act): gptq-static-w{bits} has its groups in order"
Shapes = Mapping[str, tuple[int, int]]
"""``(out, in)`` of every linear layer of the decoder blocks, by name."""


@dataclass(frozen=True)
class Reader:
    """A runtime. ``refusal``: why it does not load the checkpoint as it is meant; empty when nothing speaks against it.

    ``seen``: whether it was run on checkpoints of this layout. ``unties``: whether it takes the output head from the
    files even where it is tied to the embedding.
    """

    name: str
    refusal: str = ""
    seen: bool = True
    unties: bool = False

    @property
    def needs_head(self) -> bool:
        """Whether it loads the checkpoint only if a tied output head is stored too."""
        return self.unties and not self.refusal

    def __str__(self) -> str:
        if self.refusal:
            return f"{self.name}: no, {self.refusal}"
        return f"{self.name}: yes" if self.seen else f"{self.name}: written in its layout; not run here"


def linear_shapes(model_dir: Path, who: str) -> dict[str, tuple[int, int]]:
    """Shapes of the layers that quantizing would replace; no weight is read.

    Raises:
        MethodError: an architecture that cannot be quantized.
    """
    from quantgate.models.layers import decoder_blocks
    from quantgate.models.loading import empty_model, read_config

    model = empty_model(read_config(model_dir, who), who)
    linears = {name: linear for block in decoder_blocks(model, who) for name, linear in block.linears.items()}
    return {name: (linear.out_features, linear.in_features) for name, linear in linears.items()}


def _first(shapes: Shapes, side: int, divisor: int) -> str:
    """A layer whose ``side`` (0: out, 1: in) is no multiple of ``divisor``, in words; empty when there is none."""
    for name, shape in shapes.items():
        if shape[side] % divisor:
            return f"{shape[side]} {('output', 'input')[side]} features of {name} are no multiple of {divisor}"
    return ""


def _gptq(config: Mapping[str, Any], shapes: Shapes) -> list[Reader]:
    second = "asymmetric zero points need format gptq_v2" if config["checkpoint_format"] == "gptq_v2" else ""
    group, bits = int(config["group_size"]), int(config["bits"])
    # vLLM loads whole groups only, and packed zero points only in whole words (3 bit: 32 values in 3 words)
    rest = _first(shapes, 1, group) if group > 0 else ""
    words = rest or _first(shapes, 0, 32 if bits == 3 else 32 // bits)
    ordered = _ORDERED.format(bits=config["bits"]) if config["desc_act"] else ""
    whole = "" if config["desc_act"] else rest  # seen: without act-order AutoGPTQ reshapes weights into whole groups
    return [
        Reader(
            "AutoGPTQ",
            second or whole or _first(shapes, 1, 32) or _first(shapes, 0, 32),
            seen=config["desc_act"],
            unties=True,
        ),
        Reader("GPTQModel"),
        Reader("transformers (with gptqmodel installed)", seen=False),
        Reader("vLLM", words or ordered, seen=False),
    ]


def _compressed(config: Mapping[str, Any], shapes: Shapes) -> list[Reader]:
    return [Reader("transformers (with compressed-tensors installed)"), Reader("vLLM", seen=False)]


def _bitsandbytes(config: Mapping[str, Any], shapes: Shapes) -> list[Reader]:
    return [Reader("transformers (with bitsandbytes installed)"), Reader("vLLM", seen=False)]


def _own(config: Mapping[str, Any], shapes: Shapes) -> list[Reader]:
    reason = f"format {config.get('format', 'of this method')!r} has no reader outside quantgate"
    return [Reader(name, reason) for name in ("transformers", "vLLM", "GPTQModel")]


_LAYOUTS: Final[dict[str, Callable[[Mapping[str, Any], Shapes], list[Reader]]]] = {
    "gptq": _gptq,
    "compressed-tensors": _compressed,
    "bitsandbytes": _bitsandbytes,
    QUANT_METHOD: _own,
}


def readers(config: Mapping[str, Any], shapes: Shapes) -> list[Reader]:
    """What each runtime does with a checkpoint of this ``quantization_config``."""
    return _LAYOUTS[str(config["quant_method"])](config, shapes)
