"""What perplexity and an exact divergence cost beyond the hidden states, as the vocabulary grows.

Command:
    python benchmarks/head_cost.py --model DIR [--segments 8] [--length 2048] [--threads 1] [--cpu-time]
    python benchmarks/head_cost.py --shape 640x2048x4x1x18 --vocabulary 262144 --segments 4

"hidden states": transformers' decoder over the same segments, one at a time, its linear layers multiplied as the engine
multiplies them. "reference": the engine's losses with hidden states kept; "subject": losses and divergence of the same
model with noise on its weights. Each is told as a multiple of the hidden states' time and of the time that its own
operations (linear layers, attention, one product with the head, two for the subject) would take at the matmul rate
measured in the same run. Sides take turns, the best of ``--repeats`` counts. Then the mean divergence of the last
segment's first 64 positions against float64 from the hidden states of both models.
"""

from __future__ import annotations

import argparse
import copy
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prefill_rate
import torch
from prefill_rate import NoTokenizer, matmul_rate, operations, random_model
from transformers import AutoModelForCausalLM

from quantgate.core.progress import Silent
from quantgate.core.requests import Rolling
from quantgate.engines.torch.engine import TorchEngine
from quantgate.engines.torch.states import StatesReader, StatesWriter
from quantgate.models.products import wide_products

clock: Callable[[], float] = time.perf_counter


def seconds(call: Callable[[], Any]) -> float:
    started = clock()
    call()
    return clock() - started


def noisy(model: Any, share: float = 0.05) -> Any:
    """A copy with linear layers of the decoder off by ``share`` of their mean size."""
    found, torch_seed = copy.deepcopy(model), torch.Generator().manual_seed(1)
    head = found.get_output_embeddings()
    with torch.no_grad():
        for module in found.modules():
            if isinstance(module, torch.nn.Linear) and module is not head:
                noise = torch.randn(module.weight.shape, generator=torch_seed)
                module.weight.add_((noise * share * module.weight.float().abs().mean()).to(module.weight.dtype))
    return found


class Sides:
    """Hidden states alone, the reference and the subject over the same segments."""

    def __init__(self, model: Any, segments: list[Rolling], folder: Path) -> None:
        self.model, self.subject, self.segments, self.folder = model, noisy(model), segments, folder
        self.found: dict[int, Any] = {}
        for each in (self.model, self.subject):
            self.engine(each)  # what an engine tries out on a model once is not what is timed

    def engine(self, model: Any) -> TorchEngine:
        return TorchEngine(model, NoTokenizer(), progress=Silent())

    @torch.no_grad()
    def hidden(self) -> None:
        with wide_products(self.model.dtype):
            for segment in self.segments:
                self.model.get_decoder()(input_ids=torch.tensor([segment.tokens[:-1]]), use_cache=False)

    def reference(self) -> None:
        engine = self.engine(self.model)
        engine.run(self.segments, lambda *_: None, keep=StatesWriter(self.folder, engine.model.output.head()))

    def compared(self) -> None:
        self.engine(self.subject).run(self.segments, self.found.__setitem__, against=StatesReader(self.folder))

    @torch.no_grad()
    def against_float64(self, count: int = 64) -> tuple[float, float]:
        """Mean divergence of the last segment's first positions, as found and in float64."""
        last = len(self.segments) - 1
        sides = []
        with wide_products(self.model.dtype):
            for model in (self.model, self.subject):
                ids = torch.tensor([self.segments[last].tokens[:count]])
                hidden = model.get_decoder()(input_ids=ids, use_cache=False)[0][0]
                logits = model.get_output_embeddings()(hidden)  # in the model's dtype, as it gives them
                sides.append(logits.double().log_softmax(-1))
        wanted = (sides[0].exp() * (sides[0] - sides[1])).sum(-1).mean()
        return sum(self.found[last].kld[:count]) / count, float(wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="directory of a Llama-like model")
    what.add_argument("--shape", help="random weights of this shape instead, as in prefill_rate.py")
    parser.add_argument("--vocabulary", type=int, default=262_144, help="of --shape")
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16", help="float32 for the check against float64")
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    global clock
    clock = prefill_rate.clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    model = (
        AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
        if args.model
        else random_model(args.shape, args.vocabulary).to(dtype)
    ).eval()
    draw = random.Random(0)
    size = model.config.vocab_size
    segments = [Rolling(tuple(draw.randrange(10, size) for _ in range(args.length))) for _ in range(args.segments)]
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(model, segments, Path(folder))
        calls = {"hidden states": sides.hidden, "reference": sides.reference, "subject": sides.compared}
        times = [{name: seconds(call) for name, call in calls.items()} for _ in range(args.repeats)]
        found, wanted = sides.against_float64()
    best = {name: min(each[name] for each in times) for name in calls}
    rate, read = matmul_rate(), args.segments * (args.length - 1)
    attended = args.segments * args.length * (args.length - 1) // 2
    print(f"{args.threads} threads, {read} positions, vocabulary {size}, matmul {rate / 1e12:.3f} T/s")
    for heads, (name, spent) in enumerate(best.items()):
        floor = operations(model, read, attended, heads * read) / rate
        print(
            f"{name:14s} {spent:8.2f} s  {spent / best['hidden states']:.2f} of the hidden states"
            f"  {spent / floor:.2f} of its operations at the matmul rate"
        )
    print(f"divergence {found:.6g}, float64 {wanted:.6g}: {abs(found / wanted - 1):.1e} apart")


if __name__ == "__main__":
    main()
