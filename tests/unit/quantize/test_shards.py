"""Sums of private shards: pooled they are the whole, bit for bit in float64; what does not fit together is refused."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from quantgate import cli
from quantgate.checkpoints.checkpoint import stored_tensors
from quantgate.core.errors import DataError, MethodError
from quantgate.core.progress import Silent
from quantgate.models.source import resolve_model
from quantgate.quantize.calibration.shards import load_shard, pooled, read_facts, save_shard
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.quantize.numerics.exact import ExactStatistics
from quantgate.store.store import Store
from quantgate.studies.splits import by_metadata, dirichlet, iid, skew
from quantgate.subjects.make import quantize_checkpoint
from quantgate.subjects.sharding import write_samples
from quantgate.subjects.subject import Workshop, make_subject

CAN = ("gptq-float-w4", "spqr-float-w3", "smoothquant8", "rtn-static-a8-w8", "awq4")
LABELS = [number % 3 for number in range(28)]


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    return resolve_model(str(tiny_model), None, Store(tmp_path_factory.mktemp("store"), Silent()))


@pytest.fixture(scope="module")
def samples():
    """28 samples of three kinds: each its own part of the vocabulary."""
    generator = np.random.default_rng(0)
    return [tuple(map(int, generator.integers(80 * label, 80 * label + 80, size=24))) for label in LABELS]


@pytest.fixture(scope="module")
def shard(model, samples, tmp_path_factory):
    """Writes a shard of some of the samples."""
    root, count = tmp_path_factory.mktemp("shards"), iter(range(1000))

    def write(numbers, precision="float64"):
        path = root / f"{next(count)}.safetensors"
        _, error = write_samples([samples[n] for n in numbers], model, path, 24, precision, Silent())
        return path, error

    return write


def weights(model, method, calibration, target):
    quantize_checkpoint(model.path, METHODS[method], calibration, target, progress=Silent())
    return dict(stored_tensors(target))


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("split", ["iid 2", "iid 7", "dirichlet 7", "by label"])
def test_pooled_shards_equal_the_whole_bit_for_bit(split, shard, samples):
    cuts = {
        "iid 2": lambda: iid(28, 2, 1), "iid 7": lambda: iid(28, 7, 1),
        "dirichlet 7": lambda: dirichlet(LABELS, 7, 0.5, 1), "by label": lambda: list(by_metadata(LABELS).values()),
    }[split]()  # fmt: skip
    assert sorted(number for cut in cuts for number in cut) == list(range(28))
    whole = pooled([shard(range(28))[0]])
    parts = pooled([shard(cut)[0] for cut in cuts if cut])
    assert parts.digest == whole.digest
    assert (parts.n_tokens, parts.as_record()["n_samples"]) == (28 * 24, 28)
    for name, found in whole.stages.items():
        assert torch.equal(found.total, parts.stages[name].total), name


@pytest.mark.parametrize("method", CAN)
@pytest.mark.parametrize("clients", [2, 7])
def test_methods_quantize_alike_from_shards_and_from_the_whole(method, clients, model, shard, tmp_path):
    whole = weights(model, method, pooled([shard(range(28))[0]]), tmp_path / "whole")
    cuts = dirichlet(LABELS, clients, 0.3, 2)
    parts = weights(model, method, pooled([shard(cut)[0] for cut in cuts if cut]), tmp_path / "parts")
    assert same(whole, parts)
    other = weights(model, method, pooled([shard(range(9))[0]]), tmp_path / "other")
    assert not same(whole, other)  # the sums are looked at


def test_exact_sums_are_those_of_whole_numbers():
    rows = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    found = ExactStatistics(5)
    found.add(rows[:20])
    found.add(rows[20:])
    steps = (rows.double() * 2**20).round().to(torch.int64).numpy().astype(object)
    expected = steps.T @ steps  # Python's whole numbers
    total = found.high.numpy().astype(object) * 2**34 + found.cross.numpy().astype(object) * 2**17
    total = total + found.low.numpy().astype(object)
    assert all(int(total[i, j]) == expected[i, j] for i in range(5) for j in range(5))
    hessian = found.rounded().matrix()
    plain = 2 / 50 * rows.double().T @ rows.double()
    assert torch.allclose(hessian.double(), plain, rtol=1e-6, atol=1e-6)
    with pytest.raises(MethodError, match="beyond 8192"):
        found.add(torch.full((1, 5), 1e4))


def test_float32_differs_by_rounding_only(shard):
    exact = pooled([shard(range(28))[0]])
    cuts = iid(28, 7, 3)
    found = pooled([shard(cut, "float32")[0] for cut in cuts])
    for name, each in exact.stages.items():
        one, two = each.matrix().double(), found.stages[name].matrix().double()
        assert float((one - two).norm() / one.norm()) < 1e-5
        assert torch.equal(each.max_magnitude, found.stages[name].max_magnitude) or torch.allclose(
            each.max_magnitude, found.stages[name].max_magnitude, atol=2**-20
        )


@pytest.mark.parametrize(("precision", "bound"), [("16", 1 / 32767), ("8", 1 / 127)])
def test_payloads_keep_their_error_bound(precision, bound, shard):
    """Half a code, relative to the diagonal: |dH_ij| <= sqrt(H_ii H_jj) / (2 top), and what float32 rounds off."""
    _, plain = load_shard(shard(range(28), "float32")[0])
    path, told = shard(range(28), precision)
    _, coded = load_shard(path)
    worst = 0.0
    for name, found in coded.items():
        one, two = plain[name].matrix().double(), found.matrix().double()
        scale = one.diagonal().sqrt()
        assert float(((one - two).abs() / scale / scale.unsqueeze(1)).max()) <= bound / 2 + 2**-21
        upper = (plain[name].total.triu() - found.total.triu()).double().norm() / plain[
            name
        ].total.triu().double().norm()
        worst = max(worst, float(upper))
    assert told == pytest.approx(worst, rel=1e-3)


@pytest.mark.parametrize(("field", "value"), [
    ("model", "another"), ("tokenizer", "another"), ("length", 25), ("version", 9), ("precision", "float32"),
])  # fmt: skip
def test_a_shard_that_does_not_fit_names_the_field(field, value, shard, tmp_path):
    first, _ = shard(range(10))
    if field == "precision":
        second, _ = shard(range(10, 20), "float32")
    else:
        facts, stages = load_shard(shard(range(10, 20))[0])
        second = tmp_path / "other.safetensors"
        names = {tuple(facts.stages[name]): found for name, found in stages.items()}
        save_shard(second, replace(facts, **{field: value}), names)
    with pytest.raises(DataError, match=rf"{field} {value}; expected {field} .*, as in"):
        pooled([first, second])


def test_the_same_shard_twice_and_foreign_files_are_refused(shard, tmp_path):
    path, _ = shard(range(5))
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="the same text as"):
        pooled([path, copy])
    copy.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="cannot be read"):
        pooled([copy])
    copy.write_text("nothing")
    with pytest.raises(DataError, match="a file that `quantgate statistics` wrote"):
        read_facts(copy)


@pytest.mark.parametrize(("method", "words"), [
    ("gptq4", "inputs of layers that are quantized already"), ("spqr4", "of layers"), ("slim2", "of layers|of its own"),
])  # fmt: skip
def test_methods_that_cannot_are_refused_with_the_reason(method, words, model, shard, tmp_path):
    with pytest.raises(MethodError, match=words):
        quantize_checkpoint(model.path, METHODS[method], pooled([shard(range(5))[0]]), tmp_path, progress=Silent())


def test_statistics_of_another_model_are_refused(model, shard, tmp_path):
    store = Store(tmp_path, Silent())
    other = replace(model, digest=replace(model.digest, weights="f" * 64))
    with pytest.raises(DataError, match="--statistics: model "):
        make_subject(other, METHODS["awq4"], pooled([shard(range(5))[0]]), Workshop(store))


def test_the_splitters_are_disjoint_complete_and_skewed_as_alpha_says():
    labels = [number % 5 for number in range(1000)]
    skews = []
    for alpha in (100.0, 1.0, 0.1):
        found = [dirichlet(labels, 8, alpha, seed) for seed in range(10)]
        assert all(sorted(number for shard in each for number in shard) == list(range(1000)) for each in found)
        skews.append(float(np.mean([skew(labels, each) for each in found])))
    assert all(one < two - 0.1 for one, two in pairwise(skews))
    assert skew(labels, iid(1000, 8, 0)) < 0.1
    assert list(by_metadata("abab").values()) == [[0, 2], [1, 3]]
    for wrong in (lambda: iid(3, 4, 0), lambda: dirichlet([1], 1, 0.0, 0)):
        with pytest.raises(DataError):
            wrong()


def test_the_command_writes_what_export_reads(tiny_model, tmp_path, capsys):
    for number in (1, 2):
        rows = [{"note": f"note {number} {line} of a ward"} for line in range(6)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{number}.jsonl").write_text(text, encoding="utf-8")
        given = ["--data", f"{tmp_path / str(number)}.jsonl:note", "--out", str(tmp_path / f"{number}.st")]
        common = ["--model", str(tiny_model), "--calibration-length", "16", "--store", str(tmp_path / "store")]
        assert cli.main(["statistics", *given, *common]) == 0
    assert "tokens in" in capsys.readouterr().out
    shards = f"{tmp_path / '1.st'},{tmp_path / '2.st'}"
    to = [str(tmp_path / "out"), "--model", str(tiny_model), "--store", str(tmp_path / "store")]
    assert cli.main(["export", "gptq-float-w4", *to, "--statistics", shards]) == 0
    record = json.loads((tmp_path / "out" / "quantgate.json").read_text())
    assert "sums of 2 shards" in json.dumps(record)
    assert cli.main(["export", "gptq4", *[str(tmp_path / "no"), *to[1:]], "--statistics", shards]) == 4
    assert "gptq-float-w4" in capsys.readouterr().err
