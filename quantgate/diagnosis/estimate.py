"""Effects to second order, of all modules at once, from a few backward passes of the 16-bit model.

To second order KL(p || q) of a position is ``½ dz' F dz``: ``dz`` is what an exchange does to the logits, ``F`` their
Fisher matrix. A token drawn from the model's own distribution at every position makes ``g = d log p(drawn) / dz`` with
``E[g g'] = F`` and, positions being drawn independently, the sum over a segment of ``g . dz`` has the square ``2 KL``
of the segment in expectation. To first order ``sum g . dz`` is the gradient at a module's output times the error that
the module makes there, which is known from the stored input: so one backward pass gives a draw for every module, and
sums over modules give draws for groups, components, blocks and the whole. (Natural-gradient pruning and ModelOpt's
auto_quantize rank by the same square; there the products are squared token by token, which leaves out how the errors of
a segment's tokens add up.)

Cheap, and small effects are hit on average; an effect of a nat or more is far beyond second order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantgate.core.errors import ModelError
from quantgate.diagnosis.passes import Bench, Chunk
from quantgate.models.layers import hooks


@dataclass(frozen=True)
class Draws:
    """``products``: float64 ``[probes, segments, modules]``, gradient times error; ``modules``: their names.

    ``scored``: positions of every segment.
    """

    products: Tensor
    modules: tuple[str, ...]
    scored: tuple[int, ...]

    def of(self, modules: Sequence[str]) -> list[float]:
        """Estimated KL of exchanging ``modules`` together, nats a token, for every segment."""
        chosen = [self.modules.index(name) for name in modules]
        total = self.products[:, :, chosen].sum(-1)
        return (total.square().mean(0) / 2 / torch.tensor(self.scored, dtype=torch.float64)).tolist()


def draw(bench: Bench, donors: Mapping[str, nn.Module], probes: int, seed: int) -> Draws:
    """One forward and ``probes`` backward passes of ``bench``'s model.

    Args:
        bench: the 16-bit model and the segments.
        donors: the subject's modules, by name.
        probes: how often a token is drawn at every position.
        seed: of the draws.
    """
    return draw_together(bench, [donors], probes, seed)[0]


def draw_together(bench: Bench, subjects: Sequence[Mapping[str, nn.Module]], probes: int, seed: int) -> list[Draws]:
    """As `draw` of each of the ``subjects``, to the last bit, by the same passes: the model's own are run once."""
    generator = torch.Generator(device=next(bench.model.parameters()).device).manual_seed(seed)
    sizes = (probes, len(bench.segments))
    tables = [torch.zeros(*sizes, len(donors), dtype=torch.float64) for donors in subjects]
    for chunk in bench.chunks:
        _draw(bench, chunk, subjects, tables, generator)
    scored = tuple(segment.scored for segment in bench.segments)
    return [Draws(table, tuple(donors), scored) for donors, table in zip(subjects, tables, strict=True)]


def _draw(
    bench: Bench,
    chunk: Chunk,
    subjects: Sequence[Mapping[str, nn.Module]],
    tables: Sequence[Tensor],
    generator: torch.Generator,
) -> None:
    mine = list(dict.fromkeys(chunk.owner.tolist()))
    found = [torch.zeros(len(mine), len(donors), dtype=torch.float64) for donors in subjects]
    with hooks(_watching(bench.model, subjects, found)), torch.enable_grad():
        logits = bench.logits(chunk, 0)
        bench.spend(len(subjects))  # the subjects' modules on the same inputs
        logprobs = logits.float().log_softmax(-1)
        probabilities = logprobs.detach().exp()
        for probe in range(len(tables[0])):
            for each in found:
                each.zero_()
            drawn = torch.multinomial(probabilities, 1, generator=generator)
            total = logprobs.gather(-1, drawn).sum()
            total.backward(retain_graph=probe + 1 < len(tables[0]))  # type: ignore[no-untyped-call]
            for table, each in zip(tables, found, strict=True):
                table[probe, mine] = each
            bench.spend(1)  # gradients of activations alone cost a forward


def _watching(model: Any, subjects: Sequence[Mapping[str, nn.Module]], found: Sequence[Tensor]) -> list[Any]:
    """Hooks that add gradient times error of every exchanged module to its column of ``found``."""
    embedding = model.get_input_embeddings()

    def watch(donors: Sequence[tuple[Tensor, int, nn.Module]], *, leaf: bool) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            out = output.detach().requires_grad_() if leaf else output
            for table, column, donor in donors:
                with torch.no_grad():
                    error = donor(args[0].detach()) - output.detach()
                out.register_hook(_adder(error, table, column))  # type: ignore[no-untyped-call]
            return out if leaf else None

        return hook

    wanted: dict[int, tuple[nn.Module, list[tuple[Tensor, int, nn.Module]]]] = {id(embedding): (embedding, [])}
    for table, donors in zip(found, subjects, strict=True):
        for column, (name, donor) in enumerate(donors.items()):
            module = model.get_submodule(name)
            wanted.setdefault(id(module), (module, []))[1].append((table, column, donor))
    return [module.register_forward_hook(watch(those, leaf=module is embedding)) for module, those in wanted.values()]


def _adder(error: Tensor, found: Tensor, column: int) -> Any:
    def add(gradient: Tensor) -> None:
        if len(gradient) != len(found):
            raise ModelError(
                "the estimate", f"a layer of shape {list(gradient.shape)}", expected="[segments, tokens, features]",
                hint="layers that see tokens of all segments in one row (experts) cannot be taken apart this way",
            )  # fmt: skip
        found[:, column] += (gradient.float() * error.float()).flatten(1).sum(1).double().cpu()

    return add
