"""The engine's prefill as a share of what this machine's bf16 matmul reaches, both measured in the same run.

Command:
    python benchmarks/prefill_rate.py --model DIR [--threads 2] [--questions 50]
    python benchmarks/prefill_rate.py --shape 2048x5632x32x4x4

``--shape`` takes random weights: hidden size, feed-forward size, heads, key heads, layers.

Operations counted: linear layers and output head at the positions where they are needed, and attention (scores and
weighted values over causal pairs) of the *unique* tokens; nothing else, so norms, activations, padding, masks, repeated
tokens and Python count against the engine. The matmul rate is the best of three square sizes, and is measured before
and after. On a processor without bf16 instructions all sides multiply in float32, the matmul as well. "plain" is
transformers' own forward pass over one batch of 8 x 256 tokens, for comparison. "its products
alone" are the same linear layers as bare matrix products over as many rows: what would be left if everything else were
free. Small hidden sizes stay far below the square matmul there already.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from quantgate.core.progress import Silent
from quantgate.core.requests import Likelihood, Rolling
from quantgate.engines.torch.engine import TorchEngine
from quantgate.models.products import has_products, wide_products


class NoTokenizer:
    eos_token_id = None


clock = time.perf_counter


def matmul_rate() -> float:
    """Best rate of a bf16 matmul, operations per second; of a float32 one where the processor has no bf16 products."""
    best = 0.0
    dtype = torch.bfloat16 if has_products(torch.bfloat16) else torch.float32
    for size in (1024, 2048, 4096) if dtype == torch.bfloat16 else (1024, 2048):
        left, right = (torch.randn(size, size, dtype=dtype) for _ in range(2))
        for _ in range(4):
            started = clock()
            left @ right
            best = max(best, 2 * size**3 / (clock() - started))
    return best


def operations(model, tokens: int, attended: int, scored: int) -> float:
    """Linear, attention and head operations of a Llama-like model."""
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    linear = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    )
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * size
    head = 2 * config.hidden_size * config.vocab_size
    return 2.0 * linear * tokens + attention * attended + head * scored


def workloads(questions: int, vocabulary: int) -> dict[str, list]:
    draw = random.Random(0)

    def tokens(n):
        return tuple(draw.randrange(10, vocabulary) for _ in range(n))

    few_shot = []
    for _ in range(4):
        preamble = tokens(400)
        for _ in range(questions):
            context = preamble + tokens(draw.randrange(50, 130))
            few_shot += [Likelihood(context, (option,)) for option in range(10, 14)]
    zero_shot = [Likelihood(tokens(draw.randrange(60, 128)), (10,)) for _ in range(4 * questions)]
    return {
        "5-shot, 4 subjects": few_shot,
        "0-shot, short": zero_shot,
        "segments of 512": [Rolling(tokens(512)) for _ in range(questions // 3)],
    }


@torch.no_grad()
def plain_rate(model) -> float:
    tokens = torch.randint(10, 1000, (8, 256))
    best = 0.0
    for _ in range(4):
        started = clock()
        with wide_products(torch.bfloat16):
            model(input_ids=tokens, logits_to_keep=1, use_cache=False)
        done = operations(model, tokens.numel(), 8 * 256 * 257 // 2, 8)
        best = max(best, done / (clock() - started))
    return best


@torch.no_grad()
def products_rate(model, rows: int) -> float:
    """The rate of the linear layers' products by themselves, [rows, in] x [in, out], in operations per second."""
    shapes = [tuple(m.weight.shape) for m in model.model.layers[0].modules() if isinstance(m, torch.nn.Linear)]
    best = math.inf
    pairs = [(torch.randn(rows, k).bfloat16(), torch.randn(n, k).bfloat16()) for n, k in shapes]
    with wide_products(torch.bfloat16):
        for _ in range(5):
            started = clock()
            for x, weight in pairs:
                torch.nn.functional.linear(x, weight)
            best = min(best, clock() - started)
    return sum(2 * rows * n * k for n, k in shapes) / best


def random_model(shape: str, vocabulary: int = 32000):
    hidden, feed_forward, heads, kv_heads, layers = (int(part) for part in shape.split("x"))
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        num_hidden_layers=layers,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="directory of a Llama-like model")
    what.add_argument("--shape", help="random weights of this shape instead")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=None)
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    global clock
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(args.threads)
    if args.model:
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).eval()
    else:
        model = random_model(args.shape)
    engine = TorchEngine(model, NoTokenizer(), progress=Silent(), batch_tokens=args.batch_tokens)
    before = matmul_rate()
    print(f"{args.threads} threads; matmul {before / 1e12:.3f} T/s")
    rates = {"its products alone": (products_rate(model, 4096), ""), "plain 8 x 256": (plain_rate(model), "")}
    for name, requests in workloads(args.questions, model.config.vocab_size).items():
        seconds = math.inf
        for _ in range(args.repeats):
            started = clock()
            stats = engine.run(requests, lambda index, response: None)
            seconds = min(seconds, clock() - started)
        done = operations(model, stats.tokens_unique, stats.attended, stats.positions_scored)
        text = f"{stats.tokens_unique} unique tokens, {stats.tokens_unique / seconds:.0f} a second"
        rates[name] = (done / seconds, text)
    after = matmul_rate()
    print(f"matmul after {after / 1e12:.3f} T/s")
    for name, (rate, text) in rates.items():
        print(f"{name:20s} {rate / 1e12:.3f} T/s = {rate / max(before, after):.0%} of matmul  {text}")


if __name__ == "__main__":
    main()
