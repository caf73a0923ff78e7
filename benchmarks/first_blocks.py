"""Several rows of the method table on the first blocks of a model: what they lose, and what they cost a block.

    python benchmarks/first_blocks.py --blocks 2 --methods rtn3,gptq3,omniquant-brief-w3
    python benchmarks/first_blocks.py --model DIR --blocks 4 --calibration-samples 32

For methods whose whole row takes hours, and for many rows in minutes: a model of the first ``--blocks`` blocks is cut
out and quantized as any other. ``error`` is the squared difference of its logits from the 16-bit one's, relative to
their variance, on text that no method has seen; ``seconds a block`` is the processor's time, loading and saving
included. Early blocks are not the whole model: order of magnitude and order of rows are what to read.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

LENGTH = 256  # tokens of a segment of held-out text
SEGMENTS = 4
ROWS = "rtn3,gptq3,awq3,omniquant-brief-w3,rtn2,gptq2,awq2,omniquant-brief-w2"


def main() -> None:
    args = parse()
    import torch

    torch.set_num_threads(args.threads)
    from quantgate.quantize.catalogue.methods import get_methods

    methods = get_methods(args.methods.split(","))
    with tempfile.TemporaryDirectory() as folder:
        whole, calibration, text = inputs(args)
        cut(whole, Path(folder) / "model", args.blocks)
        before = logits(Path(folder) / "model", text, quantized=False)
        print(f"{args.blocks} blocks, {calibration.n_tokens} tokens of calibration, {SEGMENTS * LENGTH} held out")
        print("| method | error | seconds a block |\n|---|---|---|", flush=True)
        for method in methods:
            print(line(method, Path(folder), calibration, text, before, args.blocks), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--methods", default=ROWS, help="rows of the table")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--calibration-samples", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--store", type=Path)
    return parser.parse_args()


def inputs(args: argparse.Namespace) -> tuple[Path, Any, Any]:
    """Directory of the whole model, the dialogues, and held-out prose, int64 [SEGMENTS, LENGTH]."""
    import torch

    from quantgate.core.progress import Silent
    from quantgate.models.loading import context_length, load_tokenizer
    from quantgate.models.source import resolve_model
    from quantgate.quantize.calibration.sources import CalibrationChoice, build_calibration
    from quantgate.store.store import Store, default_root
    from quantgate.tasks.corpora import prose
    from quantgate.tasks.data import open_data
    from quantgate.tasks.prompts import Prompts

    found = resolve_model(args.model, None, Store(args.store or default_root(), Silent()))
    data, tokenizer = open_data("bundled", ROOT / "evals" / "data", offline=True), load_tokenizer(found.path, found.id)
    choice = CalibrationChoice(n_samples=args.calibration_samples)
    calibration = build_calibration(
        choice, data, data, Prompts(tokenizer, context_length(found.path, found.id), found.id)
    )
    ids = tokenizer(prose(data)[: 20 * SEGMENTS * LENGTH])["input_ids"][: SEGMENTS * LENGTH]
    return found.path, calibration, torch.tensor(ids).view(SEGMENTS, LENGTH)


def cut(whole: Path, target: Path, blocks: int) -> None:
    """A checkpoint of the first ``blocks`` blocks of ``whole``, with its ends."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.bfloat16)
    del model.model.layers[blocks:]
    model.config.num_hidden_layers = blocks
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:blocks]
    model.save_pretrained(target)


def logits(path: Path, text: Any, *, quantized: bool) -> Any:
    """Of every token of ``text`` but the first of a segment, centred, bf16 [tokens, vocabulary]."""
    import torch

    from quantgate.checkpoints.checkpoint import load_quantized
    from quantgate.models.loading import load_reference

    model = load_quantized(path, torch.bfloat16) if quantized else load_reference(path, "cut", "bfloat16", "cpu")
    with torch.inference_mode():
        found = [model(segment.unsqueeze(0)).logits[0, 1:].float() for segment in text]
        return torch.cat([(each - each.mean(-1, keepdim=True)).to(torch.bfloat16) for each in found])


def line(method: Any, folder: Path, calibration: Any, text: Any, before: Any, blocks: int) -> str:
    from quantgate.core.progress import Silent
    from quantgate.subjects.make import quantize_checkpoint

    start = time.process_time()
    given = calibration if method.needs_calibration else None
    quantize_checkpoint(folder / "model", method, given, folder / method.id, progress=Silent())
    seconds = (time.process_time() - start) / blocks
    after = logits(folder / method.id, text, quantized=True)
    pairs = zip(before.split(256), after.split(256), strict=True)
    change = sum(float((one.float() - other.float()).square().sum()) for one, other in pairs)
    error = change / sum(float(each.float().square().sum()) for each in before.split(256))
    return f"| `{method.id}` | {error:.2g} | {seconds:.1f} |"


if __name__ == "__main__":
    main()
