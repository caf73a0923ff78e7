"""Every tensor accounted for, both ways: by the reference's loader, by ours, and before anything is quantized."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from quantgate import api
from quantgate.checkpoints.checkpoint import load_quantized
from quantgate.core.errors import ModelError
from quantgate.core.progress import Silent
from quantgate.efficiency.execution import load_packed
from quantgate.models.accounting import adds_nothing, check_loaded
from quantgate.models.loading import load_reference
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.subjects.make import quantize_checkpoint

NORM, PROJECTION = "model.layers.1.post_attention_layernorm.weight", "model.layers.1.self_attn.k_proj"


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy that the test may damage."""
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture(scope="module")
def subjects(tiny_model, tmp_path_factory):
    """Checkpoints of the tiny model in three layouts."""
    made = {}
    for name in ("rtn8", "nf4", "rtn-token-a8-w8"):
        made[name] = tmp_path_factory.mktemp(name)
        quantize_checkpoint(tiny_model, METHODS[name], None, made[name], progress=Silent())
    return made


def edit(path, change):
    state = load_file(path / "model.safetensors")
    change(state)
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})


def without(*starts):
    def change(state):
        for name in [name for name in state if name.startswith(starts)]:
            del state[name]

    return change


def adding(name, tensor):
    return lambda state: state.update({name: tensor})


LEFT_OVER = [
    (adding("model.layers.7.mlp.up_proj.weight", torch.ones(48, 32)), "no place.*model.layers.7.mlp.up_proj.weight"),
    (adding(f"{PROJECTION}.bias", torch.ones(16)), f"1 tensor has no place.*{PROJECTION}.bias"),
]
DAMAGES = [
    (without(NORM), f"1 weight is missing.*{NORM}"),
    (without("model.norm"), "1 weight is missing.*model.norm.weight"),
    (without("model.embed_tokens"), "weights are missing.*model.embed_tokens.weight"),
    (without(f"{PROJECTION}."), f"1 weight is missing.*{PROJECTION}.weight"),
    (adding(NORM, torch.ones(16)), rf"of another shape.*{NORM} is \(16,\), not \(32,\)"),
    (adding(NORM, torch.full((32,), float("nan"))), f"not finite.*{NORM}"),
    *LEFT_OVER,
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_of_the_reference(damage, message, model):
    edit(model, damage)
    with pytest.raises(ModelError, match=message):
        load_reference(model, "mine", "bfloat16", "cpu")


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
@pytest.mark.parametrize("method", ["rtn8", "nf4", "rtn-token-a8-w8"])
def test_of_a_checkpoint_of_ours(method, damage, message, subjects, tmp_path):
    path = shutil.copytree(subjects[method], tmp_path / "copy")
    edit(path, damage)
    with pytest.raises(ModelError, match=message):
        load_quantized(path, torch.bfloat16)


@pytest.mark.parametrize(
    ("damage", "message"), [*LEFT_OVER, (without(f"{PROJECTION}."), f"no tensor {PROJECTION}.weight")]
)
@pytest.mark.parametrize("method", ["rtn8", "nf4"])
def test_of_a_packed_checkpoint(method, damage, message, subjects, tmp_path):
    path = shutil.copytree(subjects[method], tmp_path / "copy")
    edit(path, damage)
    with pytest.raises(ModelError, match=message):
        load_packed(path, "bfloat16", "cpu")


@pytest.mark.parametrize(("damage", "message"), [DAMAGES[0], DAMAGES[5], *LEFT_OVER])
def test_before_anything_is_quantized(damage, message, model, tmp_path):
    edit(model, damage)
    with pytest.raises(ModelError, match=message):
        api.quantize(model, "rtn8", store=tmp_path / "store")
    assert not list((tmp_path / "store").glob("subjects/*"))


def test_input_grids_need_a_layer(subjects, tmp_path):
    path = shutil.copytree(subjects["rtn-token-a8-w8"], tmp_path / "copy")
    edit(path, adding("model.layers.9.mlp.up_proj.input_scale", torch.ones(1)))
    with pytest.raises(ModelError, match=r"no place.*model.layers.9.mlp.up_proj.input_scale"):
        load_quantized(path, torch.bfloat16)


def test_a_bias_of_zeros_adds_nothing(model, subjects, tmp_path):
    """Older packers of GPTQ checkpoints write one for every layer."""
    zeros = adding(f"{PROJECTION}.bias", torch.zeros(16))
    edit(model, zeros)
    assert load_reference(model, "mine", "bfloat16", "cpu").dtype == torch.bfloat16
    path = shutil.copytree(subjects["rtn8"], tmp_path / "copy")
    edit(path, zeros)
    assert load_quantized(path, torch.bfloat16).dtype == torch.bfloat16


def test_what_the_architecture_ignores_may_be_there(model):
    """Old Llama checkpoints keep the rotary frequencies of every block."""
    edit(model, adding("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4)))
    assert load_reference(model, "mine", "bfloat16", "cpu").dtype == torch.bfloat16


class Bare(torch.nn.Module):
    """A model with a head and an embedding of its own."""

    def __init__(self, tied):
        super().__init__()
        self.head, self.embedding = torch.nn.Linear(4, 4), torch.nn.Embedding(4, 4)
        self.config = LlamaConfig(tie_word_embeddings=tied)

    def get_output_embeddings(self):
        return self.head

    def get_input_embeddings(self):
        return self.embedding


NOTHING_ODD = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}


def test_what_the_loader_reports_as_an_error_is_refused():
    check_loaded(Bare(tied=False), NOTHING_ODD, "mine", torch.zeros)
    with pytest.raises(ModelError, match=r"1 weight could not be loaded \(size mismatch\)"):
        check_loaded(Bare(tied=False), NOTHING_ODD | {"error_msgs": ["size mismatch"]}, "mine", torch.zeros)


def test_a_tied_head_that_came_out_as_another_matrix_is_refused():
    model = Bare(tied=True)
    with pytest.raises(ModelError, match="tie_word_embeddings is set, but the output head"):
        check_loaded(model, NOTHING_ODD, "mine", torch.zeros)
    model.head.weight = model.embedding.weight
    check_loaded(model, NOTHING_ODD, "mine", torch.zeros)


def test_zeros_without_a_place_are_refused_unless_they_are_a_bias():
    assert adds_nothing("x.bias", lambda name: torch.zeros(3))
    assert not adds_nothing("x.scale", lambda name: torch.zeros(3))
