"""What our readers unpack, against what the tool that wrote a checkpoint computes with it.

    python benchmarks/readers_oracle.py REFERENCE CHECKPOINT...

Each checkpoint is run twice over the same text: once by its own tool (transformers with bitsandbytes, torchao or
compressed-tensors; GPTQModel for GPTQ and AWQ; hqq and quanto by their own modules; peft; llama.cpp through xllamacpp
for GGUF files), once as 16-bit weights that our reader unpacked, with the inputs of its layers rounded by formulas
that stand here where compressed-tensors declares it, or llama.cpp does it. Printed: perplexity of both, and the mean
KL divergence of ours from the tool's, in nats. llama.cpp is asked for whole distributions at a few positions, on which
its perplexity rests.
Needs the tools beside quantgate in one environment.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from quantgate.checkpoints.checkpoint import load_quantized
from quantgate.checkpoints.declared import read_declared
from quantgate.checkpoints.layouts.compressed import scheme_of
from quantgate.checkpoints.layouts.table import open_checkpoint
from quantgate.checkpoints.unfold import unfold

LLAMA_POSITIONS = 24


def text_of(reference: Path, tokens: int) -> Tensor:
    """Ids ``[1, tokens]`` of the language reference that every Python carries."""
    from pydoc_data.topics import topics

    words = "\n\n".join(topics[name] for name in sorted(topics))
    return torch.tensor([AutoTokenizer.from_pretrained(reference).encode(words[: 20 * tokens])[:tokens]])


def logits_of(model: Any, ids: Tensor) -> Tensor:
    """Log-probabilities ``[tokens, vocabulary]``, float32."""
    with torch.no_grad():
        found: Tensor = model(input_ids=ids).logits[0].float().log_softmax(-1)
    return found


def ours(reference: Path, place: Path, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """As a candidate is run here: by our own loader, or by the weights that our reader gives."""
    if (place / "config.json").is_file() and read_declared(place, place.name).reader == "own":
        return logits_of(load_quantized(place, dtype), ids)
    with tempfile.TemporaryDirectory() as work:
        unfold(open_checkpoint(place, reference, place.name), reference, dtype, Path(work))
        model = AutoModelForCausalLM.from_pretrained(work, dtype=dtype)
        if place.is_dir() and (place / "config.json").is_file():
            round_inputs(model, place)
        elif place.suffix == ".gguf" and not place.stem.endswith(("F16", "BF16", "F32")):
            for layer in model.modules():
                if isinstance(layer, torch.nn.Linear):
                    layer.register_forward_pre_hook(lambda _, given: (as_q8(given[0]),))
        return logits_of(model, ids)


def round_inputs(model: Any, place: Path) -> None:
    """Round what goes into linear layers as compressed-tensors declares it; nothing where it does not."""
    declared = json.loads((place / "config.json").read_text()).get("quantization_config", {})
    if declared.get("quant_method") != "compressed-tensors":
        return
    state = {name: tensor for file in place.glob("*.safetensors") for name, tensor in load_file(file).items()}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name not in declared["ignore"]:
            how = scheme_of(declared, name).get("input_activations")
            if how:
                scale = state.get(f"{name}.input_scale", state.get(f"{name}.input_global_scale"))
                layer.register_forward_pre_hook(lambda _, given, how=how, scale=scale: (rounded(given[0], how, scale),))


def as_q8(values: Tensor) -> Tensor:
    """As llama.cpp stores what goes into a product with a block type: 8 bits, 32 features share an F16 scale."""
    blocks = values.float().unflatten(-1, (-1, 32))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    steps = torch.where(scale == 0, 0.0, blocks / scale).round()
    return (steps * scale.half().float()).flatten(-2).to(values.dtype)


def rounded(values: Tensor, how: dict[str, Any], scale: Tensor | None) -> Tensor:
    """``values`` (``[..., features]``) on the declared grid, in their dtype; ``scale``: the stored one."""
    wide = values.float()
    if how["num_bits"] == 4:  # nvfp4: 16 features share an FP8 scale, all of them the stored one
        blocks = wide.unflatten(-1, (-1, 16))
        shared = (scale * blocks.abs().amax(-1, keepdim=True) / 6).clamp(max=448).to(
            torch.float8_e4m3fn
        ).float() / scale
        shared = torch.where(shared == 0, 1.0, shared)
        levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
        steps = (blocks / shared).clamp(-6, 6)
        # halves go to the even code: between codes k and k + 1 to the left for even k
        middle = (levels[1:] + levels[:-1]) / 2
        size = steps.abs()
        code = torch.bucketize(size, middle) + ((size.unsqueeze(-1) == middle[1::2]).any(-1)).long()
        return (levels[code] * steps.sign() * shared).flatten(-2).to(values.dtype)
    if how["dynamic"]:
        top = 448.0 if how["type"] == "float" else 127.5
        scale = (wide.abs().amax(-1, keepdim=True) / top).to(values.dtype).clamp(min=1e-30)
    assert scale is not None
    steps = wide / scale.float()
    if how["type"] == "float":
        steps = steps.clamp(-448, 448).to(torch.float8_e4m3fn).float()
    else:
        steps = steps.round().clamp(-128, 127)
    return (steps * scale.float()).to(values.dtype)


def by_gptqmodel(reference: Path, place: Path, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """GPTQModel's own layers in plain torch."""
    from gptqmodel import BACKEND, GPTQModel

    kind = json.loads((place / "config.json").read_text())["quantization_config"]["quant_method"]
    backend = BACKEND.GPTQ_TORCH if kind == "gptq" else BACKEND.AWQ_TORCH
    return logits_of(GPTQModel.load(str(place), backend=backend, device="cpu", dtype=dtype).model, ids)


