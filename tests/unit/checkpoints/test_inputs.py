"""Checkpoints whose runtimes quantize inputs are judged so: seen against torch's own FP8 numbers and definitions."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantgate.core.errors import ModelError
from quantgate.core.progress import Silent
from quantgate.models.quantized import refuse_quantized
from quantgate.models.source import resolve_model
from quantgate.models.tensors import stored_bytes
from quantgate.store.store import Store
from quantgate.subjects.candidates import open_candidate, parse_candidate
from quantgate.subjects.subject import Workshop

REFERENCE = Path(__file__).parents[2] / "data" / "checkpoints" / "reference"
TOP = 448.0
BLOCK = 32
TOKENS = torch.arange(3, 40)[None]


def rounded(values, scale):
    """By torch's cast, which is no code of ours."""
    return (values / scale).clamp(-TOP, TOP).to(torch.float8_e4m3fn).to(torch.float32)


def by_blocks(weight):
    rows, columns = weight.shape
    tiles = weight.float().view(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    scales = tiles.abs().amax((1, 3), keepdim=True) / TOP
    codes = (tiles / scales).to(torch.float8_e4m3fn).view(rows, columns)
    return {"weight": codes, "weight_scale_inv": scales.view(rows // BLOCK, columns // BLOCK)}


def by_matrix(weight):
    scale = (weight.float().abs().amax() / TOP).view(1)
    return {
        "weight": (weight.float() / scale).to(torch.float8_e4m3fn), "weight_scale": scale,
        "input_scale": torch.tensor([0.01]),
    }  # fmt: skip


def modelopt_fp8(weight):
    return {**by_matrix(weight), "weight_scale": by_matrix(weight)["weight_scale"].view(())}


E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
COMMON = 0.004  # of inputs: calibrated on smaller ones than come, so that some blocks' scales meet the end of E4M3


def modelopt_nvfp4(weight):
    rows, columns = weight.shape
    blocks = weight.float().view(rows, columns // 16, 16)
    common = blocks.abs().amax() / (6 * TOP)
    scales = (blocks.abs().amax(2) / 6 / common).clamp(0.002, TOP).to(torch.float8_e4m3fn)
    steps = blocks / (scales.float() * common)[..., None]
    codes = (steps[..., None] - E2M1).abs().argmin(-1).view(rows, columns).to(torch.uint8)
    return {
        "weight": codes[:, ::2] | codes[:, 1::2] << 4, "weight_scale": scales, "weight_scale_2": common,
        "input_scale": torch.tensor(COMMON),
    }  # fmt: skip


def checkpoint(path, make, config, change=lambda state: None):
    shutil.copytree(REFERENCE, path)
    state = {}
    for name, tensor in load_file(REFERENCE / "model.safetensors").items():
        if "_proj.weight" in name:
            layer = name.removesuffix(".weight")
            state |= {f"{layer}.{part}": each.contiguous() for part, each in make(tensor).items()}
        else:
            state[name] = tensor
    change(state)
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    content = json.loads((path / "config.json").read_text())
    content["quantization_config"] = {"quant_method": "modelopt" if "quant_algo" in config else "fp8", **config}
    (path / "config.json").write_text(json.dumps(content))
    return path


def opened(path, root):
    store = Store(root / "store", Silent())
    model = resolve_model(str(REFERENCE), None, store)
    return open_candidate(model, parse_candidate(f"theirs={path}"), None, Workshop(store, dtype="float32"))


def expected(path, round_inputs):
    """Logits of the reference with the weights of ``path``, every input rounded by ``round_inputs``."""
    from transformers import AutoModelForCausalLM

    state = load_file(path / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(REFERENCE, dtype=torch.float32)
    for name, layer in model.named_modules():
        if not name.endswith("_proj"):
            continue
        codes = state[f"{name}.weight"].float()
        if (common := state.get(f"{name}.weight_scale_2")) is not None:
            packed = state[f"{name}.weight"].long()
            values = E2M1[torch.stack([packed & 15, packed >> 4], 2).flatten(1)]
            codes = values * state[f"{name}.weight_scale"].float().repeat_interleave(16, 1) * common
        elif (scales := state.get(f"{name}.weight_scale_inv")) is not None:
            codes = codes * scales.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        else:
            codes = codes * state[f"{name}.weight_scale"]
        layer.weight.data = codes
        layer.register_forward_pre_hook(lambda _, inputs: (round_inputs(inputs[0]),))
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def token_blocks(x):
    tiles = x.view(*x.shape[:-1], -1, BLOCK)
    scale = tiles.abs().amax(-1, keepdim=True) / TOP
    return (rounded(tiles, scale) * scale).view_as(x)


def tokens(x):
    scale = x.abs().amax(-1, keepdim=True) / TOP
    return rounded(x, scale) * scale


def nvfp4(x):
    blocks = x.view(*x.shape[:-1], -1, 16)
    scale = (blocks.abs().amax(-1, keepdim=True) / 6 / COMMON).clamp(2.0**-9, TOP).to(torch.float8_e4m3fn).float()
    scale = scale * COMMON
    steps = (blocks / scale).clamp(-6, 6)
    return (E2M1[(steps[..., None] - E2M1).abs().argmin(-1)] * scale).view_as(x)


@pytest.mark.parametrize(
    ("make", "config", "inputs"),
    [
        (by_blocks, {"activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [BLOCK, BLOCK]}, token_blocks),
        (by_matrix, {"activation_scheme": "static", "ignored_layers": ["lm_head"]}, lambda x: rounded(x, 0.01) * 0.01),
        (by_matrix, {"activation_scheme": "dynamic"}, tokens),
        (modelopt_fp8, {"quant_algo": "FP8", "ignore": ["lm_head"]}, lambda x: rounded(x, 0.01) * 0.01),
        (modelopt_nvfp4, {"quant_algo": "NVFP4", "ignore": ["lm_*"], "producer": {"name": "modelopt"}}, nvfp4),
    ],
)
def test_inputs_are_rounded_as_the_runtime_rounds_them(make, config, inputs, tmp_path):
    path = checkpoint(tmp_path / "theirs", make, config)
    subject = opened(path, tmp_path)
    assert subject.problems() == []
    assert (subject.record.activation_bits, subject.record.execution) == (4 if inputs is nvfp4 else 8, "simulated")
    model = subject.loader(subject.path, "theirs", "float32", "cpu")
    with torch.no_grad():
        found = model(input_ids=TOKENS).logits
    wanted, without = expected(path, inputs), expected(path, lambda x: x)
    apart = (found - wanted).abs().max()
    assert apart < 0.02 * (without - wanted).abs().max()


UNPACKED = ["ar_auto_round", "ar_auto_round_auto_awq", "ao_int8", "ao_fp8", "hqq4", "quanto_int4"]


@pytest.mark.parametrize("name", UNPACKED)
def test_the_size_is_that_of_the_files_and_not_of_what_they_are_unpacked_to(name, tmp_path):
    path = tmp_path / name
    shutil.copytree(REFERENCE.parent / name, path)
    for file in REFERENCE.glob("tokenizer*"):
        shutil.copyfile(file, path / file.name)
    assert opened(path, tmp_path).held == stored_bytes(path) < stored_bytes(REFERENCE)


def test_an_adapter_is_as_large_as_what_it_is_added_to_and_itself(tmp_path):
    path = REFERENCE.parent / "lora"
    own = sum(each.nbytes for each in load_file(path / "adapter_model.safetensors").values())
    assert opened(path, tmp_path).held == stored_bytes(REFERENCE) + own


def test_another_scheme_is_another_subject(tmp_path):
    """Answers are kept by what computes: weights alone would be the same."""
    paths = [checkpoint(tmp_path / name, by_matrix, {"activation_scheme": name}) for name in ("static", "dynamic")]
    assert len({opened(path, tmp_path).weights for path in paths}) == 2


@pytest.mark.parametrize("scale", [0.0, float("nan"), -1.0])
def test_static_scales_that_are_none(scale, tmp_path):
    def change(state):
        state["model.layers.0.mlp.up_proj.input_scale"] = torch.tensor([scale])

    path = checkpoint(tmp_path / "theirs", by_matrix, {"activation_scheme": "static"}, change)
    with pytest.raises(ModelError, match="an input scale of"):
        opened(path, tmp_path)


def test_unpacked_files_are_nothing_to_judge_by_themselves(tmp_path):
    """Out of the store, nobody would round their inputs: as a candidate and as the 16-bit original they are refused."""
    subject = opened(checkpoint(tmp_path / "theirs", by_matrix, {"activation_scheme": "static"}), tmp_path)
    with pytest.raises(ModelError, match="quantgate_inputs"):
        opened(subject.path, tmp_path)
    with pytest.raises(ModelError, match="quantgate_inputs"):
        refuse_quantized(subject.path, json.loads((subject.path / "config.json").read_text()), "reference")


@pytest.mark.parametrize("config", [{"activation_scheme": "static"}, {"quant_algo": "FP8"}])
def test_weights_beside_scales_that_were_never_rounded(config, tmp_path):
    def change(state):
        name = "model.layers.0.mlp.up_proj.weight"
        state[name] = state[name].to(torch.bfloat16)

    path = checkpoint(tmp_path / "theirs", modelopt_fp8 if "quant_algo" in config else by_matrix, config, change)
    with pytest.raises(ModelError, match="stored in BF16"):
        opened(path, tmp_path)


def test_a_static_scheme_without_scales(tmp_path):
    def change(state):
        del state["model.layers.0.mlp.up_proj.input_scale"]

    path = checkpoint(tmp_path / "theirs", by_matrix, {"activation_scheme": "static"}, change)
    with pytest.raises(ModelError, match="no input scale"):
        opened(path, tmp_path)
