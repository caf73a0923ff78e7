"""What a cache of codes (KIVI) holds, how fast it is, and what it costs in quality, on a real model.

    python benchmarks/stored_cache.py
    python benchmarks/stored_cache.py --model DIR --prompt 1024 --new 512 --threads 2

A text is read (``--prompt`` tokens) and continued as it goes on, token by token (``--new``), by one model with several
caches in turns, so that whatever else the machine does hits all alike. ``perplexity`` is that of the continued tokens:
each is predicted from a cache, as in generation, with no answer of the model read in. Bytes are counted from the
tensors that lie in the cache after the last step.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

KINDS = (None, 8, 4, 2)


@dataclass
class Run:
    """One cache on its way through the text."""

    bits: int | None
    cache: Any
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def main() -> None:
    args = parse()
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    model, tokens = build(args)
    with torch.inference_mode():
        runs = measure(model, tokens, args)
    report(runs, args)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=256)
    parser.add_argument("--residual", type=int, default=128, help="newest tokens that stay as they are")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch likes")
    return parser.parse_args()


def build(args: argparse.Namespace):
    """The model and ``1 + prompt + new`` tokens of the bundled prose, int64 [1, n]."""
    import torch

    from quantgate.core.progress import Silent
    from quantgate.models.loading import load_reference, load_tokenizer
    from quantgate.models.source import resolve_model
    from quantgate.store.store import Store, default_root
    from quantgate.tasks.corpora import prose
    from quantgate.tasks.data import open_data

    found = resolve_model(args.model, None, Store(args.store or default_root(), Silent()))
    text = prose(open_data("bundled", ROOT / "evals" / "data", offline=True))
    ids = load_tokenizer(found.path, found.id)(text[: 20 * (args.prompt + args.new)])["input_ids"][
        : 1 + args.prompt + args.new
    ]
    return load_reference(found.path, found.id, "bfloat16", "cpu"), torch.tensor([ids])


def measure(model: Any, tokens: Any, args: argparse.Namespace) -> list[Run]:
    from transformers import DynamicCache

    from quantgate.quantize.settings import StoredCacheSettings
    from quantgate.quantize.transforms.stored_cache import StoredCache

    layers = model.config.num_hidden_layers
    runs = [
        Run(bits, DynamicCache() if bits is None else StoredCache(layers, StoredCacheSettings(bits, 32, args.residual)))
        for bits in KINDS
    ]
    for run in runs:
        model(tokens[:, : args.prompt], past_key_values=run.cache, logits_to_keep=1)
    for at in range(args.prompt, args.prompt + args.new):
        for run in runs if at % 2 else runs[::-1]:
            start = time.perf_counter()
            logits = model(tokens[:, at : at + 1], past_key_values=run.cache).logits[0, -1].float()
            run.seconds.append(time.perf_counter() - start)
            run.losses.append(float(logits.logsumexp(0) - logits[tokens[0, at + 1]]))
    return runs


def report(runs: list[Run], args: argparse.Namespace) -> None:
    from quantgate.efficiency.workload import cache_size

    print(f"{args.prompt} tokens read, {args.new} continued, residual {args.residual}, groups of 32")
    print("| cache | KiB | x 16 bit | perplexity | ms a token (median) |\n|---|---|---|---|---|")
    whole = cache_size(runs[0].cache)
    for run in runs:
        held = whole if run.bits is None else run.cache.nbytes
        perplexity = math.exp(sum(run.losses) / len(run.losses))
        middle = 1000 * sorted(run.seconds)[len(run.seconds) // 2]
        name = "16 bit" if run.bits is None else f"codes of {run.bits} bit"
        print(f"| {name} | {held / 1024:.0f} | {held / whole:.3f} | {perplexity:.3f} | {middle:.1f} |")


if __name__ == "__main__":
    main()
