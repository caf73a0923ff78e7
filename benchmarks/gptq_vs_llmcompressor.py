"""GPTQ here against llm-compressor: same model, same calibration tokens, same settings, same held-out perplexity.

4 bit, groups of 64, symmetric, 16 x 512 tokens; without act-order, or with ``--act-order`` with the peer's kind of it
(columns by activation, scales fitted to the original weights: our ``static_groups``). The peer's modifier has to be
told ``actorder=None`` expressly: left alone it turns act-order on, whatever the scheme says. Each side runs in a
process of its own and is timed over everything a user waits for: loading, quantizing, saving; the peer's quantization
alone is printed too, and the processor time, which a busy machine distorts less.

    python benchmarks/gptq_vs_llmcompressor.py --model DIR --peer-python peers/llmc/bin/python

The peer wants a virtual environment of its own: ``pip install torch==2.13.0 llmcompressor==0.14.0.1``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAMPLES, LENGTH, GROUP = 16, 512, 64
ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="16-bit checkpoint directory")
    parser.add_argument("--peer-python", type=Path, help="python with llmcompressor; without it only our side runs")
    parser.add_argument(
        "--threads", type=int, help="OMP threads of both sides; 1 gives steady figures on a busy machine"
    )
    parser.add_argument(
        "--act-order", action="store_true", help="quantize columns in order of activation on both sides"
    )
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        run = {"ours": run_ours, "peer": run_peer}[args.side]
        tokens = json.loads(args.tokens.read_text(encoding="utf-8"))
        print("RESULT " + json.dumps(run(args.model, tokens, args.act_order)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        tokens = Path(scratch) / "tokens.json"
        tokens.write_text(json.dumps(draw_tokens(args.model)), encoding="utf-8")
        if args.threads:
            os.environ["OMP_NUM_THREADS"] = str(args.threads)
        ours = start(sys.executable, args, tokens, "ours")
        report("quantgate", ours)
        if args.peer_python:
            peer = start(str(args.peer_python), args, tokens, "peer")
            report("llm-compressor", peer)
            print(f"perplexity: ours / theirs = {ours['perplexity'] / peer['perplexity']:.4f}")
            print(f"time:       ours / theirs = {ours['seconds'] / peer['seconds']:.3f}")


def start(python: str, args: argparse.Namespace, tokens: Path, side: str) -> dict:
    command = [python, __file__, "--model", str(args.model), "--tokens", str(tokens), "--side", side]
    command += ["--act-order"] if args.act_order else []
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in finished.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        sys.exit(f"{side} failed:\n{finished.stdout[-2000:]}\n{finished.stderr[-4000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def report(name: str, result: dict) -> None:
    print(
        f"{name:15s} perplexity {result['perplexity']:8.4f} (16 bit: {result['reference']:.4f})   "
        f"load+quantize+save {result['seconds']:6.1f} s, quantize alone {result['quantize_seconds']:6.1f} s, "
        f"processor {result['processor_seconds']:6.1f} s",
        flush=True,
    )


def draw_tokens(model: Path) -> dict:
    """Calibration segments and held-out segments from disjoint halves of CPython's own documentation topics."""
    from pydoc_data.topics import topics

    from transformers import AutoTokenizer

    sys.path.insert(0, str(ROOT))
    from quantgate.quantize.calibration import segments

    tokenizer = AutoTokenizer.from_pretrained(model)
    names = sorted(topics)
    halves = [tokenizer("\n\n".join(topics[name] for name in names[start::2]))["input_ids"] for start in (0, 1)]
    held_out = [halves[0][at * LENGTH : (at + 1) * LENGTH] for at in range(SAMPLES)]
    return {"calibration": segments(halves[1], SAMPLES, LENGTH, 0, "benchmark"), "held_out": held_out}


def perplexity(model, held_out: list) -> float:
    import torch

    total = 0.0
    with torch.no_grad():
        for at in range(0, len(held_out), 4):
            ids = torch.tensor(held_out[at : at + 4])
            logits = model(input_ids=ids).logits[:, :-1].float()
            total += float(
                torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
            )
    return math.exp(total / (len(held_out) * (LENGTH - 1)))


def load_reference(model: Path):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()


def run_ours(model: Path, tokens: dict, act_order: bool) -> dict:
    import torch

    sys.path.insert(0, str(ROOT))
    from quantgate.progress import Silent
    from quantgate.quantize.base import Method
    from quantgate.quantize.calibration import Calibration
    from quantgate.quantize.checkpoint import load_quantized
    from quantgate.quantize.gptq import GptqSettings
    from quantgate.quantize.run import quantize_checkpoint

    reference = perplexity(load_reference(model), tokens["held_out"])
    settings = GptqSettings(4, group_size=GROUP, desc_act=act_order, static_groups=act_order)
    method = Method("gptq-bench-w4", "gptq", settings, 4, True, "packed", 1, "benchmark", "benchmark")
    calibration = Calibration("topics", "docs", tuple(map(tuple, tokens["calibration"])), (), 0)
    with tempfile.TemporaryDirectory() as target:
        start_time, processor = time.perf_counter(), time.process_time()
        record = quantize_checkpoint(model, method, calibration, Path(target), progress=Silent())
        seconds, processor = time.perf_counter() - start_time, time.process_time() - processor
        value = perplexity(load_quantized(Path(target), torch.bfloat16), tokens["held_out"])
    times = {"seconds": seconds, "quantize_seconds": record.seconds, "processor_seconds": processor}
    return {"perplexity": value, "reference": reference, **times}


def run_peer(model: Path, tokens: dict, act_order: bool) -> dict:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from transformers import AutoTokenizer

    reference = perplexity(load_reference(model), tokens["held_out"])
    rows = {"input_ids": tokens["calibration"], "attention_mask": [[1] * LENGTH] * SAMPLES}
    weights = QuantizationArgs(num_bits=4, symmetric=True, strategy="group", group_size=GROUP)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    recipe = GPTQModifier(
        config_groups={"group_0": scheme},
        ignore=["lm_head"],
        dampening_frac=0.01,
        actorder="static" if act_order else None,
    )
    start_time = time.perf_counter()
    quantized = load_reference(model)
    begin, processor = time.perf_counter(), time.process_time()
    oneshot(
        model=quantized,
        tokenizer=AutoTokenizer.from_pretrained(model),
        dataset=Dataset.from_dict(rows),
        recipe=recipe,
        max_seq_length=LENGTH,
        num_calibration_samples=SAMPLES,
    )
    alone, processor = time.perf_counter() - begin, time.process_time() - processor
    value = perplexity(quantized.eval(), tokens["held_out"])
    evaluated = time.perf_counter()
    with tempfile.TemporaryDirectory() as target:
        quantized.save_pretrained(target, save_compressed=True)
    seconds = (begin - start_time) + alone + (time.perf_counter() - evaluated)
    times = {"seconds": seconds, "quantize_seconds": alone, "processor_seconds": processor}
    return {"perplexity": value, "reference": reference, **times}


if __name__ == "__main__":
    main()
