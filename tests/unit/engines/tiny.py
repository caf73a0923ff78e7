"""Tiny random models of several architectures, and the plain way to score with them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import transformers as hf

from quantgate.core.requests import Request, Response

VOCABULARY = 61
torch.set_num_threads(1)  # thread start-up costs more than such models take
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "initializer_range": 0.3,
}
_GEMMA = {**_COMMON, "head_dim": 8}
CONFIGS = {
    "llama": lambda: hf.LlamaConfig(**_COMMON),
    "qwen2": lambda: hf.Qwen2Config(**_COMMON),
    "qwen2-sliding": lambda: hf.Qwen2Config(
        **_COMMON, use_sliding_window=True, sliding_window=7, max_window_layers=1
    ),
    "qwen3": lambda: hf.Qwen3Config(**_COMMON, head_dim=8),
    "mistral": lambda: hf.MistralConfig(**_COMMON, sliding_window=6),
    "gemma": lambda: hf.GemmaConfig(**_GEMMA),
    "gemma2": lambda: hf.Gemma2Config(
        **_GEMMA, sliding_window=6, final_logit_softcapping=3.0, attn_logit_softcapping=5.0
    ),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=128, eos_token_id=1, initializer_range=0.3
    ),
    "opt": lambda: hf.OPTConfig(
        vocab_size=VOCABULARY, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=128, word_embed_proj_dim=16, eos_token_id=1, pad_token_id=1, init_std=0.3,
    ),
    "bloom": lambda: hf.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=3, n_head=4, eos_token_id=1, initializer_range=0.3
    ),
}  # fmt: skip


@functools.cache
def tiny_model(kind: str) -> hf.PreTrainedModel:
    torch.manual_seed(7)
    return hf.AutoModelForCausalLM.from_config(CONFIGS[kind](), dtype=torch.float32).eval()


class Letters:
    """A tokenizer of one character per token."""

    eos_token_id = 1
    alphabet = "".join(chr(48 + at) for at in range(VOCABULARY))

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        return "".join(self.alphabet[token] for token in tokens if not (skip_special_tokens and token in (0, 1)))


@torch.no_grad()
def plain_logprobs(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """float32 [n - 1, vocabulary]: log p(next token) after each of tokens[:-1], one plain forward pass."""
    logits: torch.Tensor = model(input_ids=torch.tensor([tokens[:-1]])).logits[0]
    return logits.float().log_softmax(-1)


def collect(engine: Any, requests: Sequence[Request], **kwargs: Any) -> tuple[list[Response], Any]:
    """Run, and return the responses in the order of the requests."""
    answers: dict[int, Response] = {}

    def sink(index: int, response: Response) -> None:
        assert index not in answers, "answered twice"
        answers[index] = response

    stats = engine.run(requests, sink, **kwargs)
    assert sorted(answers) == list(range(len(requests)))
    return [answers[index] for index in range(len(requests))], stats
