"""Weights, inputs, keys and values: each exchanged alone is the model that has only it quantized."""

import copy

import pytest
import torch

from quantgate.diagnosis.aspects import BOTH, CACHE, INPUTS, WEIGHTS, all_but, alone, aspects_of
from quantgate.diagnosis.passes import exchanged
from quantgate.diagnosis.scan import Plan
from quantgate.diagnosis.units import ASPECT
from quantgate.quantize.transforms import activations
from tests.unit.diagnosis.models import reference, scanner, subject

IDS = torch.tensor([[3, 9, 27, 17, 51, 25, 11, 33]])
INPUT = {"bits": 4, "granularity": "token", "dynamic": True, "sym": True}
CACHED = {"bits": 2, "group_size": 32}


def layers(model):
    return [name for name, each in model.named_modules() if isinstance(each, torch.nn.Linear) and ".layers." in name]


def made(*, weights=False, inputs=False, cache=False):
    """A model with some aspects quantized, by the functions that loading a checkpoint uses."""
    model = reference()
    model = subject(model, bits=3) if weights else copy.deepcopy(model)
    for name in layers(model) if inputs else ():
        activations.install(model, name, INPUT, {})
    if cache:
        activations.install_cache(model, CACHED, "test")
    return model


def modules(model):
    return {name: model.get_submodule(name) for name in layers(model)}


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("kept", [("weights",), ("inputs",), ("cache",), ("weights", "inputs"), ("weights", "cache"),
                                  ("inputs", "cache")])  # fmt: skip
def test_an_aspect_alone_or_left_out_is_the_model_that_was_made_so(kept):
    names = {"weights": WEIGHTS, "inputs": INPUTS, "cache": CACHE}
    ours, theirs = reference(), made(weights=True, inputs=True, cache=True)
    originals, donors = modules(ours), modules(theirs)
    every = aspects_of(originals, donors, tied=False)
    assert every == (WEIGHTS, INPUTS, CACHE)
    wanted = logits(made(**dict.fromkeys(kept, True)))
    if len(kept) == 1:
        with exchanged(ours, alone(names[kept[0]], every, donors, originals)):
            found = logits(ours)
    else:
        [left] = set(names) - set(kept)
        with exchanged(theirs, all_but(names[left], donors, originals)):
            found = logits(theirs)
    assert torch.equal(found, wanted)
    assert torch.equal(logits(ours), logits(reference()))  # nothing stays behind


def test_weights_alone_have_no_aspects_and_tied_ones_are_not_parted():
    ours = reference()
    assert aspects_of(modules(ours), modules(made(weights=True)), tied=False) == ()
    assert aspects_of(modules(ours), modules(made(cache=True)), tied=False) == (CACHE,)
    assert aspects_of(modules(ours), modules(made(weights=True, inputs=True, cache=True)), tied=True) == (BOTH, CACHE)


@pytest.mark.parametrize(("which", "leads"), [({"weights": True, "cache": True}, CACHE), ({"inputs": True}, INPUTS)])
def test_keys_and_values_in_two_bits_lead_and_stand_first(which, leads):
    model = reference()
    scan = scanner(model, made(**which) if "weights" not in which else with_fine_weights()).run(Plan(1, 1, 2))
    rows = scan.of(ASPECT)
    assert rows[0].unit.name == leads
    assert max(rows, key=lambda row: row.estimate.mean).unit.name == leads
    assert all(row.isolated and row.marginal for row in rows)
    if len(rows) == 1:
        assert rows[0].isolated.mean == pytest.approx(scan.whole.divergence.mean().item(), rel=1e-4)


def with_fine_weights():
    """8-bit weights, and keys and values in 2 bits."""
    model = subject(reference(), bits=8)
    activations.install_cache(model, CACHED, "test")
    return model
