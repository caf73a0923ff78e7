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
    generator = torch.Generator(device=next(bench.model.parameters()).device).manual_seed(seed)
    names = tuple(donors)
    products = torch.zeros(probes, len(bench.segments), len(names), dtype=torch.float64)
    for chunk in bench.chunks:
        _draw(bench, chunk, donors, products, generator)
    return Draws(products, names, tuple(segment.scored for segment in bench.segments))


def _draw(
    bench: Bench, chunk: Chunk, donors: Mapping[str, nn.Module], products: Tensor, generator: torch.Generator
) -> None:
    mine = list(dict.fromkeys(chunk.owner.tolist()))
    found = torch.zeros(len(mine), len(donors), dtype=torch.float64)
    embedding = bench.model.get_input_embeddings()

    def watch(column: int | None, donor: nn.Module | None, *, leaf: bool) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            out = output.detach().requires_grad_() if leaf else output
            if donor is not None and column is not None:
                with torch.no_grad():
                    error = donor(args[0].detach()) - output.detach()
                out.register_hook(_adder(error, found, column))  # type: ignore[no-untyped-call]
            return out if leaf else None

        return hook

    handles = [
        bench.model.get_submodule(name).register_forward_hook(watch(column, donor, leaf=False))
        for column, (name, donor) in enumerate(donors.items())
        if bench.model.get_submodule(name) is not embedding
    ]
    column = next((number for number, name in enumerate(donors) if bench.model.get_submodule(name) is embedding), None)
    donor = None if column is None else list(donors.values())[column]
    handles.append(embedding.register_forward_hook(watch(column, donor, leaf=True)))
    with hooks(handles), torch.enable_grad():
        logits = bench.logits(chunk, 0)
        bench.spend(1)  # the subject's modules on the same inputs
        logprobs = logits.float().log_softmax(-1)
        probabilities = logprobs.detach().exp()
        for probe in range(len(products)):
            found.zero_()
            drawn = torch.multinomial(probabilities, 1, generator=generator)
            total = logprobs.gather(-1, drawn).sum()
            total.backward(retain_graph=probe + 1 < len(products))  # type: ignore[no-untyped-call]
            products[probe, mine] = found
            bench.spend(1)  # gradients of activations alone cost a forward


def _adder(error: Tensor, found: Tensor, column: int) -> Any:
    def add(gradient: Tensor) -> None:
        if len(gradient) != len(found):
            raise ModelError(
                "the estimate", f"a layer of shape {list(gradient.shape)}", expected="[segments, tokens, features]",
                hint="layers that see tokens of all segments in one row (experts) cannot be taken apart this way",
            )  # fmt: skip
        found[:, column] += (gradient.float() * error.float()).flatten(1).sum(1).double().cpu()

    return add
