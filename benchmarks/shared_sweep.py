"""What quantizing several methods in one sweep costs, against the sum of separate runs.

The methods that look at data are taken with the statistics of the 16-bit model (`with_float_inputs`), which is what a
sweep can share; ``--sequential`` takes paper A's settings instead, where each method needs activations of its own. The
checkpoints of both ways are compared file by file: a sweep changes no bit. Each step runs in this process, one after
the other; model and calibration text are those of `quantize_vs_peers.py`.

What depends on the data alone (forward passes, statistics, Hessians, their factors) is computed once whatever the
number of rows. Beyond that each row has its own arithmetic: AWQ rounds every weight for every ratio at its own bits,
SpQR looks for outliers on its own grid, files are packed and written. So what a sweep saves grows with the calibration
set. Measured with 16 rows (RTN, GPTQ, AWQ, SpQR at 8, 4, 3, 2 bit), equal checkpoints: 128 samples, four blocks of the
bundled model: 74 s in one sweep, 268 s apart (0.28); 16 samples, two blocks: 0.67 of the processor seconds.

    python benchmarks/shared_sweep.py --model DIR --methods rtn4,gptq4,awq4,spqr4 --samples 128
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="16-bit checkpoint directory")
    parser.add_argument("--methods", default="rtn8,rtn4,rtn3,rtn2,gptq8,gptq4,gptq3,gptq2,awq8,awq4,awq3,awq2")
    parser.add_argument("--samples", type=int, default=16, help="calibration samples of 512 tokens")
    parser.add_argument("--sequential", action="store_true", help="every method with its own settings")
    parser.add_argument("--only", choices=("sweep", "separate"), help="one side, to run the other at another time")
    parser.add_argument("--perplexity", action="store_true", help="also measure each checkpoint of the sweep")
    args = parser.parse_args()
    from quantize_vs_peers import draw_tokens

    from quantgate.quantize.calibration.samples import Calibration
    from quantgate.quantize.catalogue.methods import get_methods

    methods = get_methods(args.methods.split(","))
    rows = methods if args.sequential else [shared(method) for method in methods]
    tokens = draw_tokens(args.model, samples=args.samples)
    samples = tuple(map(tuple, tokens["calibration"]))
    calibration = Calibration("topics", "docs", samples, (), 0)
    with tempfile.TemporaryDirectory() as scratch:
        run(args, rows, calibration, Path(scratch), tokens["held_out"])


def shared(method):
    from quantgate.subjects.make import with_float_inputs

    return with_float_inputs(method) if hasattr(method.settings, "true_sequential") else method


def run(args: argparse.Namespace, rows: list, calibration, scratch: Path, held_out: list) -> None:
    from quantgate.core.progress import Silent
    from quantgate.subjects.make import quantize_checkpoint, quantize_many

    together = separate = 0.0
    if args.only != "separate":
        start = time.perf_counter()
        targets = {scratch / "sweep" / row.id: row for row in rows}
        for record in quantize_many(args.model, targets, calibration, progress=Silent()):
            print(f"{record.method['method']:22s} {record.seconds:7.1f} s in the sweep", flush=True)
        together = time.perf_counter() - start
        print(f"one sweep: {together:.1f} s", flush=True)
    if args.only != "sweep":
        for row in rows:
            record = quantize_checkpoint(args.model, row, calibration, scratch / "alone" / row.id, progress=Silent())
            separate += record.seconds
            print(f"{row.id:22s} {record.seconds:7.1f} s alone", flush=True)
        print(f"separate runs: {separate:.1f} s", flush=True)
    if not args.only:
        same = all(weights(scratch / "sweep" / row.id) == weights(scratch / "alone" / row.id) for row in rows)
        print(f"sweep / separate = {together / separate:.3f}; checkpoints equal: {same}")
    if args.perplexity and args.only != "separate":
        measure(scratch / "sweep", rows, held_out)


def weights(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def measure(directory: Path, rows: list, held_out: list) -> None:
    import torch
    from quantize_vs_peers import perplexity

    from quantgate.checkpoints.checkpoint import load_quantized

    for row in rows:
        model = load_quantized(directory / row.id, torch.bfloat16)
        print(f"{row.id:22s} perplexity {perplexity(model, held_out):.4f}", flush=True)


if __name__ == "__main__":
    main()
