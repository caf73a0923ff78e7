"""Shared stand-ins: a byte-level tokenizer and a tiny random Llama, made in milliseconds."""

import gc
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The same examples every time: `make test` is green or red for the code's sake, not for the day's luck. To look for
# new ones: make test ARGS="tests/property --hypothesis-profile=search"
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("fixed")

# tiny tensors gain nothing from threads, and xdist workers that each take all cores only slow each other down
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["pytester"]


def pytest_configure(config: pytest.Config) -> None:
    """In our own tests a warning is an error; a user's run must not turn red because a library warns about a model."""
    for line in ("error", "ignore::DeprecationWarning", "ignore::FutureWarning"):
        config.addinivalue_line("filterwarnings", line)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported by now stays: the collector need not look through torch's million objects again and again."""
    gc.freeze()


CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(first: str = "") -> Any:
    """One token per byte, plus the chat markers: every text can be encoded, decoded and split anywhere.

    ``first``: a marker that is put in front of every text, as Gemma's tokenizer does.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=names[1], eos_token=names[2], pad_token=names[0], model_max_length=512
    )
    if first:
        marked = {"single": f"{first} $A", "special_tokens": [(first, tokenizer.token_to_id(first))]}
        fast.backend_tokenizer.post_processor = processors.TemplateProcessing(**marked)
    fast.chat_template = CHAT
    return fast


def make_model_dir(path: Path, seed: int = 0, layers: int = 2, first: str = "") -> Path:
    """A random Llama (hidden 32, two blocks) with its tokenizer, saved as bf16 safetensors."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(path)
    make_tokenizer(first).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny model; tests must not write into it."""
    return make_model_dir(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def write_jsonl() -> Callable[[Path, str, str, str, Sequence[Mapping[str, Any]]], Path]:
    """Writes rows into a data directory: ``write_jsonl(root, "org/name", "config", "split", rows)``."""

    def write(root: Path, dataset: str, config: str, split: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        path = root / dataset.replace("/", "__") / config / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
