"""Tiny quantized checkpoints, made once."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from quantgate.core.progress import Silent
from quantgate.quantize.calibration.samples import Calibration
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.subjects.make import quantize_checkpoint

VOCABULARY = 96


def config(**changes):
    # widths that the kernels take: groups of 64 and 32, rows in multiples of 32
    shape = {
        "vocab_size": VOCABULARY, "hidden_size": 192, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    return LlamaConfig(**shape | changes)


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("efficiency") / "reference"
    AutoModelForCausalLM.from_config(config(), dtype=torch.bfloat16).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def quantized(reference):
    """``quantized("gptq4")``: the directory of that checkpoint."""
    generator = torch.Generator().manual_seed(0)
    samples = tuple(tuple(torch.randint(0, VOCABULARY, (32,), generator=generator).tolist()) for _ in range(8))
    calibration, made = Calibration("random", "noise", samples, (), 0), {}

    def build(name):
        if name not in made:
            made[name] = reference.parent / name
            quantize_checkpoint(reference, METHODS[name], calibration, made[name], progress=Silent())
        return made[name]

    return build
