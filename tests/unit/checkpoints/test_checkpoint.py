import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from quantgate.checkpoints import checkpoint
from quantgate.checkpoints.checkpoint import load_quantized, read_layers
from quantgate.checkpoints.record import read_record
from quantgate.core.errors import MethodError, ModelError
from quantgate.core.progress import Silent
from quantgate.quantize.base import Method
from quantgate.quantize.catalogue.methods import METHODS, NO_WEIGHTS
from quantgate.quantize.settings import GptqSettings, RtnSettings
from quantgate.quantize.sweep.driver import run_jobs
from quantgate.subjects import make as make_module
from quantgate.subjects.make import quantize_checkpoint
from tests.unit.conftest import random_calibration, tiny_llama


def variant(name, algorithm, settings):
    return Method(name, algorithm, settings, settings.bits, algorithm == "gptq", "packed", 1, "a test", "a test")


VARIANTS = [
    variant("gptq-asym-w4", "gptq", GptqSettings(4, 32, sym=False)),
    variant("gptq-plain-w3", "gptq", GptqSettings(3, 32, desc_act=False)),
    variant("gptq-static-w2", "gptq", GptqSettings(2, 32, static_groups=True)),
    variant("rtn-channel-w4", "rtn", RtnSettings(4, -1)),
    variant("rtn-asym-w3", "rtn", RtnSettings(3, 32, sym=False)),
]
ALL = [
    pytest.param(method, id=method.id)
    for method in (*METHODS.values(), *VARIANTS)
    if method.algorithm not in (NO_WEIGHTS, "hqq") and method.rotation is None  # rotated ones change everything
]


def quantize(model_dir, method, target, calibration=None):
    return quantize_checkpoint(model_dir, method, calibration, target, progress=Silent())


@pytest.fixture(scope="module")
def written(model_dir, tmp_path_factory):
    """Directory, record and the weights the algorithm computed, per method; each is made once."""
    made = {}

    def make(method):
        if method.id not in made:
            target = tmp_path_factory.mktemp(method.id)
            calibration = random_calibration([12, 7, 12, 9])
            computed = {}

            def watched(model, jobs, *rest, **how):
                run_jobs(model, jobs, *rest, **how)
                (job,) = jobs
                computed.update(job.results)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(make_module, "run_jobs", watched)
                record = quantize(model_dir, method, target, calibration)
            made[method.id] = target, record, computed
        return made[method.id]

    return make


@pytest.mark.parametrize("method", ALL)
def test_a_checkpoint_holds_what_was_computed_and_says_so(method, written):
    """One test, because workers do not share what they have quantized."""
    assert {path.suffix for path in written(method)[0].iterdir()} == {".json", ".safetensors"}  # no pickles
    loaded_weights_are_the_computed_ones(*written(method))
    only_linear_layers_of_blocks_change(*written(method))
    bytes_and_bits_are_those_of_the_files(*written(method))


def loaded_weights_are_the_computed_ones(directory, record, computed):
    for dtype in (torch.bfloat16, torch.float32):
        model = load_quantized(directory, dtype)
        for name, result in computed.items():
            weight = model.get_submodule(name).weight
            if weight.dtype == torch.int8:
                assert torch.equal(weight, result.weight.codes)
            else:
                assert weight.dtype == dtype
                assert torch.equal(weight, result.weight.dequantize(dtype)), name


def only_linear_layers_of_blocks_change(directory, record, computed):
    loaded, original = load_quantized(directory, torch.bfloat16).state_dict(), tiny_llama().state_dict()
    same = {name for name in original if torch.equal(loaded[name], original[name])}
    folded = {f"{name}.weight" for name in record.folds.values()}  # norms that carry the inverse of a scale
    assert {f"{name}.weight" for name in record.quantized_modules} | folded == original.keys() - same
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} <= same


def bytes_and_bits_are_those_of_the_files(directory, record, computed):
    assert record.bytes_on_disk == sum(
        path.stat().st_size for path in directory.iterdir() if path.name != "quantgate.json"
    )
    stored = load_file(directory / "model.safetensors")
    original = tiny_llama().state_dict()
    packed = [t for name, t in stored.items() if name not in original or name.rpartition(".")[0] in record.losses]
    weights = sum(original[f"{name}.weight"].numel() for name in record.quantized_modules)
    assert record.bits_effective == pytest.approx(8 * sum(t.nbytes for t in packed) / weights)


def test_hand_counted_bits(written):
    """Two blocks of: q 96x96, k 96x32, v 96x32, o 96x96, gate and up 96x160, down 160x96; groups of 128, 4 bit."""
    _, record, _ = written(METHODS["gptq4"])
    shapes = [(96, 96), (96, 32), (96, 32), (96, 96), (96, 160), (96, 160), (160, 96)]
    bits = weights = 0
    for inputs, outputs in shapes:
        groups = 1 if inputs == 96 else 2
        bits += 4 * inputs * outputs + groups * outputs * (16 + 4) + 32 * inputs
        weights += inputs * outputs
    assert record.bits_effective == pytest.approx(bits / weights)


def test_record_survives_the_disk(written):
    directory, record, computed = written(METHODS["gptq4"])
    again = read_record(directory)
    assert again == record
    assert again.method == METHODS["gptq4"].as_record()
    assert again.calibration["n_tokens"] == 40
    assert again.losses == {name: result.loss for name, result in computed.items()}
    assert again.storage == "packed"
    assert again.execution == "dequantized"


def test_int8_says_how_it_is_executed(written):
    assert written(METHODS["int8"])[1].execution == "int8"


