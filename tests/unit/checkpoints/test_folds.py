"""Factors that one tensor gave to another (AWQ, SmoothQuant and their like): whole ones are a fact, others an error."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from quantgate.checkpoints.findings import ERROR
from quantgate.checkpoints.folds import Folds
from quantgate.checkpoints.inspection import inspect
from quantgate.checkpoints.layouts.protocol import CHANNEL, StoredModule
from quantgate.checkpoints.matrices import Fit, fit_scales, lost_groups, spread
from quantgate.core.progress import Silent
from quantgate.quantize.catalogue.methods import get_method
from quantgate.subjects.make import quantize_checkpoint

REFERENCE = Path(__file__).parents[2] / "data" / "checkpoints" / "reference"
BLOCK = "model.layers.1."
NORM, SECOND = f"{BLOCK}input_layernorm", f"{BLOCK}post_attention_layernorm"
Q, K, V, O = (f"{BLOCK}self_attn.{side}_proj" for side in "qkvo")  # noqa: E741
GATE, UP, DOWN = (f"{BLOCK}mlp.{side}_proj" for side in ("gate", "up", "down"))
WIDTH, HIDDEN, VALUES, REPEATS, SIZE = 64, 128, 32, 2, 16


def drawn(size, low, high, seed=1):
    return low + (high - low) * torch.rand(size, generator=torch.Generator().manual_seed(seed))


def one_channel(size, by, rest=1.0):
    factors = torch.full((size,), rest)
    factors[5] = by
    return factors


class Model:
    """The tensors of the reference, in float32, to fold in."""

    def __init__(self, place):
        self.state = {name: each.float() for name, each in load_file(place / "model.safetensors").items()}

    def times(self, module, rows=None, columns=None):
        weight = self.state[f"{module}.weight"]
        weight = weight if rows is None else weight * rows.view(-1, *[1] * (weight.ndim - 1))
        self.state[f"{module}.weight"] = weight if columns is None else weight * columns

    def norm(self, factors, norm=NORM, readers=(Q, K, V)):
        self.times(norm, rows=factors)
        for module in readers:
            self.times(module, columns=1 / factors)

    def second(self, factors):
        self.norm(factors, SECOND, (GATE, UP))

    def hidden(self, factors):
        self.times(UP, rows=factors)
        self.times(DOWN, columns=1 / factors)

    def values(self, factors):
        self.times(V, rows=factors)
        self.times(O, columns=1 / factors.view(-1, 1, SIZE).expand(-1, REPEATS, -1).flatten())


def said(place, change, method="rtn4", reference=REFERENCE):
    """Codes of the errors after ``change``, and what they name."""
    model = Model(reference)
    change(model)
    folded = shutil.copytree(reference, place / "folded")
    state = {name: each.to(torch.bfloat16).contiguous() for name, each in model.state.items()}
    save_file(state, folded / "model.safetensors", metadata={"format": "pt"})
    quantize_checkpoint(folded, get_method(method), None, place / "made", progress=Silent())
    return {each.code: set(each.modules) for each in inspect(place / "made", reference, "made").of_level(ERROR)}


def all_of(*changes):
    def change(model):
        for each in changes:
            each(model)

    return change


HONEST = {
    "the norm's gain is undone by that of what the values meet": all_of(
        lambda model: model.norm(drawn(WIDTH, 1.4, 1.8)), lambda model: model.values(drawn(VALUES, 1.5, 1.7))
    ),
    "the same of gate, up and down": all_of(
        lambda model: model.second(drawn(WIDTH, 1.4, 1.8)), lambda model: model.hidden(drawn(HIDDEN, 2.0, 2.4))
    ),
    "a small gain of a norm": lambda model: model.norm(drawn(WIDTH, 0.95, 1.4)),
    "a norm that its readers are divided by, and values with factors of their own": all_of(
        lambda model: model.norm(drawn(WIDTH, 0.5, 2.0)), lambda model: model.values(drawn(VALUES, 0.5, 2.0))
    ),
    "a single channel of a norm": lambda model: model.norm(one_channel(WIDTH, 0.2)),
    "a single hidden feature": lambda model: model.hidden(one_channel(HIDDEN, 0.2)),
    "a single value": lambda model: model.values(one_channel(VALUES, 0.2)),
    "two signs": all_of(lambda model: model.hidden(-torch.ones(HIDDEN)), lambda model: model.norm(-torch.ones(WIDTH))),
    "queries and keys": lambda model: (
        model.times(Q, rows=torch.tensor(3.0)),
        model.times(K, rows=torch.tensor(1 / 3)),
    ),
}
BROKEN = {
    "values scaled behind a fold of the norm": (
        all_of(lambda model: model.norm(drawn(WIDTH, 0.5, 4.0)), lambda model: model.times(V, rows=torch.tensor(2.0))),
        V,
    ),
    "up scaled behind a fold of its norm": (
        all_of(lambda model: model.second(drawn(WIDTH, 0.5, 4.0)), lambda model: model.times(UP, torch.tensor(2.0))),
        UP,
    ),
    "down scaled behind a fold of its inputs": (
        all_of(lambda model: model.hidden(drawn(HIDDEN, 0.5, 4.0)), lambda model: model.times(DOWN, torch.tensor(2.0))),
        DOWN,
    ),
    "a single channel of a norm": (lambda model: model.times(NORM, one_channel(WIDTH, 10.0)), f"{NORM}.weight"),
    "a single channel of a norm is lost": (lambda model: model.times(NORM, one_channel(WIDTH, 0.0)), f"{NORM}.weight"),
    "a norm that queries alone make up for": (
        lambda model: model.norm(torch.full((WIDTH,), 1.25), readers=[Q]), f"{NORM}.weight",
    ),
    "a single hidden feature of up": (lambda model: model.times(UP, one_channel(HIDDEN, 20.0)), UP),
    "a single column of values": (lambda model: model.times(V, columns=one_channel(WIDTH, 20.0)), V),
}  # fmt: skip


SMALL = (
    "a norm that its readers are divided by, and values with factors of their own",
    "a single channel of a norm",
    "a single hidden feature",
)  # what 3 bits leave of so few weights tells nothing


@pytest.mark.parametrize("method", ["rtn4", "rtn3", "rtn-token-a8-w8", "rtn-token-a8-w4"])
@pytest.mark.parametrize("fold", HONEST)
def test_folds_are_no_errors(fold, method, tmp_path):
    if method != "rtn3" or fold not in SMALL:
        assert said(tmp_path, HONEST[fold], method) == {}


@pytest.mark.parametrize("damage", BROKEN)
def test_what_has_no_counterpart_is_an_error(damage, tmp_path):
    change, name = BROKEN[damage]
    assert name in set().union(*said(tmp_path, change).values())


def test_one_feature_a_hundred_times_as_large_as_the_others_hides_no_other_factor():
    """As AWQ leaves the bundled model's eleventh block: the squares of rows are nearly all that feature's."""
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(64, 512, generator=draw) * (0.1 + torch.rand(64, 1, generator=draw))
    weight[:, 5] = weight[torch.randperm(64, generator=draw), 5]
    found = weight * one_channel(512, 10.0, 0.1)
    fit = fit_scales(weight, found)
    assert spread(fit.scaled, found, 128) < 0.01
    assert fit.error < 1e-4


def test_a_row_that_is_small_beside_its_steps_is_not_lost():
    """One large weight makes the steps of a whole row so large that pieces of it are rounded to zero."""
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(1))
    weight[3, 7] = 60.0
    step = weight.abs().amax(1, keepdim=True) / 7.5
    rows = StoredModule("int", 4, CHANNEL, True, "F16", 0, (64, 512))
    rounded = (weight / step).round().clamp(-8, 7) * step
    assert not rounded[3, 64:].any()
    assert lost_groups(weight, rounded, rows, 1.0) == 0
    rounded[5, :64] = rounded[6, :64]
    assert lost_groups(weight, rounded, rows, 1.0) == 1


@pytest.mark.parametrize("alike", [True, False])
def test_norms_that_multiply_by_one_more_than_their_weights(alike, tmp_path):
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "head_dim": 16,
        "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 128,
    }  # fmt: skip
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma", **sizes), dtype=torch.bfloat16)
    torch.nn.init.normal_(model.model.layers[1].input_layernorm.weight, std=0.2)
    model.save_pretrained(tmp_path / "gemma")

    def change(model):
        factors = drawn(WIDTH, 0.5, 2.0)
        model.norm(factors)
        name = f"{NORM}.weight"
        model.state[name] += (factors - 1) if alike else 0  # (1 + w) f - 1 = w f + f - 1

    assert set(said(tmp_path, change, reference=tmp_path / "gemma")) == (set() if alike else {"scaled"})


def test_ranges_clipped_to_two_bits_make_matrices_smaller_than_their_folds(tmp_path):
    """AWQ to two bits: up and down are a tenth smaller each, and their factors make up for each other all the same."""
    generator = torch.Generator().manual_seed(1)
    folds, factors = Folds(looked_at=[UP, DOWN]), drawn(256, 0.8, 3.0)
    for module, rows, columns in ((UP, factors, torch.ones(256)), (DOWN, torch.ones(256), 1 / factors)):
        weight = torch.randn(256, 256, generator=generator)
        folded = (weight * rows.unsqueeze(1) * columns).view(256, -1, 32)
        step = 0.35 * folded.abs().amax(2, keepdim=True)
        rounded = (folded / step - 0.5).round().clamp(-2, 1).add(0.5) * step
        fit = fit_scales(weight, rounded.view(256, 256))
        folds.add(module, fit, 0.5)
    assert set(folds.factors) == {UP, DOWN}
    assert [each.code for each in folds.findings({})] == ["folded"]


@pytest.mark.parametrize(("most", "codes"), [(0.05, ["scaled"]), (0.5, [])])
def test_what_rounding_does_not_explain_allows_for_nothing(most, codes):
    """A matrix a third too large, half of it error: of two bits that may be, of four it is damage."""
    found = Folds(looked_at=[UP])
    found.add(UP, Fit(0.5, torch.full((8,), 1.3), torch.ones(8), torch.ones(8, 8), torch.ones(8)), most)
    assert [each.code for each in found.findings({}) if each.level == ERROR] == codes
