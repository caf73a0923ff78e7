"""Checkpoints that declare their quantization elsewhere than transformers looks, as their runtimes read them.

llm-compressor wrote ``compression_config`` into config.json, AutoGPTQ ``quantize_config.json``, AutoAWQ
``quant_config.json`` and ModelOpt ``hf_quant_config.json`` before transformers knew of any; vLLM reads these still.
transformers looks for ``quantization_config`` in config.json only and would take codes for weights, so such a
checkpoint is unpacked here, whatever its layout, or transformers is told (compressed-tensors that quantizes inputs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from quantgate.models.files import read_json
from quantgate.models.quantized import MAIN, WEIGHTS, declarations, quantized_tensors
from quantgate.models.tensors import stored

_AWQ_NAMES: Final = {"w_bit": "bits", "q_group_size": "group_size"}
_HEADINGS: Final = ("quantization", "producer")  # of hf_quant_config.json
_AWQ: Final = frozenset({"w_bit", "q_group_size", "zero_point"})


def _of_quantizer(content: Mapping[str, Any]) -> dict[str, Any]:
    """quantize_config.json and quant_config.json hold the fields alone; AWQ's have names of their own."""
    if content.get("quant_method"):
        return dict(content)
    if _AWQ & content.keys():
        return {"quant_method": "awq", **{_usual(name, content): value for name, value in content.items()}}
    return {"quant_method": "gptq", **content} if "bits" in content else {}


def _usual(name: str, content: Mapping[str, Any]) -> str:
    """The usual name of an AWQ field; where ``content`` has that one too, both stay, to be compared."""
    usual = _AWQ_NAMES.get(name, name)
    return name if usual in content else usual


def _of_modelopt(content: Mapping[str, Any]) -> dict[str, Any]:
    """hf_quant_config.json holds them under a heading, and says nothing where nothing was quantized."""
    inner = content.get("quantization")
    if not isinstance(inner, Mapping) or not inner.get("quant_algo"):
        return {}
    outside = {f"{name} (outside quantization)": value for name, value in content.items() if name not in _HEADINGS}
    return {"quant_method": "modelopt", **outside, **inner}


OLDER: Final = "compression_config in config.json"
"""Where llm-compressor declared compressed-tensors before transformers knew of any; vLLM reads it still."""


def _of_older(content: Any) -> dict[str, Any]:
    """The same fields as today's, under a name that only vLLM reads."""
    if not isinstance(content, Mapping):
        return {}
    method = str(content.get("quant_method") or "compressed-tensors").replace("_", "-")
    return {**content, "quant_method": method}


MLX: Final = "quantization in config.json"
"""Where mlx-lm declares its own; newer releases write a copy of it as ``quantization_config``, with no method."""


def _of_mlx(content: Any) -> dict[str, Any]:
    mlx = isinstance(content, Mapping) and {"bits", "group_size"} <= content.keys() and "quant_method" not in content
    return {**content, "quant_method": "mlx"} if mlx else {}


_MAIN: Final = f"{MAIN} in config.json"
_PLACES: Final = {  # vLLM's names, in its order
    OLDER: _of_older,
    "quantize_config.json": _of_quantizer,
    "quant_config.json": _of_quantizer,
    "hf_quant_config.json": _of_modelopt,
    MLX: _of_mlx,
}


def places_of(place: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """`declarations`, without the copy of MLX's. Raises ModelError: a file that is no JSON object."""
    found = declarations(place, config)
    if _of_mlx(found.get(MLX)) and found.get(_MAIN) == found[MLX]:
        del found[_MAIN]
    return found


def in_usual_words(file: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a file beside config.json says, as ``quantization_config`` would spell it."""
    inner = content.get("quantization")
    said = _PLACES[file](content) if file in _PLACES else {}
    return said or (inner if isinstance(inner, Mapping) else content)


def lone(place: Path, config: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Name and content, as ``quantization_config`` would spell it, of the one declaration of the directory ``place``.

    None where config.json (its content is ``config``) declares something, where nothing does, and where the weights
    are plain: a file that was left behind says nothing about those.

    Raises:
        ModelError: a file that is no JSON object.
    """
    places = places_of(place, config)
    if len(places) != 1 or (name := next(iter(places))) not in _PLACES:
        return None
    found = _PLACES[name](places[name])
    if name == MLX and found:
        found = {**dict.fromkeys(_without_scales(place), False), **found}
    return (name, found) if found and any(True for _ in quantized_tensors(place)) else None


def _without_scales(place: Path) -> Iterator[str]:
    """Matrices in 16 bit: mlx-lm quantizes what has scales in the files, whether its configuration names it or not."""
    files = stored(place)
    for name, tensor in files.items():
        module = name.removesuffix(".weight")
        if module != name and len(tensor.shape) == 2 and tensor.dtype in WEIGHTS and f"{module}.scales" not in files:
            yield module


def declaring_config(place: Path, who: str) -> dict[str, Any]:
    """config.json of the directory ``place``, the declaration that lies beside it put in where it is the only one.

    Raises:
        ModelError: a file that is no JSON object.
    """
    config = read_json(place / "config.json", who)
    found = lone(place, config)
    return config | {MAIN: found[1]} if found else config
