"""GPTQ here against GPTQModel and llm-compressor: same model, tokens and settings; time, and held-out perplexity.

4 bit, symmetric, damping 0.01, 16 x 512 tokens, columns in their natural ``--order``, by activation with groups in that
order (``group``: our rows of the method table), or by activation with scales of the original weights (``static``). Each
side runs in a process of its own and is timed over what a user waits for: loading, quantizing, saving. Processor time,
which a busy machine distorts less, stands beside it. Perplexity is each side's own: GPTQModel's of its saved directory,
loaded again, llm-compressor's of the model in memory, ours of the saved directory.

What a peer decides for itself if it is not asked: llm-compressor's modifier turns act-order on whatever its scheme
says, GPTQModel has an order of its own (``act_group_aware``) and damps with 0.05; here all are told. Left at their
defaults are GPTQModel's offloading of finished layers to disk and the batch of one sample (``--peer-batch`` for more).
All sides run with HF_HUB_OFFLINE: GPTQModel otherwise waits for a hub that may not be there. llm-compressor takes only
groups that divide the input features: 64, not 128, for the bundled model's 576.

The floor is one forward pass of the calibration tokens through the decoder at the best bf16 matmul rate of this
machine, measured before and after. ``--phases`` says where our own time goes.

    python benchmarks/quantize_vs_peers.py --model DIR --gptqmodel-python peers/gptqmodel/bin/python \\
        --llmcompressor-python peers/llmc/bin/python

Peers want virtual environments of their own. llm-compressor: ``pip install torch==2.13.0 llmcompressor==0.14.0.1``.
GPTQModel asks for torch 2.14.1, which has no CPU build on PyPI; it runs with 2.13: ``pip install torch==2.13.0``, then
its requirements without torch, then ``pip install --no-deps --no-build-isolation gptqmodel==7.7.0``.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SAMPLES, LENGTH = 16, 512
ROOT = Path(__file__).resolve().parent.parent
ORDERS = ("natural", "group", "static")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="16-bit checkpoint directory")
    parser.add_argument("--gptqmodel-python", help="python with gptqmodel; without it that peer is left out")
    parser.add_argument("--llmcompressor-python", help="python with llmcompressor; without it that peer is left out")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--order", choices=ORDERS, default="natural")
    parser.add_argument("--peer-batch", type=int, default=1, help="calibration samples in a batch of GPTQModel")
    parser.add_argument("--seed", type=int, default=0, help="which calibration segments are drawn")
    parser.add_argument("--rounds", type=int, default=1, help="all sides in turns, that many times")
    parser.add_argument("--phases", action="store_true", help="say where our own time goes")
    parser.add_argument(
        "--threads", type=int, help="OMP threads of all sides; 1 gives steady figures on a busy machine"
    )
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        job = json.loads(args.job.read_text(encoding="utf-8"))
        print("RESULT " + json.dumps(SIDES[args.side](job)))
        return
    if args.model is None:
        parser.error("--model is missing")
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
    pythons = {
        "quantgate": sys.executable,
        "gptqmodel": args.gptqmodel_python,
        "llmcompressor": args.llmcompressor_python,
    }
    compare({name: python for name, python in pythons.items() if python}, args)


def compare(pythons: dict[str, str], args: argparse.Namespace) -> None:
    """Run all sides in turns; print every run, then the best of each side."""
    floors = [floor_seconds(args.model)]
    best: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as scratch:
        job = Path(scratch) / "job.json"
        told = {name: getattr(args, name) for name in ("group_size", "order", "peer_batch", "phases")}
        job.write_text(
            json.dumps(draw_tokens(args.model, args.seed) | told | {"model": str(args.model.absolute())}),
            encoding="utf-8",
        )
        for _ in range(args.rounds):
            for name, python in pythons.items():
                if (found := start(python, name, job)) is not None:
                    report(name, found)
                    best[name] = min(best.get(name, found), found, key=lambda each: each["seconds"])
    floors.append(floor_seconds(args.model))
    ours, floor = best.pop("quantgate"), min(floors)
    before, after = floors
    print(f"floor: {floor:.1f} s (before {before:.1f}, after {after:.1f}); ours / floor {ours['seconds'] / floor:.2f}")
    for name, theirs in best.items():
        ratios = (ours[what] / theirs[what] for what in ("seconds", "processor_seconds", "perplexity"))
        print("ours / {}: wall {:.3f}, processor {:.3f}, perplexity {:.4f}".format(name, *ratios))


def start(python: str, side: str, job: Path) -> dict | None:
    """Run one side under its own python; None if a peer cannot do it (llm-compressor wants whole groups only)."""
    command = [str(Path(python).absolute()), __file__, "--side", side, "--job", str(job)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}  # GPTQModel asks the hub, and waits long where there is none
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=job.parent)
    lines = [line for line in finished.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines and side == "quantgate":
        sys.exit(f"{side} failed:\n{finished.stdout[-2000:]}\n{finished.stderr[-4000:]}")
    if not lines:
        reason = [line for line in finished.stderr.splitlines() if "Error: " in line]
        print(f"{side:15s} cannot: {(reason or ['it stopped'])[-1][:300]}", flush=True)
        return None
    return json.loads(lines[-1].removeprefix("RESULT "))


def report(name: str, result: dict) -> None:
    print(
        f"{name:15s} perplexity {result['perplexity']:8.4f} (16 bit: {result['reference']:.4f})   "
        f"load+quantize+save {result['seconds']:6.1f} s, quantize alone {result['quantize_seconds']:6.1f} s, "
        f"processor {result['processor_seconds']:6.1f} s",
        flush=True,
    )
    for phase, seconds in result.get("phases", {}).items():
        print(f"{'':15s} {phase:40s} {seconds:6.1f} s", flush=True)


def floor_seconds(model: Path) -> float:
    """One forward pass of the calibration tokens through the decoder at the best matmul rate of this machine."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    from prefill_rate import matmul_rate, operations

    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    return operations(shape, SAMPLES * LENGTH, SAMPLES * LENGTH * (LENGTH + 1) // 2, 0) / matmul_rate()


def draw_tokens(model: Path, seed: int = 0, samples: int = SAMPLES) -> dict:
    """Calibration segments and held-out segments from disjoint halves of CPython's own documentation topics."""
    from pydoc_data.topics import topics

    from transformers import AutoTokenizer

    sys.path.insert(0, str(ROOT))
    from quantgate.quantize.calibration.samples import segments

    tokenizer = AutoTokenizer.from_pretrained(model)
    names = sorted(topics)
    halves = [tokenizer("\n\n".join(topics[name] for name in names[start::2]))["input_ids"] for start in (0, 1)]
    held_out = [halves[0][at * LENGTH : (at + 1) * LENGTH] for at in range(SAMPLES)]
    return {"calibration": segments(halves[1], samples, LENGTH, seed, "benchmark"), "held_out": held_out}


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


def load_reference(model: str):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()


class Clock:
    """Wall and processor seconds (of all threads and ended children) of the parts of a run that a user waits for."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self.processor = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        wall, processor = time.perf_counter(), sum(os.times()[:4])
        yield
        self.parts[name] = time.perf_counter() - wall
        self.processor += sum(os.times()[:4]) - processor

    def result(self, perplexity: float, reference: float) -> dict:
        return {
            "perplexity": perplexity,
            "reference": reference,
            "seconds": sum(self.parts.values()),
            "quantize_seconds": self.parts["quantize"],
            "processor_seconds": self.processor,
        }


def run_quantgate(job: dict) -> dict:
    import torch

    sys.path.insert(0, str(ROOT))
    from quantgate.checkpoints.checkpoint import load_quantized
    from quantgate.core.progress import Silent
    from quantgate.quantize.base import Method
    from quantgate.quantize.calibration.samples import Calibration
    from quantgate.quantize.settings import GptqSettings
    from quantgate.subjects.make import quantize_checkpoint

    reference, clock = perplexity(load_reference(job["model"]), job["held_out"]), Clock()
    by_activation, static = job["order"] != "natural", job["order"] == "static"
    settings = GptqSettings(4, job["group_size"], desc_act=by_activation, static_groups=static)
    method = Method("gptq-bench-w4", "gptq", settings, 4, True, "packed", 1, "benchmark", "benchmark")
    calibration = Calibration("topics", "docs", tuple(map(tuple, job["calibration"])), (), 0)
    phases = watch_phases() if job["phases"] else {}
    with tempfile.TemporaryDirectory() as target:
        with clock.part("quantize"):  # which loads and saves too
            quantize_checkpoint(Path(job["model"]), method, calibration, Path(target), progress=Silent())
        rest = clock.parts["quantize"] - sum(phases.values())
        value = perplexity(load_quantized(Path(target), torch.bfloat16), job["held_out"])
    return clock.result(value, reference) | ({"phases": phases | {"everything else": rest}} if phases else {})


def watch_phases() -> dict[str, float]:
    """Count the seconds spent inside the parts of our own run, each without those of the parts it calls."""
    from quantgate.checkpoints import checkpoint
    from quantgate.quantize.algorithms import gptq
    from quantgate.quantize.numerics import columns, hessian, uniform
    from quantgate.quantize.sweep import driver
    from quantgate.subjects import make as run

    spent: dict[str, float] = {}
    inner = [0.0]

    def timed(name: str, call: Callable) -> Callable:
        def wrapped(*args, **kwargs):
            start_time = time.perf_counter()
            inner.append(0.0)
            try:
                return call(*args, **kwargs)
            finally:
                taken = time.perf_counter() - start_time
                spent[name] = spent.get(name, 0.0) + taken - inner.pop()
                inner[-1] += taken

        return wrapped

    for owner, attribute, name in (
        (run, "_load", "loading"),
        (driver, "batches_of", "embedding the text"),
        (driver, "_place", "finding the stages of a block"),
        (driver, "run_block", "forward passes"),
        (hessian.Hessian, "add", "Hessians"),
        (columns.Processing, "__init__", "Cholesky factors and inverses"),
        (gptq._Loop, "_span", "column loop: rounding inside spans"),
        (gptq._Loop, "_push", "column loop: pushing errors"),
        (gptq, "output_energy", "losses"),
        (uniform.UniformWeight, "dequantize", "dequantizing"),
        (checkpoint, "write", "packing and writing"),
    ):
        setattr(owner, attribute, timed(name, getattr(owner, attribute)))
    return spent


def run_gptqmodel(job: dict) -> dict:
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "4")
    import torch
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    reference, clock = perplexity(load_reference(job["model"]), job["held_out"]), Clock()
    settings = QuantizeConfig(
        bits=4,
        group_size=job["group_size"],
        sym=True,
        desc_act=job["order"] != "natural",
        static_groups=job["order"] == "static",
        act_group_aware=False,
        damp_percent=0.01,
    )
    rows = [{"input_ids": sample, "attention_mask": [1] * LENGTH} for sample in job["calibration"]]
    with tempfile.TemporaryDirectory() as target:
        with clock.part("load"):
            model = GPTQModel.load(job["model"], settings, device="cpu", dtype=torch.bfloat16)
        with clock.part("quantize"):
            model.quantize(rows, batch_size=job["peer_batch"])
        with clock.part("save"):
            model.save(target)
        loaded = GPTQModel.load(target, backend=BACKEND.GPTQ_TORCH, device="cpu", dtype=torch.bfloat16)
        value = perplexity(loaded.model.eval(), job["held_out"])
    return clock.result(value, reference)


def run_llmcompressor(job: dict) -> dict:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from transformers import AutoTokenizer

    reference, clock = perplexity(load_reference(job["model"]), job["held_out"]), Clock()
    rows = {"input_ids": job["calibration"], "attention_mask": [[1] * LENGTH] * SAMPLES}
    weights = QuantizationArgs(num_bits=4, symmetric=True, strategy="group", group_size=job["group_size"])
    recipe = GPTQModifier(
        config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=weights)},
        ignore=["lm_head"],
        dampening_frac=0.01,
        actorder=None if job["order"] == "natural" else job["order"],
    )
    with clock.part("load"):
        model = load_reference(job["model"])
    with clock.part("quantize"):
        oneshot(
            model=model,
            tokenizer=AutoTokenizer.from_pretrained(job["model"]),
            dataset=Dataset.from_dict(rows),
            recipe=recipe,
            max_seq_length=LENGTH,
            num_calibration_samples=SAMPLES,
        )
    value = perplexity(model.eval(), job["held_out"])
    with clock.part("save"), tempfile.TemporaryDirectory() as target:
        model.save_pretrained(target, save_compressed=True)
    return clock.result(value, reference)


SIDES = {"quantgate": run_quantgate, "gptqmodel": run_gptqmodel, "llmcompressor": run_llmcompressor}

if __name__ == "__main__":
    main()
