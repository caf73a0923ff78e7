"""A small model that has learned something: rounding it costs what it costs a real one, unlike random weights."""

import functools

import torch
from transformers import LlamaForCausalLM

from quantgate.quantize.calibration.samples import Calibration
from tests.unit.conftest import VOCABULARY, tiny_config

LENGTH = 32
STEPS = 120


def sentences(count: int, seed: int) -> torch.Tensor:
    """Token ids [count, LENGTH] of a made-up language: every token has four followers, of known odds."""
    table = torch.randint(3, VOCABULARY, (VOCABULARY, 4), generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(3, VOCABULARY, (count, 1), generator=generator)
    choices = torch.multinomial(torch.tensor([0.7, 0.2, 0.07, 0.03]), count * LENGTH, True, generator=generator)
    for choice in choices.view(LENGTH, count)[1:]:
        found = torch.cat([found, table[found[:, -1], choice].unsqueeze(1)], 1)
    return found


@functools.cache
def _weights() -> dict[str, torch.Tensor]:
    """In float64: 120 steps in float32 end in another model on another processor."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config()).double().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    text = sentences(16 * STEPS, 1)
    for step in range(STEPS):
        batch = text[16 * step : 16 * step + 16]
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        optimizer.step()
    return {name: tensor.detach().to(torch.bfloat16) for name, tensor in model.state_dict().items()}


def trained_llama() -> LlamaForCausalLM:
    """Trained once a process, then copied."""
    model = LlamaForCausalLM(tiny_config()).to(torch.bfloat16)
    model.load_state_dict(_weights())
    return model.eval()


def lessons() -> Calibration:
    """Sentences to calibrate with, which neither the training nor the held-out ones hold."""
    return Calibration("sentences", "made up", tuple(map(tuple, sentences(48, 3).tolist())), (), 3)
