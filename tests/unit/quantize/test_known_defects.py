"""The defects of the toolbox MI-optimize, one test each: what is wrong there holds here.

Those of its evaluation (tasks, scores, speed, its own tests) are in ``tests/unit/test_known_defects.py``.
"""

import copy
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from quantgate.checkpoints.checkpoint import load_quantized
from quantgate.core.errors import MethodError
from quantgate.core.progress import Silent
from quantgate.quantize.algorithms.floats import quantize_float8
from quantgate.quantize.algorithms.rtn import rtn
from quantgate.quantize.algorithms.slim import SampledHessian, Slim
from quantgate.quantize.calibration.sources import CalibrationChoice, build_calibration
from quantgate.quantize.catalogue.methods import METHODS, algorithm_of
from quantgate.quantize.numerics.packing import pack_rows, unpack_rows
from quantgate.quantize.settings import ActivationSettings, RtnSettings, SlimSettings, SpqrSettings
from quantgate.quantize.sweep.driver import Sweep
from quantgate.quantize.transforms.activations import ActivationLinear
from quantgate.subjects.make import quantize_checkpoint
from quantgate.tasks.data import BUNDLED_DATA, DirectorySource
from quantgate.tasks.prompts import Prompts
from tests.unit.conftest import random_calibration, tiny_llama
from tests.unit.quantize.test_gptq import correlated_inputs, weight_matrix

ROOT = Path(__file__).resolve().parents[3]
WEIGHT_ONLY = [
    name
    for name, row in METHODS.items()
    if not (row.activations or row.kv_cache or row.transformation)
    and row.algorithm not in ("hqq", "omniquant")  # test_hqq.py; learned by whole blocks: test_omniquant.py
]


def statistics_of(algorithm, x):
    statistics = algorithm.statistics(x.shape[1], torch.device("cpu"))
    if statistics is not None:
        statistics.add(x)
    return statistics


def test_spqr_runs(model_dir, tmp_path):
    """There, SpQR hands its base class a keyword that does not exist: TypeError."""
    record = quantize_checkpoint(model_dir, METHODS["spqr2"], random_calibration([12, 7]), tmp_path, progress=Silent())
    assert len(record.quantized_modules) == 14
    assert record.bits_effective > 2.625


@pytest.mark.parametrize("name", ["rtn3", "gptq3", "spqr3", "slim3"])
def test_settings_survive_a_call(name, model_dir, tmp_path):
    """There, quantize() pops keys from the caller's settings: the second call fails."""
    method = METHODS[name]
    before = copy.deepcopy(method.as_record())
    for turn in ("first", "second"):
        quantize_checkpoint(model_dir, method, random_calibration([12, 7]), tmp_path / turn, progress=Silent())
    assert method.as_record() == before
    files = [(tmp_path / turn / "model.safetensors").read_bytes() for turn in ("first", "second")]
    assert files[0] == files[1]


def test_a_misspelt_setting_is_an_error():
    """There, `nsample` for `nsamples` silently means 128."""
    with pytest.raises(TypeError, match="relative_treshold"):
        SpqrSettings(2, relative_treshold=0.1)
    for name, row in METHODS.items():
        assert row.id == name  # there, the file called awq holds the settings of rtn


def test_two_samples_are_a_batch():
    """There, a batch of two samples is taken for a matrix, because len() is asked instead of the dimensions."""
    model = tiny_llama()
    seen = []

    class Watched(SampledHessian):
        def add(self, rows):
            seen.append(tuple(rows.shape))
            super().add(rows)

    class Algorithm(Slim):
        def statistics(self, in_features, device):
            return Watched(in_features, device, 4)

    Sweep(model, Algorithm(SlimSettings(4)), "slim4", Silent()).run(random_calibration([9, 9]))
    assert {rows for rows, _ in seen} == {18}
    assert {features for _, features in seen} == {96, 160}


