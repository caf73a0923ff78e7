"""Rows of the embedding that are another token's: a few of them, which no distance of the whole shows."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantgate.checkpoints.findings import ERROR
from quantgate.checkpoints.inspection import inspect
from quantgate.checkpoints.token_rows import strange

DATA = Path(__file__).parents[2] / "data" / "checkpoints"
NAME = "model.embed_tokens.weight"


def moved(rows):
    def change(each):
        each[rows] = each[rows].roll(1, 0)
        return each

    return change


def filled(rows, value):
    def change(each):
        each[rows] = value(each.clone())
        return each

    return change


def noise(each):
    return torch.randn(each.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("change", "numbers"),
    [
        (moved([3, 90]), {"held": 2, "empty": 0}),
        (moved(slice(100, 120)), {"held": 20, "empty": 0}),
        (filled([7, 9, 11], lambda each: 0.0), {"held": 0, "empty": 3}),
    ],
)
def test_rows_of_other_tokens_and_lost_ones_are_errors(change, numbers, tmp_path):
    path = shutil.copytree(DATA / "gptq_v1", tmp_path / "theirs")
    state = load_file(path / "model.safetensors")
    state[NAME] = change(state[NAME].clone())
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    found = list(inspect(path, DATA / "reference", "theirs").of_level(ERROR))
    assert [(each.code, each.modules, each.numbers) for each in found] == [("embedding", (NAME,), numbers)]


@pytest.mark.parametrize(
    "change",
    [
        lambda each: each + 0.3 * each.std() * noise(each),  # tuned
        filled([5, 6, 7], lambda each: each.std() * noise(each[5:8])),  # new tokens
        filled([5, 6, 7], lambda each: each[40]),  # new tokens that begin as an old one
        filled([5], lambda each: 0.0),  # a token that pads
    ],
)
def test_tuned_rows_and_new_tokens_are_none(change):
    ours = load_file(DATA / "reference" / "model.safetensors")[NAME].float()
    assert strange(ours, change(ours.clone())) == (0, 0)


def test_of_very_many_rows_some_are_looked_at(monkeypatch):
    ours = torch.randn(512, 16, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr("quantgate.checkpoints.token_rows._ASKED", 64 * ours.numel())
    monkeypatch.setattr("quantgate.checkpoints.token_rows._PIECE", 16 * 100)
    held, empty = strange(ours, ours.flip(0))
    assert 48 <= held <= 64
    assert empty == 0
