"""A checkpoint packed by AutoAWQ 0.2.9's own layer for GEMV: make_autoawq.py AUTOAWQ REF OUT

AUTOAWQ: the unpacked source distribution. Its quantizer needs releases of transformers that are long gone, its layers
do not: ranges and zero points are AWQ's (asymmetric, groups of 32, no search), and each matrix is packed by
``WQLinear_GEMV.from_linear``. Beside it, in OUT/expected, the values that were packed.
"""

import json
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

GROUP = 32


def layer_of(source: Path):
    """The class, without importing the package, which wants old transformers."""
    module = types.ModuleType("awq.utils.module")
    module.try_import = lambda name: (None, "")
    sys.modules |= {"awq": types.ModuleType("awq"), "awq.utils": types.ModuleType("awq.utils"), module.__name__: module}
    names: dict = {}
    exec((source / "awq" / "modules" / "linear" / "gemv.py").read_text(), names)
    return names["WQLinear_GEMV"]


def main() -> None:
    """Make it."""
    source, ref, out = map(Path, sys.argv[1:4])
    gemv, target = layer_of(source), out / "awq_gemv"
    target.mkdir()
    (out / "expected").mkdir(exist_ok=True)
    state, values = {}, {}
    for name, tensor in load_file(ref / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            state[name] = tensor
            continue
        module, weight = name.removesuffix(".weight"), tensor.float()
        groups = weight.view(len(weight), -1, GROUP)
        scales = ((groups.amax(2) - groups.amin(2)).clamp(min=1e-5) / 15).half()
        zeros = (-groups.amin(2) / scales.float()).round().clamp(0, 15)
        steps = (groups / scales.float()[..., None]).round() + zeros[..., None]
        values[module] = ((steps.clamp(0, 15) - zeros[..., None]) * scales.float()[..., None]).view_as(weight)
        linear = torch.nn.Linear(weight.shape[1], len(weight), bias=False)
        linear.weight.data = values[module]
        packed = gemv.from_linear(linear, 4, GROUP, scales=scales.float(), zeros=zeros)
        state |= {f"{module}.{part}": each.contiguous() for part, each in packed.state_dict().items()}
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    up = "model.layers.0.mlp.up_proj"
    save_file({up: values[up]}, out / "expected" / "awq_gemv.safetensors")
    config = json.loads((ref / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemv",
        "modules_to_not_convert": None,
    }  # fmt: skip
    (target / "config.json").write_text(json.dumps(config, indent=1))
    print("OK awq_gemv")


if __name__ == "__main__":
    main()
