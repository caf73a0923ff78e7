"""Checkpoints by hqq 0.2.8 and optimum-quanto 0.2.7: make_hqq_quanto.py REF OUT [name...]

Beside each, in OUT/expected, what the tool itself unpacks one matrix to.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

MODULE = "model.layers.0.mlp.up_proj"


def hqq(ref: str, target: Path, **how) -> None:
    """HQQ's own state of every matrix, and the declaration that transformers' writer adds.

    ``AutoHQQHFModel.save_to_safetensors`` writes the same state, and fails where the head is tied.
    """
    from hqq.core.quantize import BaseQuantizeConfig
    from hqq.models.hf.base import AutoHQQHFModel

    model = AutoModelForCausalLM.from_pretrained(ref, dtype=torch.bfloat16)
    config = BaseQuantizeConfig(**how)
    AutoHQQHFModel.quantize_model(model, quant_config=config, compute_dtype=torch.bfloat16, device="cpu")
    save(model, target, model.get_submodule(MODULE).dequantize())
    content = json.loads((target / "config.json").read_text())
    content["quantization_config"] = {"quant_method": "hqq", "quant_config": config, "skip_modules": ["lm_head"]}
    (target / "config.json").write_text(json.dumps(content, indent=1))


def save(model, target: Path, unpacked: torch.Tensor) -> None:
    """The state dict without the tied head, config.json, and the tool's own values of one matrix."""
    target.mkdir()
    (target.parent / "expected").mkdir(exist_ok=True)
    save_file({MODULE: unpacked.contiguous()}, target.parent / "expected" / f"{target.name}.safetensors")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    model.config.to_json_file(target / "config.json")


def quanto(ref: str, target: Path, bits: str) -> None:
    """The state dict and the map of modules, as quanto's documentation saves them."""
    from optimum.quanto import freeze, qtypes, quantization_map, quantize

    model = AutoModelForCausalLM.from_pretrained(ref, dtype=torch.bfloat16)
    quantize(model, weights=qtypes[bits], exclude="lm_head")
    freeze(model)
    save(model, target, model.get_submodule(MODULE).weight.dequantize())
    (target / "quanto_qmap.json").write_text(json.dumps(quantization_map(model), indent=1))


RECIPES = {
    "hqq4": lambda ref, out: hqq(ref, out, nbits=4, group_size=32, axis=1),
    "hqq3_axis0": lambda ref, out: hqq(ref, out, nbits=3, group_size=64, axis=0),
    "quanto_int8": lambda ref, out: quanto(ref, out, "qint8"),
    "quanto_int4": lambda ref, out: quanto(ref, out, "qint4"),
}


if __name__ == "__main__":
    ref, out = sys.argv[1:3]
    for name in sys.argv[3:] or RECIPES:
        RECIPES[name](ref, Path(out) / name)
        print("OK", name, flush=True)
