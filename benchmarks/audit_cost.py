"""What an audit costs: seconds, and the most memory, of a fresh process beside reading the same files once.

    python benchmarks/audit_cost.py PLACE [--model REF] [--repeat N]
    python benchmarks/audit_cost.py --make DIR [--gigabytes 8]

The second form writes a sharded 4-bit GPTQ checkpoint of a random llama-like model of about that size beside its 16-bit
original (DIR/quantized, DIR/reference) to measure with. Processor seconds are given beside wall-clock ones: they say
more on a machine that others use. Peak memory is the kernel's (VmHWM), of anonymous pages only where it tells them
apart: pages of mapped files are given back whenever somebody needs them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path

READ = """
import sys, time, resource
start = time.monotonic()
for path in sys.argv[1:]:
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 22):
            pass
usage = resource.getrusage(resource.RUSAGE_SELF)
print(time.monotonic() - start, usage.ru_utime + usage.ru_stime)
"""
AUDIT = """
import sys, threading, time, resource
from quantgate.core.memory import large_pages
large_pages()  # as the command does
import torch
torch.set_num_threads(int(sys.argv[3]))
from pathlib import Path
from quantgate.checkpoints.inspection import inspect
peak = 0
def watch():
    global peak
    while True:
        for line in open("/proc/self/status"):
            if line.startswith("RssAnon"):
                peak = max(peak, int(line.split()[1]))
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
start = time.monotonic()
found = inspect(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2] != "none" else None, "x")
seconds = time.monotonic() - start
usage = resource.getrusage(resource.RUSAGE_SELF)
print(seconds, usage.ru_utime + usage.ru_stime, peak / 1e6, usage.ru_maxrss / 1e6, len(found.matrices),
      [each.code for each in found.findings if each.level == "error"])
"""


def files_of(place: Path) -> list[Path]:
    """The weights of a checkpoint."""
    return sorted(place.glob("*.safetensors")) if place.is_dir() else [place]


def child(code: str, *arguments: str) -> list[str]:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.split(maxsplit=5)


def measure(place: Path, reference: Path | None, threads: int) -> None:
    """Print one line for reading and one for the audit."""
    files = [*files_of(place), *(files_of(reference) if reference else [])]
    size = sum(file.stat().st_size for file in files)
    seconds, cpu = map(float, child(READ, *map(str, files))[:2])
    print(f"reading {size / 1e9:.2f} GB: {seconds:.1f} s, {cpu:.1f} s of processor, {size / 1e9 / seconds:.2f} GB/s")
    found = child(AUDIT, str(place), str(reference or "none"), str(threads))
    wall, used, anonymous, everything = map(float, found[:4])
    print(
        f"audit: {wall:.1f} s, {used:.1f} s of processor; peak {anonymous:.2f} GB ({everything:.2f} GB with mapped "
        f"files); {' '.join(found[4:]).strip()}",
        flush=True,
    )


def make(target: Path, gigabytes: float) -> None:
    """A random model and its 4-bit rounding, shard by shard: neither is ever held as a whole."""
    import torch
    from safetensors.torch import save_file

    hidden, inner, vocabulary = 4096, 14336, 32000
    shapes = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (1024, hidden), "self_attn.v_proj": (1024, hidden),
        "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    per_block = 2 * sum(rows * columns for rows, columns in shapes.values()) / 1e9
    blocks = max(1, round(gigabytes / per_block))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
              "intermediate_size": inner, "num_hidden_layers": blocks, "num_attention_heads": 32,
              "num_key_value_heads": 8, "vocab_size": vocabulary, "tie_word_embeddings": True}  # fmt: skip
    places = [target / "reference", target / "quantized"]
    for place in places:
        place.mkdir(parents=True)
    declared = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
    (places[0] / "config.json").write_text(json.dumps(config))
    (places[1] / "config.json").write_text(json.dumps(config | {"quantization_config": declared}))
    maps: list[dict[str, str]] = [{}, {}]
    generator = torch.Generator().manual_seed(0)
    rest = {
        "model.embed_tokens.weight": torch.randn(vocabulary, hidden, generator=generator).to(torch.bfloat16),
        "model.norm.weight": torch.ones(hidden, dtype=torch.bfloat16),
    }
    first = _first_block(shapes, hidden, generator)
    shards = itertools.chain([(rest, dict(rest))], (_block(number, first) for number in range(blocks)))
    for number, pair in enumerate(shards):
        for place, names, state in zip(places, maps, pair, strict=True):
            file = f"model-{number:05d}.safetensors"
            save_file(state, place / file)
            names.update(dict.fromkeys(state, file))
    for place, names in zip(places, maps, strict=True):
        (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def _first_block(shapes, hidden, generator):
    """16-bit values of a block, and their codes with scales of 128 features as GPTQ's first version packs them."""
    import torch

    one, other = {}, {}
    for name, (rows, columns) in shapes.items():
        weight = (torch.randn(rows, columns, generator=generator) / columns**0.5).to(torch.bfloat16)
        groups = weight.float().view(rows, -1, 128)
        scales = (groups.abs().amax(2) / 7).to(torch.float16)
        codes = (groups / scales.float().unsqueeze(2)).round().clamp(-8, 7).add(8).to(torch.int32).view(rows, columns)
        packed = torch.zeros(columns // 8, rows, dtype=torch.int32)
        for place in range(8):
            packed |= codes.t()[place::8] << 4 * place
        one[f"{name}.weight"] = weight
        other[f"{name}.qweight"], other[f"{name}.scales"] = packed, scales.t().contiguous()
        other[f"{name}.qzeros"] = torch.full((columns // 128, rows // 8), 0x77777777, dtype=torch.int32)
        other[f"{name}.g_idx"] = (torch.arange(columns) // 128).to(torch.int32)
    norms = {
        f"{name}.weight": torch.ones(hidden, dtype=torch.bfloat16)
        for name in ("input_layernorm", "post_attention_layernorm")
    }
    return one | norms, other | dict(norms)


def _block(number, first):
    """The first block with its rows moved on: other matrices, at the price of a copy."""
    moved = []
    for state in first:
        sides = {name: int(name.endswith(("qweight", "scales"))) for name in state}
        still = ("qzeros", "g_idx", "layernorm.weight")
        moved.append(
            {
                f"model.layers.{number}.{name}": tensor.roll(0 if name.endswith(still) else number, sides[name])
                for name, tensor in state.items()
            }
        )
    return moved


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, nargs="?", help="a checkpoint")
    parser.add_argument("--model", type=Path, help="directory of its 16-bit original")
    parser.add_argument("--make", type=Path, help="write a checkpoint to measure with, and its original")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="size of the original")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.make:
        make(args.make, args.gigabytes)
    else:
        measure(args.place, args.model, args.threads)


if __name__ == "__main__":
    main()
