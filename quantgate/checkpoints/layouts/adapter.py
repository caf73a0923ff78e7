"""LoRA adapters as peft saves them: their matrices are added to those of the 16-bit reference.

``weight + scale * B A`` with ``scale = alpha / r`` (``alpha / sqrt(r)`` for rank-stabilised ones), in float32. What an
adapter may be beyond that (DoRA, trained embeddings, biases) is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.checkpoints.findings import FACT, Finding
from quantgate.checkpoints.layouts.protocol import StoredModule
from quantgate.core.errors import ModelError
from quantgate.models.files import read_json
from quantgate.models.tensors import StoredTensor, read_header, read_tensor, stored

if TYPE_CHECKING:
    from torch import Tensor

CONFIG: Final = "adapter_config.json"
_WEIGHTS: Final = "adapter_model.safetensors"
_NAME: Final = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight")
_REFUSED: Final = (
    "use_dora", "modules_to_save", "layer_replication", "use_qalora", "use_bdlora", "trainable_token_indices",
    "alora_invocation_tokens", "arrow_config", "lora_bias", "fan_in_fan_out", "target_parameters", "velora_config",
)  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """The row; see `Layout`."""

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
        refused = [name for name in _REFUSED if config.get(name)]
        if config.get("peft_type") != "LORA" or refused or config.get("bias", "none") != "none":
            found = ", ".join(f"{name} {config[name]!r}" for name in refused) or f"{config.get('peft_type')} adapter"
            raise ModelError(who, found, expected="a plain LoRA adapter", hint="merge it into the weights with peft")
        if not (place / _WEIGHTS).is_file():
            raise ModelError(who, f"no {_WEIGHTS}", expected="weights in safetensors", hint="finish the download")
        return AdaptedCheckpoint(place, reference, config, who)


LAYOUT: Final = Adapter()


@dataclass
class AdaptedCheckpoint:
    """The reference with the adapter added; see `Checkpoint`."""

    place: Path
    reference: Path
    settings: Mapping[str, Any]
    who: str
    layout: str = "adapter"
    base: dict[str, StoredTensor] = field(default_factory=dict)
    added: dict[str, dict[str, StoredTensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.base = stored(self.reference)
        for name, tensor in read_header(self.place / _WEIGHTS).items():
            match = _NAME.fullmatch(name)
            if match is None or f"{match['layer']}.weight" not in self.base:
                raise ModelError(
                    self.who, f"{name} belongs to no matrix of the reference", expected="parts of its modules",
                    hint="give the model it was trained on with --model",
                )  # fmt: skip
            self.added.setdefault(match["layer"], {})[match["part"]] = tensor
        for layer, parts in self.added.items():
            shape = self.base[f"{layer}.weight"].shape
            if parts.keys() != {"A", "B"} or (parts["B"].shape[0], parts["A"].shape[1]) != shape:
                raise ModelError(
                    self.who, f"{layer}: parts that do not fit {shape}", expected="A [r, in] and B [out, r]"
                )

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The reference's."""
        return read_json(self.reference / "config.json", self.who)

    @property
    def modules(self) -> Mapping[str, StoredModule]:
        """None is quantized."""
        return {}

    @cached_property
    def plain(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Everything, as the reference holds it."""
        return {name: (each.dtype, each.shape) for name, each in self.base.items()}

    def weight(self, module: str) -> Tensor:
        """Not asked: no module is quantized."""
        return self.tensor(f"{module}.weight").float()

    def tensor(self, name: str) -> Tensor:
        """The reference's tensor, changed where the adapter changes it (float32 then)."""
        found: Tensor = read_tensor(self.base[name])
        layer = name.removesuffix(".weight")
        if layer not in self.added or layer == name:
            return found
        parts = {part: read_tensor(each).float() for part, each in self.added[layer].items()}
        change: Tensor = self._scale(layer, len(parts["A"])) * (parts["B"] @ parts["A"])
        return found.float() + change

    def scales(self, module: str) -> Mapping[str, Tensor]:
        """None."""
        return {}

    def suspicions(self) -> list[Finding]:
        """How many matrices it changes, and on which model it was trained."""
        trained = self.settings.get("base_model_name_or_path")
        sentence = (
            f"a LoRA adapter of {len(self.added)} matrices, trained on {trained!r}; added to the 16-bit reference"
        )
        return [Finding("adapter", FACT, sentence, tuple(self.added))]

    def _scale(self, layer: str, rank: int) -> float:
        patterns = self.settings.get("alpha_pattern") or {}
        own = (value for pattern, value in patterns.items() if re.fullmatch(rf"(?:.*\.)?{pattern}", layer))
        alpha = float(next(own, self.settings.get("lora_alpha", rank)))
        return float(alpha / rank**0.5) if self.settings.get("use_rslora") else alpha / rank