@pytest.mark.parametrize("name", ["gptq4", "gptq3", "spqr4", "spqr-g128-w2"])
def test_the_export_is_the_model(name, model_dir, tmp_path):
    """There, group scales are joined on the wrong axis and the act-order permutation is not stored."""
    calibration = random_calibration([12, 7, 12, 9])
    quantize_checkpoint(model_dir, METHODS[name], calibration, tmp_path, progress=Silent())
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16).eval()
    Sweep(model, algorithm_of(METHODS[name]), name, Silent()).run(calibration)
    ids = torch.tensor([[3, 1, 4, 1, 5, 9]])
    assert torch.equal(load_quantized(tmp_path, torch.bfloat16)(ids).logits, model(ids).logits)
    stored = load_file(tmp_path / "model.safetensors")
    part = "g_idx" if name.startswith("gptq") else "quantized.order"
    order = stored[f"model.layers.0.mlp.down_proj.{part}"]
    assert not torch.equal(order, order.sort().values), "act-order did nothing here: the test would prove nothing"


@pytest.mark.parametrize("name", WEIGHT_ONLY)
def test_nothing_is_changed_in_place(name):
    """There, ZeroQuant and SmoothQuant write into the weights and activations they are given."""
    x, weight = correlated_inputs(columns=96), weight_matrix(16, 96).bfloat16()
    x_before, weight_before = x.clone(), weight.clone()
    algorithm = algorithm_of(METHODS[name])
    statistics = statistics_of(algorithm, x)
    first, second = (algorithm.quantize([weight], statistics)[0].weight for _ in range(2))
    assert torch.equal(x, x_before)
    assert torch.equal(weight, weight_before)
    assert torch.equal(first.dequantize(torch.float32), second.dequantize(torch.float32))


@pytest.mark.parametrize("name", [name for name in WEIGHT_ONLY if METHODS[name].algorithm != "float"])
def test_no_multiple_of_256_is_asked_for(name):
    """There, clipping asserts that the output features are a multiple of 256."""
    x, weight = correlated_inputs(columns=70), weight_matrix(13, 70).bfloat16()
    algorithm = algorithm_of(METHODS[name])
    stored = algorithm.quantize([weight], statistics_of(algorithm, x))[0].weight
    assert stored.dequantize(torch.float32).shape == (13, 70)
    assert stored.n_weights == 13 * 70


@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_fp8_scales_follow_the_magnitude(kind, model_dir, tmp_path):
    """There, E5M2's scale is inverted, the range is max(x) instead of max|x|, and FP8 is never dispatched."""
    weight = -torch.rand(4, 64, generator=torch.Generator().manual_seed(0)) * 1000  # max(x) is nearly 0
    stored = quantize_float8(weight, kind)
    relative = (stored.dequantize(torch.float32) - weight).abs() / weight.abs()
    assert float(relative.max()) < 0.13
    method = METHODS[f"float8-{kind}"]
    quantize_checkpoint(model_dir, method, None, tmp_path, progress=Silent())
    tensors = load_file(tmp_path / "model.safetensors")
    wanted = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}[kind]
    assert sum(tensor.dtype == wanted for tensor in tensors.values()) == 14


def test_unpacking_stays_where_the_codes_are():
    """There, unpacking moves everything to `cuda`."""
    codes = torch.randint(0, 8, (70, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    unpacked = unpack_rows(pack_rows(codes, 3), 3, 70)
    assert unpacked.device == codes.device
    assert torch.equal(unpacked, codes)
    meta = unpack_rows(torch.zeros(12, 5, dtype=torch.int32, device="meta"), 4, 96)
    assert meta.device.type == "meta"


@pytest.mark.parametrize("name", ["gptq4", "spqr4", "slim2", "nf4"])
def test_no_pickles(name, model_dir, tmp_path):
    """There, whole modules are pickled. All methods: `tests/unit/checkpoints/test_checkpoint.py`."""
    quantize_checkpoint(model_dir, METHODS[name], random_calibration([12, 7]), tmp_path, progress=Silent())
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    for path in tmp_path.glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))


