"""The section ``head`` of benchmarks/cuda_check.py: a large vocabulary in whole rows, and as the engine reads it."""

from __future__ import annotations

import math
from typing import Any

import torch

from quantgate.engines.torch import head as heads


def head(run: Any) -> None:
    shapes = [(64, 3000, 64)] if run.tiny else [(640, 262144, 4096), (4096, 128256, 4096), (2048, 128256, 4096)]
    for hidden, vocabulary, positions in shapes:
        name = f"{positions} x {hidden} x {vocabulary}"
        run.part("head", name, lambda name=name, shape=(positions, hidden, vocabulary): one_head(run, name, *shape))


@torch.no_grad()
def one_head(run: Any, name: str, positions: int, hidden: int, vocabulary: int) -> None:
    """The matmul alone, whole rows, and the engine's way, each the best of three."""
    generator = torch.Generator(device=run.device).manual_seed(0)
    made = {"device": run.device, "dtype": torch.bfloat16}
    states = torch.randn(positions, hidden, generator=generator, **made)
    weight = torch.randn(vocabulary, hidden, generator=generator, **made) / math.sqrt(hidden) * 3
    asked = torch.randint(0, vocabulary, (positions,), generator=generator, device=run.device)

    def product() -> None:
        for part in torch.split(states, 1024):
            part @ weight.t()

    def rows() -> tuple[torch.Tensor, torch.Tensor]:
        found = [torch.nn.functional.linear(part, weight).float() for part in torch.split(states, 1024)]
        best = torch.cat([each.argmax(-1) for each in found])
        return torch.cat([each.log_softmax(-1) for each in found]).gather(1, asked[:, None])[:, 0], best

    own = heads.LinearHead(weight)

    def blocks(divergence: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        found = []
        for at in range(0, positions, own.positions):
            part = slice(at, at + own.positions)
            kept = (own, heads.States(states[part], top[part].int(), logsum[part])) if divergence else None
            some = torch.arange(len(states[part])), asked[part].cpu()
            found.append(heads.scores(own, states[part], *some, kept))
        values, tops, sums = zip(*((each.asked, each.top, each.logsum) for each in found), strict=True)
        return torch.cat(values) - torch.cat(sums), torch.cat(tops), torch.cat(sums)

    wanted, best = rows()
    values, top, logsum = blocks()
    apart, same = float((values - wanted).abs().max()), float((top == best).float().mean())
    run.say("head", {"shape": name, "blocks against whole rows, nats": apart, "same argmax": same})
    run.check(f"head: {name}", apart < 0.05 and same > 0.99)
    ways = {"matmul alone": product, "whole rows": rows, "blocks": blocks, "with divergence": lambda: blocks(True)}
    for what, call in ways.items():
        times = [run.timed(call)[:2] for _ in range(3)]
        run.say("head", {"shape": name, "what": what, "ms": 1000 * min(times)[0], "peak GiB": max(t[1] for t in times)})
    plain = heads.fold
    try:
        heads.fold = torch.compile(plain)
        seconds, _, (compiled, *_) = run.timed(blocks)
        apart = float((compiled - values).abs().max())
        times = [run.timed(blocks)[:2] for _ in range(3)]
        row = {"shape": name, "what": "blocks, compiled", "ms": 1000 * min(times)[0], "first s": seconds}
        run.say("head", row | {"peak GiB": max(each[1] for each in times), "nats apart": apart})
    finally:
        heads.fold = plain
