"""What a roofline needs to know of a model: its matrices and heads, read off the architecture itself.

The model is built without memory (torch's meta device) from its transformers configuration, and its linear layers are
looked at. So fused projections, gated and plain MLPs, grouped-query attention and tied heads need no list of
architectures, and an architecture that cannot be read is refused instead of guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantgate.core.errors import MethodError, ModelError
from quantgate.models.loading import empty_model, read_config

_ATTENTION = ("attn", "attention")
_CACHED = ("k_proj", "v_proj", "key", "value")  # the last part of a layer's name


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer of a block; ``cached`` of its ``outputs`` are keys or values and go to the KV cache."""

    name: str
    inputs: int
    outputs: int
    cached: int = 0

    @property
    def weights(self) -> int:
        """Number of weights, the bias left out."""
        return self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder-only transformer of ``layers`` equal blocks.

    ``embedding``: weights of the embedding (an untied head has as many again). ``linears``: those of one block.
    ``gated``: the MLP multiplies two projections (SwiGLU, GeGLU). ``tied``: the output head is the embedding.
    ``rest``: parameters that are in no matrix named here (norms, biases, position embeddings).
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    embedding: int
    linears: tuple[Linear, ...]
    gated: bool = True
    tied: bool = False
    rest: int = 0

    @property
    def block_weights(self) -> int:
        """Weights of all blocks' linear layers: what the methods quantize."""
        return self.layers * sum(linear.weights for linear in self.linears)

    @property
    def parameters(self) -> int:
        """All parameters, a tied head counted once."""
        return self.block_weights + self.embedding * (1 if self.tied else 2) + self.rest


def read_architecture(directory: Path, who: str) -> Architecture:
    """The architecture of the model in ``directory``. Raises ModelError when it cannot be read."""
    return from_config(read_config(directory, who), who)


def from_config(config: Any, who: str) -> Architecture:
    """The architecture that a transformers configuration describes; nothing is allocated.

    Raises:
        ModelError: blocks that differ from each other, experts, or projections that cannot be told apart.
    """
    from quantgate.models.layers import decoder_blocks

    model = empty_model(config, who)
    model.tie_weights()
    text = config.get_text_config(decoder=True)
    try:
        blocks = decoder_blocks(model, who)
    except MethodError as error:
        raise ModelError(who, error.found, expected=error.expected, hint="no roofline for it") from error
    kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    shapes = [_linears(block, text.num_attention_heads, kv_heads, head_dim) for block in blocks]
    if len(set(shapes)) != 1 or sum(linear.cached for linear in shapes[0]) != 2 * kv_heads * head_dim:
        raise ModelError(who, "blocks that differ, or keys and values that cannot be found", expected="equal blocks")
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    tied = embedding is head
    matrices = len(blocks) * sum(linear.weights for linear in shapes[0]) + embedding.numel() * (1 if tied else 2)
    intermediate, gated = _mlp(shapes[0])
    return Architecture(
        layers=len(blocks),
        hidden=text.hidden_size,
        intermediate=intermediate,
        heads=text.num_attention_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=text.vocab_size,
        embedding=embedding.numel(),
        linears=shapes[0],
        gated=gated,
        tied=tied,
        rest=sum(parameter.numel() for parameter in model.parameters()) - matrices,
    )


def _linears(block: Any, heads: int, kv_heads: int, head_dim: int) -> tuple[Linear, ...]:
    found = []
    for path, linear in block.linears.items():
        name = path.removeprefix(f"{block.name}.")
        cached = 0
        if name.rpartition(".")[2] in _CACHED:
            cached = linear.out_features
        elif linear.out_features == (heads + 2 * kv_heads) * head_dim and _in_attention(name):
            cached = 2 * kv_heads * head_dim  # one matrix for queries, keys and values
        found.append(Linear(name, linear.in_features, linear.out_features, cached))
    return tuple(found)


def _in_attention(name: str) -> bool:
    return any(word in name for word in _ATTENTION)


def _mlp(linears: tuple[Linear, ...]) -> tuple[int, bool]:
    """Width of the MLP, and whether its inputs are twice as wide as its output's input (a gate)."""
    mlp = [linear for linear in linears if not _in_attention(linear.name)]
    intermediate = mlp[-1].inputs
    return intermediate, sum(linear.outputs for linear in mlp[:-1]) == 2 * intermediate
