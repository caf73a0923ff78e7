"""Roofline: operations and bytes of every operator from a model's shape, and the time they need at best.

After LLM-Viewer (Yuan et al. 2024, arXiv 2402.16363, section 2). An operator takes
``max(operations / peak, bytes / bandwidth)``; the larger one is its bound. The int8 peak counts only where weights,
activations and cache are all at most 8 bit wide. What LLM-Viewer's code does differently from its paper, or from what
runs, is corrected here; docs/efficiency.md lists it.

Units: operations (a multiply-add is two), bytes, seconds, tokens per second. Bits may be fractional where scales are
counted in. ``batch`` sequences are read at once, each with ``queries`` new tokens that see ``keys`` tokens in the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from quantgate.efficiency.architecture import Architecture, Linear
from quantgate.efficiency.hardware import Hardware

Bound = Literal["memory", "compute"]


@dataclass(frozen=True, slots=True)
class Precision:
    """Bits of the blocks' weights, of activations and of the KV cache.

    ``stored``: bits a block weight takes in memory with its scales and zeros (``None``: ``weight``). Embedding, head
    and norms keep 16 bits, as in every checkpoint the suite writes.
    """

    weight: float = 16
    activation: float = 16
    cache: float = 16
    stored: float | None = None

    @property
    def integer(self) -> bool:
        """Whether products may use the int8 units: both operands, and the cache, are at most 8 bit wide."""
        return max(self.weight, self.activation, self.cache) <= 8

    @property
    def weight_bytes(self) -> float:
        """Bytes of a block weight as it lies in memory."""
        return (self.weight if self.stored is None else self.stored) / 8


OTHER_BYTES = 2.0  # of embedding, head and norms


@dataclass(frozen=True, slots=True)
class Operator:
    """One kind of operator in one pass, ``count`` times (once a layer); operations and bytes are of a single one."""

    name: str
    ops: float
    weights: float = 0.0
    load: float = 0.0
    store: float = 0.0
    load_cache: float = 0.0
    store_cache: float = 0.0
    count: int = 1
    integer: bool = False

    @property
    def bytes(self) -> float:
        """All traffic with memory."""
        return self.weights + self.load + self.store + self.load_cache + self.store_cache

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.ops / self.bytes

    def bound(self, hardware: Hardware) -> Bound:
        """What limits it."""
        return "memory" if self.intensity < hardware.peak(self.integer) / hardware.bandwidth else "compute"

    def seconds(self, hardware: Hardware) -> float:
        """Time of all ``count`` of them."""
        return self.count * max(self.ops / hardware.peak(self.integer), self.bytes / hardware.bandwidth)


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass: its operators and the tokens it reads (prefill) or writes (decode)."""

    operators: tuple[Operator, ...]
    tokens: int

    @property
    def ops(self) -> float:
        """Operations of the pass."""
        return math.fsum(each.ops * each.count for each in self.operators)

    @property
    def bytes(self) -> float:
        """Memory traffic of the pass."""
        return math.fsum(each.bytes * each.count for each in self.operators)

    def seconds(self, hardware: Hardware) -> float:
        """Least time of the pass."""
        return math.fsum(each.seconds(hardware) for each in self.operators)

    def rate(self, hardware: Hardware) -> float:
        """Most tokens per second."""
        return self.tokens / self.seconds(hardware)

    def bound(self, hardware: Hardware) -> Bound:
        """What limits the larger part of the pass's time."""
        compute = math.fsum(each.seconds(hardware) for each in self.operators if each.bound(hardware) == "compute")
        return "compute" if 2 * compute > self.seconds(hardware) else "memory"


@dataclass(frozen=True, slots=True)
class Setting:
    """How a pass is run.

    ``fused``: FlashAttention, no score matrix in memory. ``causal``: the masked half of the scores is not computed.
    """

    precision: Precision = Precision()
    batch: int = 1
    fused: bool = True
    causal: bool = True


def prefill(model: Architecture, setting: Setting, length: int, hardware: Hardware) -> Pass:
    """Read ``length`` tokens per sequence at once; logits are needed at the last one only."""
    return _pass(model, setting, length, length, hardware, setting.batch * length)


def decode(model: Architecture, setting: Setting, keys: int, hardware: Hardware) -> Pass:
    """Write one token per sequence, which sees ``keys`` tokens (itself among them)."""
    return _pass(model, setting, 1, keys, hardware, setting.batch)


def decode_seconds(model: Architecture, setting: Setting, prompt: int, new: int, hardware: Hardware) -> float:
    """Least time for the tokens after the first, which comes out of the prefill: ``new - 1`` passes."""
    return math.fsum(decode(model, setting, prompt + step, hardware).seconds(hardware) for step in range(1, new))