def test_quantizing_twice_gives_the_same_files(model_dir, written, tmp_path, calibration):
    quantize(model_dir, METHODS["gptq4"], tmp_path, calibration)
    first = written(METHODS["gptq4"])[0]
    for name in ("model.safetensors", "config.json", "quantize_config.json"):
        assert (tmp_path / name).read_bytes() == (first / name).read_bytes()


def test_configuration_of_the_gptq_layout(written):
    directory, _, _ = written(METHODS["gptq4"])
    config = json.loads((directory / "quantize_config.json").read_text())
    expected = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 128,
        "damp_percent": 0.01,
        "desc_act": True,
        "static_groups": False,
        "sym": True,
        "true_sequential": True,
        "checkpoint_format": "gptq",
    }
    assert expected.items() <= config.items()
    whole = json.loads((directory / "config.json").read_text())
    assert whole["quantization_config"] == config
    assert isinstance(whole["rope_theta"], float)  # auto-gptq's transformers looks at the top level


def test_a_tied_head_is_stored_once(written):
    stored = load_file(written(METHODS["rtn4"])[0] / "model.safetensors")
    assert "model.embed_tokens.weight" in stored
    assert "lm_head.weight" not in stored


def test_asymmetric_layout_is_version_2(written):
    config = json.loads((written(VARIANTS[0])[0] / "quantize_config.json").read_text())
    assert config["checkpoint_format"] == "gptq_v2"


def test_act_order_survives(written):
    directory, _, computed = written(METHODS["gptq4"])
    stored = load_file(directory / "model.safetensors")
    g_idx = stored["model.layers.0.mlp.down_proj.g_idx"]
    assert torch.equal(g_idx, computed["model.layers.0.mlp.down_proj"].weight.g_idx)
    assert not torch.equal(g_idx, g_idx.sort().values)
    assert torch.bincount(g_idx).tolist() == [128, 32]


@pytest.mark.parametrize("name", ["nf4", "fp4", "int8"])
def test_transformers_reads_the_bitsandbytes_layout(name, written):
    directory, _, computed = written(METHODS[name])
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    for layer, result in computed.items():
        module = model.get_submodule(layer)
        if name == "int8":
            assert torch.equal(module.weight.data, result.weight.codes)
        else:
            ours, theirs = result.weight, module.weight
            assert torch.equal(theirs.data, ours.packed)
            assert torch.equal(theirs.quant_state.absmax, ours.state.absmax)
            assert torch.equal(theirs.quant_state.code, ours.state.code)
            assert theirs.quant_state.shape == ours.state.shape


def test_weights_in_shards(model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_SHARD_BYTES", 40_000)
    quantize(model_dir, METHODS["rtn4"], tmp_path / "sharded")
    files = sorted(path.name for path in (tmp_path / "sharded").glob("*.safetensors"))
    assert len(files) > 2
    monkeypatch.undo()
    quantize(model_dir, METHODS["rtn4"], tmp_path / "whole")
    sharded = load_quantized(tmp_path / "sharded", torch.bfloat16).state_dict()
    whole = load_quantized(tmp_path / "whole", torch.bfloat16).state_dict()
    assert all(torch.equal(sharded[name], whole[name]) for name in whole)
    (tmp_path / "sharded" / files[0]).unlink()
    with pytest.raises(ModelError, match=rf"1 of {len(files)} weight files are missing \({files[0]}\)"):
        load_quantized(tmp_path / "sharded", torch.bfloat16)


def damaged_copy(directory, target, change):
    shutil.copytree(directory, target)
    state = load_file(target / "model.safetensors")
    change(state)
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return target


LAYER = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("gptq4", lambda s: s.pop(f"{LAYER}.scales"), f"{LAYER}: no scales"),
        ("gptq4", lambda s: s.update({f"{LAYER}.qweight": s[f"{LAYER}.qweight"][:-1]}), "11 words a column"),
        ("gptq4", lambda s: s.update({f"{LAYER}.g_idx": s[f"{LAYER}.g_idx"] + 9}), "group 9 in g_idx"),
        ("nf4", lambda s: s.pop(f"{LAYER}.weight.absmax"), f"{LAYER}: incomplete layer"),
        ("int8", lambda s: s.pop(f"{LAYER}.SCB"), f"{LAYER}: incomplete layer"),
    ],
)
def test_damage_is_named(method, change, message, written, tmp_path):
    directory = damaged_copy(written(METHODS[method])[0], tmp_path / "damaged", change)
    with pytest.raises(ModelError, match=message):
        load_quantized(directory, torch.bfloat16)


def test_unquantized_directory_is_refused(model_dir):
    with pytest.raises(ModelError, match="quant_method None"):
        load_quantized(model_dir, torch.bfloat16)


def test_record_that_is_none(tmp_path):
    (tmp_path / "quantgate.json").write_text("{}")
    with pytest.raises(ModelError, match="no readable record"):
        read_record(tmp_path)


def test_needs_calibration(model_dir, tmp_path):
    with pytest.raises(MethodError, match="gptq4: no calibration set"):
        quantize(model_dir, METHODS["gptq4"], tmp_path)


def test_ignores_calibration(written):
    assert written(METHODS["rtn4"])[1].calibration is None


def test_pickles_are_not_loaded(model_dir, tmp_path):
    shutil.copy(model_dir / "config.json", tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only pickled weights"):
        quantize(tmp_path, METHODS["rtn4"], tmp_path / "out")


def test_layers_can_be_read_without_a_model(written):
    directory, record, computed = written(METHODS["gptq3"])
    config = json.loads((directory / "quantize_config.json").read_text())
    rest, layers = read_layers(directory, config)
    assert tuple(layers) == tuple(sorted(record.quantized_modules))
    assert "model.embed_tokens.weight" in rest
    assert torch.equal(layers[LAYER].codes, computed[LAYER].weight.codes)
