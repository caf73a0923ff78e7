"""Checkpoints by mlx-lm: make_mlx.py REF OUT [name...]

Beside each, in OUT/expected, what MLX itself unpacks three matrices to, in float32, and its own logits of a few tokens.
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx_lm import convert, load

TOKENS = list(range(3, 40))


def mixed(path, module) -> dict | bool:
    """Matrices of their own width, and one that stays in 16 bit."""
    if path.endswith("0.self_attn.k_proj"):
        return False
    return {"bits": 6 if "down_proj" in path else 3, "group_size": 32} if hasattr(module, "to_quantized") else False


RECIPES = {
    "mlx4": {"q_bits": 4, "q_group_size": 64},
    "mlx8": {"q_bits": 8, "q_group_size": 32},
    "mlx_mixed": {"q_bits": 4, "q_group_size": 64, "quant_predicate": mixed},
}


def main() -> None:
    """Make them."""
    ref, out = sys.argv[1:3]
    (Path(out) / "expected").mkdir(exist_ok=True)
    for name in sys.argv[3:] or RECIPES:
        target = Path(out) / name
        convert(ref, str(target), quantize=True, **RECIPES[name])
        declared = json.loads((target / "config.json").read_text())["quantization"]
        state = mx.load(str(target / "model.safetensors"))
        model, _ = load(str(target))
        found = {"logits": model(mx.array([TOKENS]))[0].astype(mx.float32)}
        for layer in ("model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj", "model.embed_tokens"):
            how = {**declared, **(declared.get(layer) or {})}
            parts = [state[f"{layer}.{part}"] for part in ("weight", "scales", "biases")]
            wide = [parts[0], *(each.astype(mx.float32) for each in parts[1:])]
            found[layer] = mx.dequantize(*wide, group_size=how["group_size"], bits=how["bits"])
        mx.save_safetensors(str(Path(out) / "expected" / f"{name}.safetensors"), found)
        print("OK", name, flush=True)


if __name__ == "__main__":
    main()
