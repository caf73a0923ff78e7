"""Tiny models with random weights, small enough that every test takes a fraction of a second."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from transformers import LlamaConfig, LlamaForCausalLM

from quantgate.models import bundled
from quantgate.quantize.calibration.samples import Calibration

VOCABULARY = 64

# tensors here are tiny: with several threads the tests would mostly wait for each other on a busy machine
torch.set_num_threads(1)


def tiny_config(**changes: Any) -> LlamaConfig:
    # 160 = 1.25 x 128: the last group is shorter, as in the bundled model (576 = 4.5 x 128)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 96,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return LlamaConfig(**shape | changes)


def tiny_llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(tiny_config(**changes)).to(torch.bfloat16).eval()


def random_calibration(lengths: Sequence[int], seed: int = 0) -> Calibration:
    generator = torch.Generator().manual_seed(seed)
    samples = tuple(tuple(torch.randint(0, VOCABULARY, (n,), generator=generator).tolist()) for n in lengths)
    return Calibration("random", "noise", samples, (), seed)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny") / "model"
    tiny_llama().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def bundled_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the bundled model, converted once whatever the number of workers; tests must not write into it."""
    own = tmp_path_factory.getbasetemp()
    directory = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "bundled"
    with FileLock(f"{directory}.lock"):
        if not directory.exists():
            part = tmp_path_factory.mktemp("part")
            bundled.convert(bundled.locate_gguf(), part)
            part.rename(directory)
    return directory


@pytest.fixture
def calibration() -> Calibration:
    return random_calibration([12, 7, 12, 9])
