"""``quantgate.json`` says what the files beside it hold, for every kind of row; anything else in it is found."""

from dataclasses import replace
from pathlib import Path

import pytest

from quantgate.checkpoints.record import read_record, write_record
from quantgate.core.progress import Silent
from quantgate.models.tensors import StoredTensor
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.subjects.make import quantize_checkpoint
from quantgate.subjects.recorded import contradiction, stored_bits


@pytest.fixture
def made(model_dir, tmp_path, calibration):
    """Makes the checkpoint of a row, and says what is wrong with a record of it."""

    def make(name):
        method = METHODS[name]
        used = calibration if method.needs_calibration else None
        target = tmp_path / name
        quantize_checkpoint(model_dir, method, used, target, device="cpu", progress=Silent())
        return target, lambda record: contradiction(record, method, used, model_dir, target, name)

    return make


@pytest.mark.parametrize("name", ["rtn4", "gptq4", "awq4", "spqr3", "smoothquant8", "int8", "nf4", "quip2", "kv8"])
def test_a_record_as_it_was_written_is_true(made, name):
    target, wrong = made(name)
    assert wrong(read_record(target)) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bits_nominal", 2),
        ("bits_effective", 2.0),
        ("bits_effective", "2"),
        ("bytes_on_disk", 1),
        ("storage", "fake"),
        ("execution", "int8"),
        ("activation_bits", 4),
        ("cache_bits", 4),
        ("calibration", {"name": "mine"}),
    ],
)
def test_an_edited_field_is_named(made, field, value):
    target, wrong = made("rtn4")
    found, expected = wrong(replace(read_record(target), **{field: value}))
    assert found.startswith(f"{field} ")
    assert expected.endswith("as its files and the method say")


def test_a_layer_that_the_record_does_not_name(made):
    target, wrong = made("rtn4")
    record = read_record(target)
    found, _ = wrong(replace(record, quantized_modules=record.quantized_modules[1:]))
    assert found == f"nothing of {record.quantized_modules[0]}"
    write_record(record, target)
    assert wrong(read_record(target)) is None


def test_biases_and_other_layers_are_not_counted():
    def tensor(name, shape, nbytes):
        return StoredTensor(name, "U8", shape, Path("x"), 0, nbytes)

    reference = {"a.weight": tensor("a.weight", (4, 4), 32)}
    sizes = {"a.qweight": 8, "a.scales": 2, "a.bias": 8, "b.qweight": 99}
    tensors = {name: tensor(name, (nbytes,), nbytes) for name, nbytes in sizes.items()}
    assert stored_bits(reference, tensors, {"a": {}}, ["a"]) == 5.0
