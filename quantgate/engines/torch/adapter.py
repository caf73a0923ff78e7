"""What the engine needs from a transformers causal LM, and nothing else.

Hidden states are taken where the model hands them to its output head, and logits come from the model's own way to them
(final soft-capping, scales), so nothing about the architecture is assumed beyond "it has a head module and a key/value
cache". Modules are only ever called, never looked into: bitsandbytes and dequantized layers work as they are.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from quantgate.core.errors import ModelError
from quantgate.engines.torch import attention
from quantgate.engines.torch.cache import GrowingCache, PrefixCache
from quantgate.engines.torch.output import Output
from quantgate.engines.torch.rope import Regimes
from quantgate.models.loading import configured_context
from quantgate.models.products import wide_products

_MASKABLE: Final = ("sdpa", "eager")
# Relative difference of hidden states in the trial; a branch that sees another differs by about one.
_EXACT, _ROUNDED = 1e-3, 0.1
_LAYER_TYPES: Final = frozenset({"full_attention", "sliding_attention"})


@dataclass(frozen=True, slots=True)
class _Trial:
    """Whether a model takes positions as counted from 0, and keeps branches of one row apart."""

    counts: bool
    branches: bool


_TRIED: Final[WeakKeyDictionary[Any, _Trial]] = WeakKeyDictionary()


class CausalModel:
    """A transformers causal LM behind two calls: :meth:`hidden` and :meth:`logits`.

    Raises:
        ModelError: the model has no output embeddings (`Output`), or layers that keep something else than keys and
            values.
    """

    def __init__(self, model: Any, device: str | torch.device) -> None:
        self.model, self.device = model, torch.device(device)
        self.config = model.config.get_text_config()
        self.output = Output(model, self.config)
        self._check_layers()
        self.own_attention = attention.available(model, self.device)
        self._parameters = frozenset(inspect.signature(model.forward).parameters)
        self._slides = hasattr(sys.modules[type(model).__module__], "create_sliding_window_causal_mask")
        self.regimes = Regimes(model)
        if model not in _TRIED:
            with torch.no_grad(), self.running():
                _TRIED[model] = self._try()
        if not _TRIED[model].counts:
            raise ModelError(
                f"model {self.name!r}",
                "counts positions otherwise than from 0",
                expected="a model that can be told where a token stands",
                hint="score it through an endpoint instead (--candidate NAME=URL)",
            )

    @property
    def name(self) -> str:
        """The architecture's name in transformers."""
        return str(self.config.model_type)

    @property
    def max_length(self) -> int | None:
        """Most positions the model was made for; None where the configuration does not say."""
        return configured_context(self.config)

    @property
    def vocabulary(self) -> int:
        """Number of logits per position, as far as the configuration tells."""
        return int(self.config.vocab_size)

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return int(self.config.num_hidden_layers)

    @property
    def branching(self) -> bool:
        """Whether several branches of a tree can be read in one row: free positions and masks of our own.

        Decided from the architecture alone (never from its answers), so that reference and subject agree.
        """
        alibi = getattr(self.config, "alibi", False) or self.name in ("bloom", "mpt")
        chunked = getattr(self.config, "attention_chunk_size", None) is not None
        maskable = getattr(self.config, "_attn_implementation", None) in (*_MASKABLE, attention.NAME)
        local = "local" in (getattr(self.config, "attention_layers", None) or ())  # GPT-Neo counts columns itself
        return (
            "position_ids" in self._parameters
            and maskable
            and not alibi
            and not chunked
            and not local
            and self._layer_types() <= _LAYER_TYPES
            and _TRIED[self.model].branches
        )

    def _try(self) -> _Trial:
        """What the model really does with positions and masks of ours: tried once per model, not believed."""
        row = [[2, 3, 5, 4, 6, 7, 8, 9, 9, 7, 7]]  # a trunk of 5 and two branches of 3
        tokens = torch.tensor(row, device=self.device) % self.vocabulary
        first, second = tokens[:, :8], torch.cat([tokens[:, :5], tokens[:, 8:]], dim=1)
        alone = self.hidden(first), self.hidden(second)
        told = self.hidden(first, positions=torch.arange(8, device=self.device)[None])
        allowed = torch.ones(11, 11, dtype=torch.bool, device=self.device).tril()[None]
        allowed[:, 8:, 5:8] = False
        positions = torch.tensor([[*range(8), 5, 6, 7]], device=self.device)
        try:
            found = self.hidden(tokens, positions=positions, mask=self.masks(allowed, positions, 0))
        except (RuntimeError, ValueError, TypeError, KeyError, IndexError):
            return _Trial(self._alike(told, alone[0]), branches=False)  # it takes no mask of ours
        wanted = torch.cat([alone[0], alone[1][:, 5:]], dim=1)
        return _Trial(self._alike(told, alone[0]), self._alike(found, wanted))

    def _alike(self, found: Tensor, wanted: Tensor) -> bool:
        """Whether hidden states agree up to rounding; those that are not numbers tell nothing and do."""
        limit = _EXACT if self.model.dtype == torch.float32 else _ROUNDED
        difference = (found.float() - wanted.float()).norm()
        return not bool(difference > limit * wanted.float().norm())

    def _layer_types(self) -> frozenset[str]:
        return frozenset(getattr(self.config, "layer_types", None) or ())

    def _check_layers(self) -> None:
        if getattr(self.config, "keep_window_size", None) is not None:  # Doge
            raise ModelError(
                f"model {self.name!r}",
                "attends to a number of keys that it chooses among those it is given",
                expected="attention that does not depend on what is read beside a text",
                hint="score it through an endpoint instead (--candidate NAME=URL)",
            )
        known = _LAYER_TYPES | {"chunked_attention"}
        if not self._layer_types() <= known:
            raise ModelError(
                f"model {self.name!r}",
                f"has layers of type {', '.join(sorted(self._layer_types() - known))}",
                expected="attention layers with a key/value cache",
                hint="score it through an endpoint instead (--candidate NAME=URL)",
            )

    def masks(self, allowed: Tensor, positions: Tensor, prefix: int) -> Tensor | dict[str, Tensor]:
        """The model's attention mask argument for rows that see only what ``allowed`` says.

        Args:
            allowed: bool [B, L, prefix + L], True where the query may look.
            positions: int64 [B, L], position of each token in its sequence.
            prefix: columns before the rows' own tokens; column ``c`` of them is position ``c``.
        """
        window, kinds = self._window, self._layer_types()
        full = self._as_mask(allowed)
        if window is None:
            return dict.fromkeys(kinds, full) if kinds else full
        before = torch.arange(prefix, device=positions.device).expand(len(positions), prefix)
        keys = torch.cat([before, positions], dim=1)
        near = positions[:, :, None] - keys[:, None, :] < window
        sliding = self._as_mask(allowed & near)
        if not kinds:
            return sliding
        return {kind: sliding if kind == "sliding_attention" else full for kind in kinds}

    def _as_mask(self, allowed: Tensor) -> Tensor:
        mask = allowed[:, None]
        if self.config._attn_implementation in ("sdpa", attention.NAME):
            return mask
        dtype = self.model.dtype
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)

    def hidden(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Tensor | dict[str, Tensor] | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Read ``tokens`` (int64 [B, L]); returns the head's input, [B, L, hidden] in the model's dtype.

        Args:
            tokens: right-padded with anything.
            positions: int64 [B, L]; None lets the model count on from the cache.
            mask: from :meth:`masks`, or int64 [B, past + L] with 0 at left padding, or None for plain causal.
            cache: a transformers Cache to continue and to fill, or None.
        """
        given: dict[str, Any] = {"attention_mask": mask, "past_key_values": cache, "use_cache": cache is not None}
        if positions is not None and "position_ids" in self._parameters:
            given["position_ids"] = positions
        is_ours = isinstance(cache, PrefixCache | GrowingCache)
        shared = cache if is_ours and cache.spans and self.shares_prefixes else None
        with attention.sharing(shared), self.output.taking() as taken:
            logits = self.model(input_ids=tokens, **given).logits
        self.output.learn(taken[0][:1, :1], logits)
        return taken[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [n, vocabulary] (the model's dtype) of hidden states [n, hidden]."""
        return self.output.logits(hidden)

    def prefix_cache(self, prefixes: Sequence[Any]) -> PrefixCache:
        """A cache for rows that continue ``prefixes`` (a Prefix or None each)."""
        return PrefixCache(prefixes, self.n_layers, shared=self.shares_prefixes)

    @property
    def shares_prefixes(self) -> bool:
        """Whether the attention function reads prefixes in place (it has no windows) instead of copying them."""
        return self.own_attention and self.branching and self._window is None

    @property
    def _window(self) -> int | None:
        """Width of the windows, where the model's code knows such: a stray entry of the configuration is none."""
        window = getattr(self.config, "sliding_window", None) if self._slides else None
        kinds = self._layer_types()
        return None if window is None or (kinds and "sliding_attention" not in kinds) else int(window)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within a block the model attends through :mod:`quantgate.engines.torch.attention` where it can, and computes
        its linear layers in float32 where the processor has no 16-bit products.
        """
        own = attention.replaced(self.model) if self.own_attention else nullcontext()
        with wide_products(self.model.dtype), own:
            yield