def test_the_working_directory_does_not_matter(tmp_path):
    """There, the working directory must be the repository's root, and paths of somebody's machine are in the code."""
    shown = subprocess.run(
        [sys.executable, "-m", "quantgate", "export", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "METHOD" in shown.stdout
    for path in (ROOT / "quantgate").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not [start for start in ("/home/", "/models/", "/root/", "/mnt/", "HF_ENDPOINT") if start in text], path


def corpus(tmp_path, write_jsonl, tokenizer):
    rows = [{"text": f"line {number} of a page", "url": "", "timestamp": ""} for number in range(200)]
    write_jsonl(tmp_path, "allenai/c4", "en", "train", rows)
    return DirectorySource(tmp_path), Prompts(tokenizer, 512, "tiny")


def test_c4_gives_calibration_text(tmp_path, write_jsonl, tokenizer):
    """There, the loader of C4's train split ends without a return."""
    data, prompts = corpus(tmp_path, write_jsonl, tokenizer)
    calibration = build_calibration(CalibrationChoice("c4", 4, 30), data, data, prompts)
    assert calibration.n_tokens == 120
    assert all("line" in text for text in calibration.texts)


@pytest.mark.parametrize("name", ["dialogues", "wikitext2", "ptb", "c4", "random"])
def test_every_named_set_exists_and_is_drawn_by_the_seed(name, tmp_path, write_jsonl, tokenizer):
    """There, a set that is to be shuffled ends at an unbound variable, and of a family of sets one is shipped."""
    for dataset, config, field in (
        ("allenai/c4", "en", "text"),
        ("Salesforce/wikitext", "wikitext-2-raw-v1", "text"),
        ("ptb-text-only/ptb_text_only", "penn_treebank", "sentence"),
    ):
        rows = [{field: f"line {number} of {dataset}"} for number in range(200)]
        write_jsonl(tmp_path, dataset, config, "train", rows)
    data, bundled, prompts = DirectorySource(tmp_path), DirectorySource(BUNDLED_DATA), Prompts(tokenizer, 4096, "tiny")
    first, again, other = (
        build_calibration(CalibrationChoice(name, 4, 30, seed), data, bundled, prompts) for seed in (1, 1, 2)
    )
    assert first.samples == again.samples
    assert first.samples != other.samples
    assert len(first.samples) == 4


@pytest.mark.parametrize("length", [1, 30, 77])
def test_the_length_cuts_tokens(length, tmp_path, write_jsonl, tokenizer):
    """There, the calibration length slices the axis of the samples, so that nothing is cut."""
    data, prompts = corpus(tmp_path, write_jsonl, tokenizer)
    samples = build_calibration(CalibrationChoice("c4", 5, length), data, data, prompts).samples
    assert [len(sample) for sample in samples] == [length] * 5


@pytest.mark.parametrize("name", ["rtn4", "gptq4", "awq4", "spqr4", "quip4", "slim4", "easyquant4", "smoothquant8"])
def test_quantized_activations_are_never_ignored(name, model_dir, tmp_path):
    """There, GPTQ, AWQ and QuIP drop an integer activation type without a word."""
    row = dataclasses.replace(METHODS[name], activations=ActivationSettings(5), activation_bits=5)
    record = quantize_checkpoint(model_dir, row, random_calibration([12, 7]), tmp_path, progress=Silent())
    assert record.activation_bits == 5
    model = load_quantized(tmp_path, torch.bfloat16)
    layers = [model.get_submodule(layer) for layer in record.quantized_modules]
    assert all(isinstance(layer, ActivationLinear) and layer.settings.bits == 5 for layer in layers)


@pytest.mark.parametrize("sym", [True, False])
def test_scales_have_the_shape_of_what_shares_them(sym):
    """There, static scales by token do not exist when they are used, and a reshape by channel is thrown away."""
    with pytest.raises(MethodError, match="static scales by token"):
        ActivationSettings(8, "token", dynamic=False)
    weight = weight_matrix(16, 96)
    weight[3] *= 100
    stored = rtn(weight, RtnSettings(8, -1, sym))
    assert stored.scales.shape == (1, 16)
    error = (stored.dequantize(torch.float32) - weight).abs().amax(1)
    assert bool((error <= stored.scales[0].float() * 0.57).all()), "one scale a channel, used by that channel"


@pytest.mark.parametrize("name", ["smoothquant8", "smoothquant-gptq-w8", "zeroquant8", "awq-gptq-w3", "awq4"])
def test_transformations_leave_their_sources_alone(name, model_dir, tmp_path):
    calibration, files = random_calibration([12, 7]), sorted(model_dir.iterdir())
    before = copy.deepcopy(calibration), [path.read_bytes() for path in files]
    for number in (1, 2):
        target = tmp_path / str(number)
        quantize_checkpoint(model_dir, METHODS[name], calibration, target, progress=Silent())
    assert before == (calibration, [path.read_bytes() for path in files])
    weights = [(tmp_path / number / "model.safetensors").read_bytes() for number in ("1", "2")]
    assert weights[0] == weights[1]