def by_transformers(reference: Path, place: Path, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """By transformers, in whatever runtime the checkpoint declares."""
    return logits_of(AutoModelForCausalLM.from_pretrained(place, dtype=dtype), ids)


def by_peft(reference: Path, place: Path, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """The reference with the adapter beside it."""
    from peft import PeftModel

    return logits_of(
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(reference, dtype=dtype), place), ids
    )


def by_hqq(reference: Path, place: Path, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """hqq's own modules, filled with the stored state."""
    from hqq.core.quantize import HQQLinear

    state = load_file(place / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(reference, dtype=dtype)
    for name in [name.removesuffix(".W_q") for name in state if name.endswith(".W_q")]:
        parts = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        layer = HQQLinear(None, None, compute_dtype=dtype, device="cpu")
        layer.load_state_dict(parts)
        model.set_submodule(name, layer)
    return logits_of(model, ids)


def by_quanto(reference: Path, place: Path, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """quanto's ``requantize``."""
    from optimum.quanto import requantize

    model = AutoModelForCausalLM.from_pretrained(reference, dtype=dtype)
    state = load_file(place / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    requantize(model, state, json.loads((place / "quanto_qmap.json").read_text()), device=torch.device("cpu"))
    return logits_of(model, ids)


def by_llamacpp(reference: Path, place: Path, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """llama.cpp's own server: whole distributions at `LLAMA_POSITIONS` places, ``[positions, vocabulary]``."""
    import xllamacpp as llama

    parameters = llama.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.port = str(place), 512, 0
    parameters.cpuparams.n_threads = torch.get_num_threads()
    server = llama.Server(parameters)
    size = int(json.loads((reference / "config.json").read_text())["vocab_size"])
    rows = []
    for position in positions(ids):
        asked = {"prompt": ids[0, : position + 1].tolist(), "n_predict": 1, "n_probs": size, "temperature": -1.0}
        request = urllib.request.Request(
            f"{server.listening_address}/completion", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as reply:
            found = json.load(reply)["completion_probabilities"][0]["top_logprobs"]
        row = torch.full((size,), -float("inf"))
        row[torch.tensor([each["id"] for each in found])] = torch.tensor([each["logprob"] for each in found])
        rows.append(row)
    return torch.stack(rows)


def positions(ids: Tensor) -> list[int]:
    """Where llama.cpp is asked: evenly, each with a token behind it."""
    return [int(each) for each in torch.linspace(8, ids.shape[1] - 2, LLAMA_POSITIONS)]


def tool_of(place: Path) -> tuple[str, Callable[[Path, Path, Tensor, torch.dtype], Tensor]]:
    """Who runs it natively."""
    if place.suffix == ".gguf":
        return "llama.cpp", by_llamacpp
    if (place / "adapter_config.json").is_file():
        return "peft", by_peft
    if (place / "quanto_qmap.json").is_file():
        return "quanto", by_quanto
    declared = json.loads((place / "config.json").read_text())["quantization_config"]["quant_method"]
    if declared in ("gptq", "awq"):
        return "GPTQModel", by_gptqmodel
    return (declared, by_hqq) if declared == "hqq" else (f"transformers, {declared}", by_transformers)


def compare(reference: Path, place: Path, ids: Tensor, dtype: torch.dtype) -> str:
    """A row of the table."""
    name, tool = tool_of(place)
    theirs, found = tool(reference, place, ids, dtype), ours(reference, place, ids, dtype)
    places = positions(ids) if len(theirs) == LLAMA_POSITIONS else list(range(ids.shape[1] - 1))
    theirs, found = (theirs if len(theirs) == len(places) else theirs[places]), found[places]
    wanted = ids[0, [each + 1 for each in places]].unsqueeze(1)
    perplexity = [float((-each.gather(1, wanted).mean()).exp()) for each in (theirs, found)]
    divergence = float((theirs.exp() * (theirs - found).nan_to_num(0.0)).sum(-1).mean())
    apart = perplexity[1] / perplexity[0] - 1
    return f"| {place.name} | {name} | {perplexity[0]:.3f} | {perplexity[1]:.3f} | {apart:+.2%} | {divergence:.5f} |"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ids = text_of(args.reference, args.tokens)
    print("| checkpoint | tool | its perplexity | ours | apart | KL |\n|---|---|---:|---:|---:|---:|")
    for place in args.checkpoints:
        print(compare(args.reference, place, ids, getattr(torch, args.dtype)), flush=True)


if __name__ == "__main__":
    main()
