"""auto-gptq 0.7.1 and GPTQModel 7.7 as oracles: they load a checkpoint written here, and must compute what we compute.

Two comparisons, printed as figures:

* layers: every packed linear of the peer's loaded model is run on the identity matrix, so that its own unpacking code
  shows its weights; they are compared with ours bit by bit in fp16;
* logits: both models on the same tokens.

    python benchmarks/gptq_oracle.py --checkpoint DIR --peer auto-gptq --peer-python peers/agptq/bin/python
    python benchmarks/gptq_oracle.py --checkpoint DIR --peer gptqmodel --peer-python peers/gptqmodel/bin/python

Peers want virtual environments of their own. GPTQModel: see `quantize_vs_peers.py`. auto-gptq:
``pip install torch==2.13.0 transformers==4.40.2 peft==0.10.0``, then
``BUILD_CUDA_EXT=0 pip install --no-build-isolation auto-gptq==0.7.1``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOKENS = [[(17 * step * step + 31 * row) % 251 + 100 for step in range(64)] for row in range(1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="directory written by quantgate")
    parser.add_argument("--peer", choices=LOADERS, required=True)
    parser.add_argument("--peer-python", type=Path, required=True, help="python with that peer")
    parser.add_argument("--dump", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.dump:
        dump_theirs(LOADERS[args.peer](args.checkpoint), args.dump)
        return
    with tempfile.TemporaryDirectory() as scratch:
        dump = Path(scratch) / "theirs.safetensors"
        peer = str(args.peer_python.absolute())
        command = [peer, __file__, "--checkpoint", str(args.checkpoint.absolute()), "--peer", args.peer]
        command += ["--peer-python", peer, "--dump", str(dump)]
        # in the scratch folder: GPTQModel writes logs where it runs
        finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=scratch)
        if finished.returncode or not dump.is_file():
            sys.exit(f"{args.peer} failed:\n{finished.stdout[-2000:]}\n{finished.stderr[-4000:]}")
        compare(args.checkpoint, args.peer, dump)


def load_auto_gptq(checkpoint: Path):
    from auto_gptq import AutoGPTQForCausalLM

    return AutoGPTQForCausalLM.from_quantized(
        str(checkpoint), device="cpu", use_safetensors=True, disable_exllama=True, disable_exllamav2=True
    ).model


def load_gptqmodel(checkpoint: Path):
    import torch
    from gptqmodel import BACKEND, GPTQModel

    return GPTQModel.load(str(checkpoint), backend=BACKEND.GPTQ_TORCH, device="cpu", dtype=torch.float16).model


LOADERS = {"auto-gptq": load_auto_gptq, "gptqmodel": load_gptqmodel}


def dump_theirs(model, dump: Path) -> None:
    """Runs under the peer's python: the weights its layers unpack, and its logits, in fp16."""
    import torch
    from safetensors.torch import save_file

    model = model.eval()
    kinds = sorted({f"{type(m).__module__}.{type(m).__name__}" for m in model.modules() if hasattr(m, "qweight")})
    found = {"kinds": torch.tensor(list(", ".join(kinds).encode()), dtype=torch.uint8)}
    with torch.no_grad():
        for name, module in model.named_modules():
            if hasattr(module, "qweight"):
                bias, module.bias = module.bias, None
                identity = torch.eye(module.g_idx.shape[0], dtype=torch.float16)
                found[f"layer.{name}"] = module(identity).t().contiguous()
                module.bias = bias
        found["logits"] = model(input_ids=torch.tensor(TOKENS)).logits.float()
    save_file(found, dump)


def compare(checkpoint: Path, peer: str, dump: Path) -> None:
    import torch
    from safetensors.torch import load_file

    sys.path.insert(0, str(ROOT))
    from quantgate.checkpoints.checkpoint import load_quantized

    theirs = load_file(dump)
    print(f"{peer}'s layers:", bytes(theirs.pop("kinds").tolist()).decode())
    logits = theirs.pop("logits")
    ours = load_quantized(checkpoint, torch.float16)
    layers = {name.removeprefix("layer."): weight for name, weight in theirs.items()}
    different = [name for name, weight in layers.items() if not torch.equal(ours.get_submodule(name).weight, weight)]
    worst = max((ours.get_submodule(n).weight.float() - w.float()).abs().max().item() for n, w in layers.items())
    print(f"layers: {len(layers)} compared in fp16, {len(different)} differ, largest difference {worst:.3g}")
    tokens = torch.tensor(TOKENS)
    exact = load_quantized(checkpoint, torch.float32)(tokens).logits.detach()
    rows = {
        "theirs (fp16) against ours in fp16": (logits, ours(tokens).logits.detach().float()),
        "theirs (fp16) against ours in float32": (logits, exact),
        "ours in fp16 against ours in float32": (ours(tokens).logits.detach().float(), exact),
        "ours in bf16 against ours in float32": (
            load_quantized(checkpoint, torch.bfloat16)(tokens).logits.detach().float(),
            exact,
        ),
    }
    for name, (one, other) in rows.items():
        difference = (one - other).abs()
        same = (one.argmax(-1) == other.argmax(-1)).float().mean()
        print(f"logits: {name}: largest {difference.max():.4f}, mean {difference.mean():.5f}, same top-1 {same:.4f}")


if __name__ == "__main__":
    main()
