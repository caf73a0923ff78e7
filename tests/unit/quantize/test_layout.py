"""The layout as docs/checkpoints.md describes it, read here by a second reader that shares no code with the first."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from quantgate.checkpoints.checkpoint import load_quantized
from quantgate.core.errors import ModelError
from quantgate.core.progress import Silent
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.subjects.make import quantize_checkpoint
from tests.unit.conftest import random_calibration

LAYER = "model.layers.1.mlp.down_proj"


def stream(words, bits, shape):
    flat = ((words.view(np.uint32)[:, None] >> np.arange(32, dtype=np.uint32)) & 1).reshape(-1)
    count = int(np.prod(shape))
    return (flat[: count * bits].reshape(count, bits) << np.arange(bits)).sum(1).reshape(shape).astype(np.float32)


def f(tensor):
    return tensor.astype(np.float32)


def spread(values, size, length):
    """A row a group, to a row a member."""
    return np.repeat(values, size, axis=0)[:length]


def put(weight, parts, values):
    for row in range(len(weight)):
        for at in range(parts["outlier_rows"][row], parts["outlier_rows"][row + 1]):
            weight[row, parts["outlier_columns"][at]] = values[at]
    return weight


def spqr(p, c, out, columns, values):
    def statistic(name):
        width = c["statistic_group"]
        codes = stream(p[f"{name}_codes"], c["statistic_bits"], (-(-columns // c["group_size"]), out))
        lows, steps = (np.repeat(f(p[f"{name}_{part}"]), width, 1)[:, :out] for part in ("lows", "steps"))
        return spread(lows + steps * codes, c["group_size"], columns)

    codes = stream(p["codes"], c["bits"], (columns, out))
    ordered = (codes - statistic("zero")) * statistic("scale")
    weight = np.empty_like(ordered)
    weight[p["order"]] = ordered
    return put(weight.T.copy(), p, values)


def slim(p, c, out, columns, values):
    size, at_code, at_zero, rows = c["group_size"], 0, 0, []
    for group, bits in enumerate(p["bits"].tolist()):
        count = min(size, columns - group * size)
        # a run of words holds lcm(32, bits) bits
        run = np.lcm(32, bits)
        code_words, zero_words = (-(-n * bits // run) * run // 32 for n in (count * out, out))
        codes = stream(p["codes"][at_code : at_code + code_words], bits, (count, out))
        zeros = stream(p["zeros"][at_zero : at_zero + zero_words], bits, (out,))
        at_code, at_zero = at_code + code_words, at_zero + zero_words
        rows.append((codes - (np.float32(0.5) if bits == 1 else zeros)) * f(p["scales"][group]))
    return np.concatenate(rows).T


def easyquant(p, c, out, columns, values):
    codes = stream(p["codes"], c["bits"], (columns, out)) - np.float32(2 ** (c["bits"] - 1) - 1)
    return put((codes * spread(f(p["scales"]), c["group_size"], columns)).T.copy(), p, values)


def rotation(n, seed):
    """As a matrix, in float64: its rows are what a vector is multiplied with."""
    odd = n
    while odd % 2 == 0:
        odd //= 2
    hadamard = np.ones((1, 1))
    while len(hadamard) * odd < n:
        hadamard = np.kron(np.array([[1, 1], [1, -1]]), hadamard)
    j = np.arange(odd)
    cosines = np.sqrt(2 / odd) * np.cos(np.pi * j[:, None] * (2 * j + 1) / (2 * odd))
    cosines[0] = np.sqrt(1 / odd)
    signs = 2.0 * torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(seed)).numpy() - 1
    return np.kron(hadamard / np.sqrt(n // odd), cosines) * signs


def quip(p, c, out, columns, values):
    rotated = (stream(p["codes"], c["bits"], (columns, out)) * 2 / (2 ** c["bits"] - 1) - 1) * p["half_range"]
    seed_in, seed_out = p["seeds"].tolist()
    return rotation(out, seed_out).T @ rotated.T @ rotation(columns, seed_in) / f(p["balance"])


READERS = {"spqr": spqr, "slim": slim, "easyquant": easyquant, "quip": quip}


@pytest.mark.parametrize("method", ["spqr3", "slim2", "easyquant3", "quip2"])
def test_a_second_reader_finds_the_same_weights(method, model_dir, tmp_path):
    quantize_checkpoint(model_dir, METHODS[method], random_calibration([12, 7, 12, 9]), tmp_path, progress=Silent())
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "quantgate"
    prefix = f"{LAYER}.quantized."
    tensors = load_file(tmp_path / "model.safetensors")
    mine = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    outliers = mine.pop("outlier_values", torch.empty(0)).float().numpy()  # bf16 is no numpy dtype
    parts = {name: tensor.numpy() for name, tensor in mine.items()}
    out, columns = parts["shape"].tolist()
    found = torch.from_numpy(np.ascontiguousarray(READERS[config["format"]](parts, config, out, columns, outliers)))
    loaded = load_quantized(tmp_path, torch.float32).get_submodule(LAYER).weight
    if method == "quip2":  # a matrix product in float64 against sums in float32
        torch.testing.assert_close(found.float(), loaded, atol=1e-6, rtol=1e-5)
    else:
        assert torch.equal(found.float(), loaded)


def test_an_unknown_format_is_named(model_dir, tmp_path):
    quantize_checkpoint(model_dir, METHODS["easyquant3"], None, tmp_path, progress=Silent())
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["format"] = "other"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="format 'other'; expected one of spqr, slim"):
        load_quantized(tmp_path, torch.float32)
    config["quantization_config"] = {"quant_method": "quantgate", "format": "easyquant"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"wrong settings \(there is no 'bits'\)"):
        load_quantized(tmp_path, torch.float32)
