"""LoRA adapters as peft saves them: their matrices are added to those of the 16-bit reference, or of a quantized base.

``weight + scale * B A`` with ``scale = alpha / r`` (``alpha / sqrt(r)`` for rank-stabilised ones), in float32. What an
adapter may be beyond that (DoRA, trained embeddings, biases) is refused by name. The base is a checkpoint in the folder
``base`` of the adapter's own, and nowhere else: where ``base_model_name_or_path`` points is not followed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.checkpoints.findings import FACT, WARNING, Finding, named
from quantgate.checkpoints.layouts.adapter_fields import check_layers, check_settings, of_layer, unknown_fields
from quantgate.checkpoints.layouts.protocol import Checkpoint, Layout, StoredModule
from quantgate.checkpoints.lone import declaring_config
from quantgate.core.errors import ModelError
from quantgate.models.files import read_json
from quantgate.models.tensors import StoredTensor, read_header, read_tensor, stored

if TYPE_CHECKING:
    from torch import Tensor

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
BASE: Final = "base"
_FLOAT_BITS: Final = 16
_NAME: Final = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight")
_FLOATS: Final = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Adapter:
    """The row; see `Layout`. ``layout_of``: finds the row of the base that lies beside an adapter."""

    layout_of: Callable[[Path, str], Layout]
    name: str = "adapter"

    def recognises(self, place: Path, config: Mapping[str, Any]) -> bool:
        """A folder with an adapter_config.json and no weights of its own."""
        return (place / CONFIG).is_file() and not config

    def open(self, place: Path, reference: Path | None, who: str) -> AdaptedCheckpoint:
        """See `Layout.open`.

        Raises:
            ModelError: also where there is no reference to add it to.
        """
        if reference is None:
            raise ModelError(
                who, "an adapter", expected="the 16-bit model that it changes", hint="give it with --model"
            )
        config = read_json(place / CONFIG, who)
        check_settings(config, who)
        if not (place / WEIGHTS).is_file():
            raise ModelError(who, f"no {WEIGHTS}", expected="weights in safetensors", hint="finish the download")
        return AdaptedCheckpoint(place, reference, config, who, self._base(place / BASE, reference, who))

    def _base(self, place: Path, reference: Path, who: str) -> Checkpoint | None:
        """The quantized checkpoint beside an adapter; None where there is none.

        Raises:
            ModelError: also where it is an adapter itself, or quantizes more than weights: that would not be scored.
        """
        if not place.exists():
            return None
        layout = self.layout_of(place, who)
        if layout.name == self.name:
            raise ModelError(who, "an adapter on an adapter", expected="a checkpoint with weights in the folder 'base'")
        if (place / "config.json").is_file() and _more_than_weights(place, who):
            raise ModelError(
                who, "its base quantizes inputs, or keys and values, too", expected="a base of quantized weights alone",
                hint="judge the base without its adapter, as a candidate of its own",
            )  # fmt: skip
        return layout.open(place, reference, who)


def _more_than_weights(place: Path, who: str) -> bool:
    """Whether something is quantized that unpacking weights would leave out of the verdict."""
    from quantgate.checkpoints.declared import read_declared

    declared = read_declared(place, who)
    own = declaring_config(place, who).get("quantization_config") or {}
    parts = [own, *(own.get("configs") or [])]
    lost = any({"activations", "kv_cache"} & each.keys() or each.get("kv_cache_scheme") for each in parts)
    return lost or min(declared.activation_bits, declared.cache_bits) < _FLOAT_BITS


def _fit(down: StoredTensor, up: StoredTensor, shape: tuple[int, ...]) -> bool:
    """Whether ``up`` times ``down`` can be added to a matrix of ``shape``."""
    if len(down.shape) != 2 or len(up.shape) != 2 or not {down.dtype, up.dtype} <= set(_FLOATS):
        return False
    return (up.shape[0], down.shape[1]) == shape and up.shape[1] == down.shape[0] > 0


@dataclass
class AdaptedCheckpoint:
    """The reference, or the quantized checkpoint ``under`` the adapter, with the adapter added; see `Checkpoint`."""

    place: Path
    reference: Path
    settings: Mapping[str, Any]
    who: str
    under: Checkpoint | None = None
    layout: str = "adapter"
    base: dict[str, StoredTensor] = field(default_factory=dict)
    added: dict[str, dict[str, StoredTensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.base = stored(self.reference)
        for name, tensor in read_header(self.place / WEIGHTS).items():
            match = _NAME.fullmatch(name)
            if match is None or f"{match['layer']}.weight" not in self.base:
                raise ModelError(
                    self.who, f"{name} belongs to no matrix of the reference", expected="parts of its modules",
                    hint="give the model it was trained on with --model",
                )  # fmt: skip
            parts = self.added.setdefault(match["layer"], {})
            if match["part"] in parts:
                raise ModelError(self.who, f"{match['layer']}: lora_{match['part']} twice", expected="each part once")
            parts[match["part"]] = tensor
        for layer, parts in self.added.items():
            shape = self.base[f"{layer}.weight"].shape
            if parts.keys() != {"A", "B"} or not _fit(parts["A"], parts["B"], shape):
                raise ModelError(
                    self.who, f"{layer}: parts that do not fit {shape}", expected="floats, A [r, in] and B [out, r]"
                )
        check_layers(self.settings, {layer: parts["A"].shape[0] for layer, parts in self.added.items()}, self.who)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The reference's, with what the base declares."""
        own = read_json(self.reference / "config.json", self.who)
        theirs = (self.under.config if self.under else {}).get("quantization_config")
        return own | ({"quantization_config": theirs} if theirs else {})

    @cached_property
    def modules(self) -> Mapping[str, StoredModule]:
        """Those of the base, the bytes of the adapter counted among theirs; none of the 16-bit reference."""
        return {
            name: replace(each, nbytes=each.nbytes + sum(part.nbytes for part in self.added.get(name, {}).values()))
            for name, each in (self.under.modules if self.under else {}).items()
        }

    @cached_property
    def plain(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Everything else, as the base, or the reference, holds it."""
        if self.under is not None:
            return self.under.plain
        return {name: (each.dtype, each.shape) for name, each in self.base.items()}

    def weight(self, module: str) -> Tensor:
        """The base's matrix, changed where the adapter changes it."""
        if self.under is None:
            return self.tensor(f"{module}.weight").float()
        return self._changed(module, self.under.weight(module))

    def tensor(self, name: str) -> Tensor:
        """A tensor of ``plain``, changed where the adapter changes it (float32 then)."""
        found: Tensor = read_tensor(self.base[name]) if self.under is None else self.under.tensor(name)
        layer = name.removesuffix(".weight")
        return found if layer == name else self._changed(layer, found)

    def scales(self, module: str) -> Mapping[str, Tensor]:
        """The base's."""
        return self.under.scales(module) if self.under else {}

    def suspicions(self) -> list[Finding]:
        """How many matrices it changes, and on which model it was trained; what the base's reader found."""
        trained = self.settings.get("base_model_name_or_path")
        onto = f"the {self.under.layout} checkpoint beside it" if self.under else "the 16-bit reference"
        sentence = f"a LoRA adapter of {len(self.added)} matrices, trained on {trained!r}; added to {onto}"
        found = [Finding("adapter", FACT, sentence, tuple(self.added))]
        if unknown := unknown_fields(self.settings):
            sentence = f"{CONFIG} has fields that are not computed here: {named(unknown)}"
            found.append(Finding("adapter_fields", WARNING, sentence, tuple(unknown)))
        return found + (self.under.suspicions() if self.under else [])

    def _changed(self, layer: str, weight: Tensor) -> Tensor:
        if layer not in self.added:
            return weight
        parts = {part: read_tensor(each).float() for part, each in self.added[layer].items()}
        change: Tensor = self._scale(layer, len(parts["A"])) * (parts["B"] @ parts["A"])
        return weight.float() + change

    def _scale(self, layer: str, rank: int) -> float:
        alpha = of_layer(self.settings.get("alpha_pattern"), layer, self.settings.get("lora_alpha", rank))
        return float(alpha / rank**0.5) if self.settings.get("use_rslora") else alpha / rank