def _pass(model: Architecture, setting: Setting, queries: int, keys: int, hardware: Hardware, tokens: int) -> Pass:
    block = [
        *(_linear(linear, setting, queries) for linear in model.linears),
        *_attention(model, setting, queries, keys, hardware),
        *_pointwise(model, setting, queries),
    ]
    repeated = tuple(
        Operator(
            each.name, each.ops, each.weights, each.load, each.store, each.load_cache, each.store_cache,
            count=model.layers, integer=each.integer,
        )
        for each in block
    )  # fmt: skip
    return Pass((*repeated, *_ends(model, setting, queries)), tokens)


def _linear(linear: Linear, setting: Setting, queries: int) -> Operator:
    rows, precision = setting.batch * queries, setting.precision
    return Operator(
        linear.name,
        ops=2.0 * linear.weights * rows,
        weights=linear.weights * precision.weight_bytes,
        load=linear.inputs * rows * precision.activation / 8,
        store=(linear.outputs - linear.cached) * rows * precision.activation / 8,
        store_cache=linear.cached * rows * precision.cache / 8,
        integer=precision.integer,
    )


def _attention(
    model: Architecture, setting: Setting, queries: int, keys: int, hardware: Hardware
) -> Sequence[Operator]:
    batch, precision = setting.batch, setting.precision
    unseen = queries * (queries - 1) / 2 if setting.causal else 0  # keys after the query itself
    pairs = (queries * keys - unseen) * model.heads * batch
    product, softmax = 2 * pairs * model.head_dim, 5 * pairs
    scores = pairs * precision.activation / 8
    rows = queries * model.heads * model.head_dim * batch * precision.activation / 8  # queries in, or values out
    cache = keys * model.kv_heads * model.head_dim * batch * precision.cache / 8  # keys, or values
    integer = precision.integer
    if setting.fused:
        block = min(math.ceil(hardware.on_chip / (precision.cache / 8 * model.head_dim)), model.head_dim)
        reads = 2 * cache * math.ceil(queries / block)  # keys and values, once for every block of queries
        ops = 2 * product + softmax
        return [Operator("attention", ops, load=rows, store=rows, load_cache=reads, integer=integer)]
    return [
        Operator("qk", product, load=rows, store=scores, load_cache=cache, integer=integer),
        Operator("softmax", softmax, load=scores, store=scores),
        Operator("sv", product, load=scores, store=rows, load_cache=cache, integer=integer),
    ]


def _pointwise(model: Architecture, setting: Setting, queries: int) -> Sequence[Operator]:
    rows = setting.batch * queries
    width = model.hidden * rows
    size, inner = width * setting.precision.activation / 8, model.intermediate * rows
    inputs = 2 if model.gated else 1
    act = inner * setting.precision.activation / 8
    return [
        *(Operator(name, 7.0 * width, load=size, store=size) for name in ("attn_norm", "mlp_norm")),
        *(Operator(name, float(width), load=2 * size, store=size) for name in ("attn_add", "mlp_add")),
        Operator("mlp_act", float(inputs * inner), load=inputs * act, store=act),
    ]


def _ends(model: Architecture, setting: Setting, queries: int) -> Sequence[Operator]:
    """What comes before and after the blocks; the head works on the last token of each sequence only."""
    rows, act = setting.batch * queries, setting.precision.activation / 8
    width, last = model.hidden * rows, setting.batch
    return [
        Operator("embedding", 0.0, weights=width * OTHER_BYTES, store=width * act),
        Operator("norm", 7.0 * width, load=width * act, store=width * act),
        Operator(
            "lm_head",
            2.0 * model.embedding * last,
            weights=model.embedding * OTHER_BYTES,
            load=model.hidden * last * act,
            store=model.vocabulary * last * act,
        ),
    ]


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes: weights, KV cache at the full length, and what one block of the prefill stores at most."""

    weights: float
    cache: float
    activations: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.cache + self.activations


def weight_bytes(model: Architecture, precision: Precision, *, separate_head: bool = False) -> float:
    """Bytes of all weights; ``separate_head``: a tied head is stored a second time (as our checkpoints do)."""
    matrices = 2 if separate_head or not model.tied else 1
    return model.block_weights * precision.weight_bytes + (model.embedding * matrices + model.rest) * OTHER_BYTES


def cache_bytes(model: Architecture, precision: Precision, batch: int, length: int) -> float:
    """Bytes of keys and values of ``length`` tokens in all layers."""
    return 2 * model.layers * model.kv_heads * model.head_dim * batch * length * precision.cache / 8


def memory(model: Architecture, setting: Setting, prompt: int, new: int, hardware: Hardware) -> MemoryEstimate:
    """Memory of generating ``new`` tokens after ``prompt`` tokens.

    Activations: the sum of what the operators of one block store in the prefill, as in LLM-Viewer; an upper estimate,
    since most of it is freed within the block.
    """
    first = prefill(model, setting, prompt, hardware)
    block = math.fsum(each.store for each in first.operators if each.count == model.layers)
    cache = cache_bytes(model, setting.precision, setting.batch, prompt + new)
    return MemoryEstimate(weight_bytes(model, setting.precision), cache, block)
