"""AWQ's and SmoothQuant's scales here against llm-compressor's code, on the same statistics and weights.

One decoder block of a model, random activation statistics. Expected: the magnitude of weights and AWQ's scale for every
ratio agree to float precision. Known differences, printed, not hidden: llm-compressor takes SmoothQuant's ranges
``max - min`` of an activation and ``2 max|w|`` where the paper has ``max|x|`` and ``max|w|`` (equal for symmetric
activations at alpha 0.5); its ratios are ``i / 18`` of 19 and ours ``i / 20`` of 20, as in the published AWQ code; it
skips value -> output projections with grouped-query attention, where we let heads that share a value share its scale.

    python benchmarks/scales_vs_llmcompressor.py --model DIR --peer-python peers/llmc/bin/python
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GROUP, RATIOS = 64, (0.0, 0.25, 0.5, 0.75, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="16-bit checkpoint directory")
    parser.add_argument("--peer-python", required=True, help="python with llmcompressor")
    parser.add_argument("--exchange", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.exchange:
        peer(args.exchange)
        return
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as scratch:
        exchange = Path(scratch) / "exchange.safetensors"
        given = draw(args.model)
        save_file(given, exchange)
        command = [args.peer_python, __file__, "--model", "-", "--peer-python", "-", "--exchange", str(exchange)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            sys.exit(finished.stderr[-3000:])
        theirs = load_file(Path(scratch) / "theirs.safetensors")
    for name, mine in ours(given).items():
        error = float(((mine - theirs[name]).abs() / theirs[name].abs().clamp(min=1e-9)).max())
        print(f"{name:28s} largest relative difference {error:.2e}  {tuple(mine.shape)}")


def draw(model: Path) -> dict:
    """Weights of the first block's query, key and value projections, and statistics of a made-up input."""
    import torch
    from safetensors import safe_open

    generator = torch.Generator().manual_seed(0)
    with safe_open(model / "model.safetensors", framework="pt") as file:
        names = [f"model.layers.0.self_attn.{kind}_proj.weight" for kind in "qkv"]
        given = {f"weight{index}": file.get_tensor(name).float() for index, name in enumerate(names)}
    features = given["weight0"].shape[1]
    low = -torch.rand(features, generator=generator) * 5 - 0.01
    return given | {"mean": torch.rand(features, generator=generator) + 0.01, "low": low, "high": -low}


def ours(given: dict) -> dict:
    import torch

    sys.path.insert(0, str(ROOT))
    from quantgate.quantize.algorithms import awq
    from quantgate.quantize.transforms.smoothquant import smoothing_scale

    weights = [given[f"weight{index}"] for index in range(3)]
    columns = torch.cat(weights).t().contiguous()
    magnitude = awq.weight_magnitude(columns, GROUP)
    found = {"magnitude of weights": magnitude}
    candidates = awq.candidate_scales(given["mean"], magnitude, 20)[1:]
    found |= {f"awq scale, ratio {ratio}": candidates[round(ratio * 20)] for ratio in RATIOS}
    largest = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
    return found | {"smoothquant scale, alpha 0.5": smoothing_scale(given["high"], largest, 0.5)}


def peer(exchange: Path) -> None:
    """Call the peer's own functions; the formula of a ratio stands in the middle of a long method, so it is repeated
    here from llm-compressor 0.14 (``AWQModifier._compute_best_scale``)."""
    import torch
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.transform.awq.base import AWQModifier
    from llmcompressor.modifiers.transform.smoothquant.base import SmoothQuantModifier
    from safetensors.torch import load_file, save_file

    given = load_file(exchange)
    layers = []
    for index in range(3):
        weight = given[f"weight{index}"]
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight.data = weight
        arguments = QuantizationArgs(num_bits=4, symmetric=False, strategy="group", group_size=GROUP)
        layer.quantization_scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
        layers.append(layer)
    with torch.no_grad():
        w_mean = AWQModifier._compute_layer_means(layers)
        found = {"magnitude of weights": w_mean.float()}
        for ratio in RATIOS:
            scales = (given["mean"].pow(ratio) / (w_mean.pow(1 - ratio) + 1e-4)).clamp(min=1e-4)
            found[f"awq scale, ratio {ratio}"] = (scales / (scales.max() * scales.min()).sqrt()).float()
        smooth = SmoothQuantModifier(smoothing_strength=0.5, mappings=[])
        ranges = given["high"] - given["low"]
        found["smoothquant scale, alpha 0.5"] = smooth._calculate_smoothing_scales(layers, ranges).float()
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, exchange.with_name("theirs.safetensors"))


if __name__ == "__main__":
    main()
