"""Which tokens a row may look at, by the kind of layer: whole prefixes, or windows."""

import pytest
import torch

from quantgate.engines.torch.adapter import CausalModel
from tests.unit.engines.tiny import tiny_model

LENGTH, PREFIX = 9, 4


def band(width):
    """Rows at positions 4 to 12 behind four others, one after the other: column ``c`` is position ``c``."""
    rows, columns = torch.arange(PREFIX, PREFIX + LENGTH)[:, None], torch.arange(PREFIX + LENGTH)[None]
    return (columns <= rows) & (rows - columns < width)


def seen(mask):
    """Where a mask lets a row look, whichever of its two forms it has."""
    return mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] == 0


@pytest.mark.parametrize(
    ("kind", "widths"),
    [("llama", {100}), ("mistral", {6}), ("gemma2", {6, 100}), ("qwen2-sliding", {7, 100})],
)
def test_layers_with_windows_see_windows_and_the_others_all(kind, widths):
    model = CausalModel(tiny_model(kind), "cpu")
    assert model.branching, "or masks are not used, and every option reads its context anew"
    found = model.masks(band(100)[None], torch.arange(PREFIX, PREFIX + LENGTH)[None], PREFIX)
    masks = list(found.values()) if isinstance(found, dict) else [found]
    shown = {next((width for width in (6, 7, 100) if torch.equal(seen(mask), band(width))), None) for mask in masks}
    assert shown == widths
