"""Where a model hands its hidden states to its output head, and what becomes of them there.

The head's input is taken out of a forward pass, and the head has nothing, or little, to do in it. What the model does
after its head (soft-caps, scales) is found out by trying: of what is known, whatever gives the model's own logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from quantgate.core.errors import ModelError
from quantgate.engines.torch.head import AFTER, After, Head, LinearHead, OpaqueHead


@dataclass(frozen=True, slots=True)
class _Follows:
    """What follows a head: nothing (``plain``), what ``after`` says, or, with neither, something unknown."""

    plain: bool
    after: After | None = None


_FOUND: Final[WeakKeyDictionary[Any, _Follows]] = WeakKeyDictionary()  # tried once per model


class Output:
    """The output head of a transformers causal LM.

    Raises:
        ModelError: the model has no output embeddings.
    """

    def __init__(self, model: Any, config: Any) -> None:
        self.model, self.config = model, config
        self.module = model.get_output_embeddings()
        if self.module is None:
            raise ModelError(
                f"model {str(config.model_type)!r}",
                "has no output embeddings",
                expected="a causal language model",
                hint="",
            )

    @property
    def _follows(self) -> _Follows:
        return _FOUND.get(self.model, _Follows(plain=False))

    @contextmanager
    def taking(self) -> Iterator[list[Tensor]]:
        """Within a block the head's input is put into the list, and the head itself has nothing, or little, to do."""
        taken: list[Tensor] = []

        def take(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            taken.append(args[0])
            return (args[0][:1, :1], *args[1:])

        def skip(states: Tensor) -> Tensor:
            return states[..., :1]

        handle = self.module.register_forward_pre_hook(take)
        own = vars(self.module).get("forward")  # set where a library has wrapped the module
        if self._follows.plain:  # nothing follows the head that could mind
            self.module.forward = skip
        try:
            yield taken
        finally:
            handle.remove()
            if own is not None:
                self.module.forward = own
            else:
                vars(self.module).pop("forward", None)

    def learn(self, hidden: Tensor, logits: Tensor) -> None:
        """Find out what follows the head: the model made ``logits`` [1, 1, V] of ``hidden`` [1, 1, hidden]."""
        if self.model in _FOUND:
            return
        direct = self.module(hidden)
        given = {kind: getattr(self.config, kind, None) for kind in AFTER}
        known = [After(kind, float(value)) for kind, value in given.items() if value]
        after = next((each for each in known if _same(each(direct), logits)), None)
        plain = _same(direct, logits)
        _FOUND[self.model] = _Follows(plain, None if plain else after)

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [n, V] (the model's dtype) of hidden states [n, hidden]."""
        follows = self._follows
        if follows.plain or follows.after:
            logits: Tensor = self.module(hidden)
            return logits if follows.after is None else follows.after(logits)

        # The head is followed by something else: let the model itself do it, reading one dummy token whose hidden state
        # is replaced by ours right before the head.
        def put(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (hidden[None], *args[1:])

        handle = self.module.register_forward_pre_hook(put)
        try:
            dummy = torch.zeros(1, 1, dtype=torch.long, device=hidden.device)
            logits = self.model(input_ids=dummy, use_cache=False).logits[0]
        finally:
            handle.remove()
        return logits

    def head(self) -> Head:
        """The head, by blocks of its vocabulary where it is a linear layer and what follows it is known."""
        module = self.module
        linear = isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
        wrapped = "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
        follows = self._follows
        if linear and not wrapped and (follows.plain or follows.after) and module.weight.is_floating_point():
            return LinearHead(module.weight, module.bias, follows.after, module)
        return OpaqueHead(self.logits, int(self.config.vocab_size))


def _same(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and torch.allclose(found.float(), wanted.float(), rtol=0, atol=0, equal_nan=True)
