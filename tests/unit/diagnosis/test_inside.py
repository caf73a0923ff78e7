"""What is inside a model: against closed forms, and on a small model with a planted channel."""

import csv
import io
import json
import math

import pytest
import torch

from quantgate.cli import main
from quantgate.core.errors import UsageError
from quantgate.diagnosis.inside import COLUMNS, LOGITS, closeness, compared, layers_by_block, look, reach, rows
from quantgate.diagnosis.inside_picture import svg
from quantgate.inspecting import FILES
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.quantize.catalogue.strategies import strategies_of
from tests.unit.conftest import tiny_llama

SEGMENTS = [tuple(range(1, 17)), tuple(range(17, 33))]


def test_reach_is_that_of_known_distributions():
    torch.manual_seed(0)
    normal = reach(torch.randn(20_000, 8))
    assert normal.kurtosis == pytest.approx(3, abs=0.15)
    even = reach(torch.linspace(-1, 1, 10_001)[:, None].expand(-1, 4))
    assert (even.kurtosis, even.peak, even.across) == pytest.approx((1.8, 2.0, 1.0), rel=1e-3)
    rows_ = torch.ones(100, 5)
    rows_[::2] *= -1
    rows_[:, 3] *= 40
    assert reach(rows_).across == 40
    constant = reach(torch.cat([torch.ones(50, 1), torch.randn(50, 1)], 1))
    assert math.isfinite(constant.kurtosis)


def test_closeness_is_the_angle_and_the_error():
    ours = torch.tensor([3.0, 4.0])
    assert closeness(ours, ours) == pytest.approx((1, 0))
    assert closeness(ours, 2 * ours) == pytest.approx((1, 1))
    assert closeness(ours, torch.tensor([4.0, -3.0])) == pytest.approx((0, 2**0.5))


def records(change):
    torch.manual_seed(0)
    model = tiny_llama()
    layers = layers_by_block(model)
    before = look(model, layers, SEGMENTS)
    with torch.no_grad():
        change(model)
    return compared(
        METHODS["rtn4"],
        {name: 0.5 for names in layers.values() for name in names},
        before,
        look(model, layers, SEGMENTS),
    )


def test_an_unchanged_model_is_equal_everywhere():
    record = records(lambda model: None)
    assert {name: (each["cosine"], each["relative_error"]) for name, each in record["blocks"].items()} == {
        name: (pytest.approx(1), 0) for name in record["blocks"]
    }
    assert list(record["blocks"])[-1] == LOGITS
    assert all(each["input_before"] == each["input_after"] for each in record["layers"].values())


def test_a_planted_channel_is_seen_where_it_is_and_behind_it():
    def plant(model):
        model.model.layers[1].input_layernorm.weight[5] *= 50

    record = records(plant)
    first, second, *_ = record["blocks"].values()
    assert first["relative_error"] == 0
    assert second["relative_error"] > 0.01
    after = {
        name: each["input_after"]["across"] / each["input_before"]["across"] for name, each in record["layers"].items()
    }
    assert min(each for name, each in after.items() if "layers.1.self_attn.q" in name) > 10
    assert max(each for name, each in after.items() if "layers.0" in name) == 1


def test_a_rotated_model_is_compared_by_its_logits_alone():
    model = tiny_llama()
    layers = layers_by_block(model)
    seen = look(model, layers, SEGMENTS)
    record = compared(METHODS["quarot-rtn-w4"], {}, seen, seen)
    assert list(record["blocks"]) == [LOGITS]
    [row] = rows([record])
    assert row[COLUMNS.index("worst block error")] == "another basis"
    assert row[COLUMNS.index("mean loss")] == "-"


@pytest.mark.parametrize(
    ("method", "strategies"),
    [
        ("rtn4", ()), ("nf4", ()), ("smoothquant8", ("transformation",)), ("gptq4", ("reconstruction",)),
        ("awq4", ("transformation", "clipping")), ("awq-gptq-w4", ("transformation", "reconstruction")),
        ("quarot-gptq-w4", ("transformation", "reconstruction")), ("omniquant4", ("transformation", "clipping")),
        ("slim2", ("clipping", "reconstruction")), ("quip2", ("transformation", "reconstruction")),
        ("easyquant4", ("clipping",)),
    ],
)  # fmt: skip
def test_methods_have_llmcs_strategies(method, strategies):
    assert strategies_of(METHODS[method]) == strategies


def test_every_algorithm_of_ours_has_its_strategies():
    from quantgate.quantize.catalogue import strategies

    assert {method.algorithm for method in METHODS.values()} <= set(strategies._BY_ALGORITHM)


def test_the_command_writes_table_csv_and_picture(tiny_model, tmp_path, capsys):
    command = ["inspect", "rtn8,rtn2", "--model", str(tiny_model), "--limit", "2", "--length", "16"]
    command += ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["method", "rtn8", "rtn2"]
    found = json.loads((tmp_path / "out" / FILES[0]).read_text())
    errors = [record["blocks"][LOGITS]["relative_error"] for record in found]
    assert 0 < errors[0] < errors[1]
    table = list(csv.DictReader(io.StringIO((tmp_path / "out" / FILES[1]).read_text())))
    assert len(table) == 2 * 14
    assert all(float(row["loss"]) > 0 and float(row["input_before_kurtosis"]) > 0 for row in table)
    picture = (tmp_path / "out" / FILES[2]).read_text()
    assert picture == svg(found)
    assert picture.count('fill="none" stroke-width="1.5"') == 4  # two methods, two panels


def test_an_unknown_text_or_method_is_one_sentence(tiny_model, capsys):
    for wrong in (["rtn9", "--text", "prose"], ["rtn4", "--text", "tales"]):
        assert main(["inspect", *wrong, "--model", str(tiny_model)]) == 4
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert UsageError
