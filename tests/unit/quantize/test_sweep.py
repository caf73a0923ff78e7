"""Several methods in one sweep: nothing is different from separate runs, and what can be shared is computed once."""

import pytest
import torch

from quantgate.core.errors import MethodError
from quantgate.core.progress import Silent
from quantgate.models.spill import Spill
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.quantize.settings import GptqSettings
from quantgate.quantize.sweep import driver
from quantgate.quantize.sweep.rotation import Rotated
from quantgate.subjects.make import _Work, quantize_checkpoint, quantize_many, with_float_inputs
from tests.unit.conftest import random_calibration, tiny_llama

ROWS = ["rtn4", "gptq4", "gptq2", "awq3", "awq-gptq-w3", "smoothquant-static-w8", "spqr3", "kv8", "int8"]


@pytest.fixture
def calibration():
    return random_calibration([12, 30, 7])


def test_a_sweep_changes_no_bit(model_dir, tmp_path, calibration):
    rows = [METHODS[name] for name in ROWS] + [with_float_inputs(METHODS[f"gptq{bits}"]) for bits in (8, 3)]
    records = quantize_many(model_dir, {tmp_path / row.id: row for row in rows}, calibration, progress=Silent())
    for row, record in zip(rows, records, strict=True):
        alone = quantize_checkpoint(model_dir, row, calibration, tmp_path / "alone" / row.id, progress=Silent())
        assert record.method == alone.method == row.as_record()
        assert (record.losses, record.folds, record.calibration) == (alone.losses, alone.folds, alone.calibration)
        for name in ("model.safetensors", "config.json"):
            assert (tmp_path / row.id / name).read_bytes() == (tmp_path / "alone" / row.id / name).read_bytes(), row.id


def test_seconds_add_up(model_dir, tmp_path, calibration, monkeypatch):
    clock = iter(range(1_000_000))
    monkeypatch.setattr(driver.time, "perf_counter", lambda: float(next(clock)))
    rows = [METHODS["rtn4"], METHODS["awq4"]]
    records = quantize_many(model_dir, {tmp_path / row.id: row for row in rows}, calibration, progress=Silent())
    assert 0.8 * next(clock) < sum(record.seconds for record in records) < next(clock)


def test_forwards_are_shared(model_dir, tmp_path, calibration, monkeypatch):
    """Four methods with float inputs run each block once, as one of them does."""
    forwards = []
    inner = driver.run_block
    monkeypatch.setattr(driver, "run_block", lambda *args: forwards.append(args[2]) or inner(*args))
    counts = []
    for names in (["gptq4"], ["gptq8", "gptq4", "gptq3", "gptq2"]):
        forwards.clear()
        rows = [with_float_inputs(METHODS[name]) for name in names]
        targets = {tmp_path / str(len(names)) / row.id: row for row in rows}
        quantize_many(model_dir, targets, calibration, progress=Silent())
        counts.append(len(forwards))
    assert counts[0] == counts[1]


def test_hessians_and_factors_are_shared(model_dir, tmp_path, calibration, monkeypatch):
    from quantgate.quantize.numerics import columns

    factors = []
    inner = columns.inverse_factor
    monkeypatch.setattr(columns, "inverse_factor", lambda *args: factors.append(1) or inner(*args))
    rows = [with_float_inputs(METHODS[f"gptq{bits}"]) for bits in (8, 4, 3, 2)]
    quantize_many(model_dir, {tmp_path / row.id: row for row in rows}, calibration, progress=Silent())
    assert len(factors) == 8  # two blocks of four stages


def test_float_inputs():
    row = with_float_inputs(METHODS["gptq4"])
    assert row.id == "gptq-float-w4"
    assert row.settings == GptqSettings(4, true_sequential=False, block_sequential=False)
    assert with_float_inputs(METHODS["awq-gptq-w3"]).id == "awq-gptq-float-w3"
    assert METHODS[row.id].settings == row.settings  # a row of the table too
    assert all(name not in row.id for name in METHODS if name != row.id)
    with pytest.raises(MethodError, match="no sequential settings"):
        with_float_inputs(METHODS["rtn4"])


def test_one_method_without_calibration_stops_the_sweep(model_dir, tmp_path):
    rows = [METHODS["rtn4"], METHODS["awq4"]]
    with pytest.raises(MethodError, match="awq4: no calibration set"):
        quantize_many(model_dir, {tmp_path / row.id: row for row in rows}, None, progress=Silent())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", [("awq4", "gptq4", "smoothquant8"), ("awq-gptq-w3",), ("rtn2",), ("omniquant3",)])
def test_the_model_is_what_it_was(names, model_dir, calibration):
    model, original = tiny_llama(), tiny_llama().state_dict()
    jobs = [_Work(METHODS[name], model, Rotated(), Spill("x")).job for name in names]
    driver.run_jobs(model, jobs, calibration, Silent())
    assert all(job.results for job in jobs)
    assert all(torch.equal(tensor, original[name]) for name, tensor in model.state_dict().items())
