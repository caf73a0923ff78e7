"""What the isolated effects of all linear layers cost, against as many full evaluations, and whether they are the same.

The bundled model with every linear layer of its blocks rounded to nearest at 3 bits. Full evaluations (the whole model
with one layer exchanged) are run for ``--sampled`` layers and counted for all. Costs in CPU seconds of this process (so
the machine's other work hardly enters) and in forwards of the whole model.

    python benchmarks/isolated_scan.py --segments 2 --length 24      # minutes on two cores
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch

from quantgate.core.progress import Silent
from quantgate.diagnosis.estimate import draw
from quantgate.diagnosis.passes import Bench, Segment, Spent
from quantgate.diagnosis.scan import Row, Scanner, ranks_agree, value_of
from quantgate.models.loading import load_tokenizer
from quantgate.models.source import resolve_model
from quantgate.quantize.catalogue.methods import algorithm_of, get_method
from quantgate.store.store import Store, default_root
from quantgate.tasks.corpora import prose


def timed(bench: Bench, blocks: int, head: float, run: Callable[[], Any]) -> tuple[Any, float, float]:
    """What ``run`` gives, its CPU seconds, and its forwards in full evaluations."""
    bench.spent, begun = Spent(), time.process_time()
    found = run()
    return found, time.process_time() - begun, bench.spent.full_evaluations(blocks, head)


@torch.no_grad()
def rounded(model: Any, method: str) -> Any:
    """A copy of ``model`` whose blocks' linear layers are quantized by ``method``, one that looks at no data."""
    algorithm, found = algorithm_of(get_method(method)), deepcopy(model)
    for name, layer in found.named_modules():
        if isinstance(layer, torch.nn.Linear) and ".layers." in name:
            layer.weight.copy_(algorithm.quantize([layer.weight], None)[0].weight.dequantize(torch.float32))
    return found


def main() -> None:
    """Print costs and differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=2)
    parser.add_argument("--length", type=int, default=24)
    parser.add_argument("--sampled", type=int, default=10)
    parser.add_argument("--leading", type=int, default=18)
    parser.add_argument("--probes", type=int, default=4)
    args = parser.parse_args()
    files = resolve_model("bundled", None, Store(default_root(), Silent()))
    model = files.load("float32", "cpu")
    tokens = load_tokenizer(files.path, files.id).encode(prose(None)[:8000])  # type: ignore[arg-type]
    cut = [tuple(tokens[at * args.length : (at + 1) * args.length]) for at in range(args.segments)]
    segments = [Segment(f"prose/{number}", part) for number, part in enumerate(cut)]
    maker = Scanner(model, rounded(model, "rtn3"), segments, {}, "rtn3", Silent())
    bench, blocks, head = maker.bench, maker.anatomy.blocks, maker.head_in_blocks
    _, record_cpu, record_cost = timed(bench, blocks, head, bench.observe)
    units = maker.anatomy.units("module")
    tokens_read = f"{args.segments} x {args.length} tokens"
    print(f"{len(units)} linear layers, {blocks} blocks, a head of {head:.1f} blocks, {tokens_read}")
    sampled = random.Random(0).sample(units, args.sampled)
    exchange = {unit: {name: maker.donors[name] for name in unit.modules} for unit in units}
    full, full_cpu, _ = timed(bench, blocks, head, lambda: [bench.effect(exchange[unit]) for unit in sampled])
    full_cpu *= len(units) / len(sampled)
    print(f"full evaluations: {full_cpu:.0f} CPU s for {len(units)} (from {len(sampled)})")

    draws, cpu, cost = timed(bench, blocks, head, lambda: draw(bench, maker.donors, args.probes, 0))
    cpu, cost = cpu + record_cpu, cost + record_cost
    rows = [Row(unit, 0, value_of(draws.of(unit.modules))) for unit in units]
    rows.sort(key=lambda row: -row.effect)
    leading, lead_cpu, lead_cost = timed(
        bench, blocks, head, lambda: [maker.measured(row) for row in rows[: args.leading]]
    )
    report("estimates of all", cpu, cost, full_cpu, len(units))
    report(f"with the leading {len(leading)} measured", cpu + lead_cpu, cost + lead_cost, full_cpu, len(units))
    others, other_cpu, other_cost = timed(
        bench, blocks, head, lambda: [maker.measured(row) for row in rows[args.leading :]]
    )
    report(
        "all measured", record_cpu + lead_cpu + other_cpu, record_cost + lead_cost + other_cost, full_cpu, len(units)
    )
    every = {row.unit: row for row in [*leading, *others]}
    worst = max(
        abs(every[unit].effect / value_of(effect.by_segment()).mean - 1)
        for unit, effect in zip(sampled, full, strict=True)
    )
    print(f"isolated against full evaluation on {len(sampled)} layers: greatest relative difference {worst:.1e}")
    print(f"ranks of estimates and measured effects agree by {ranks_agree(list(every.values())):.3f} (Spearman)")
    truly = sorted(every.values(), key=lambda row: -row.effect)[:10]
    seen = {row.unit for row in leading}
    print(f"of the 10 layers of the greatest effect, {sum(row.unit in seen for row in truly)} are among the leading")
    for row in truly[:5]:
        print(f"  {row.unit.name}: {row.effect:.4f} nats, estimated {row.estimate.mean:.4f}")


def report(what: str, cpu: float, cost: float, full_cpu: float, count: int) -> None:
    """One line: how much of the full evaluations it costs."""
    print(f"{what}: {cpu:.0f} CPU s = {cpu / full_cpu:.3f}; {cost:.1f} forwards = {cost / count:.3f} of {count}")


if __name__ == "__main__":
    main()
