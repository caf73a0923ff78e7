"""sensitivity.csv: kinds of tasks by method, every cell of the grid there."""

import csv
import io
import math
from dataclasses import replace

import pytest

from quantgate.reports.sensitivity import OTHER, as_csv, category_of, loss_of
from quantgate.tasks.table import TASKS
from tests.unit.reports.shown import payload, report_of


def test_losses_are_in_units_of_the_margin_and_the_grid_is_whole():
    cases = [
        payload("gptq4", 0.78), payload("gptq4", 0.7, task="mmlu"), payload("gptq4", 0.76, task="ceval"),
        payload("rtn2", 0.3),
    ]  # fmt: skip
    table = list(csv.DictReader(io.StringIO(as_csv(report_of(*cases)))))
    cells = {(row["method"], row["category"]): row for row in table}
    assert set(cells) == {(method, kind) for method in ("gptq4", "rtn2") for kind in ("exams", "truthfulness")}
    margins = [case.result.margin for case in cases]
    exams = cells["gptq4", "exams"]
    assert float(exams["worst_loss"]) == pytest.approx(0.1 / margins[1], abs=1e-3)
    assert float(exams["mean_loss"]) == pytest.approx((0.1 / margins[1] + 0.04 / margins[2]) / 2, abs=1e-3)
    assert (exams["tasks"], exams["worst_task"]) == ("2", "mmlu")
    missing = cells["rtn2", "exams"]
    assert (missing["tasks"], missing["mean_loss"], missing["worst_task"]) == ("0", "", "")
    assert cells["rtn2", "truthfulness"]["regressed"] == "1"


def test_one_kind_alone_is_no_table_and_no_number_is_no_loss():
    one = payload("gptq4", 0.78)
    assert as_csv(report_of(one)) == ""
    assert math.isnan(loss_of(replace(one.result, margin=0.0)))
    rise = replace(one.result, higher_is_better=False, delta=0.5, margin=1.0)
    assert loss_of(rise) == 0.5


def test_every_task_of_ours_has_a_kind():
    assert [name for name in TASKS if category_of(name) == OTHER] == []
    names = ("sampled_gsm8k", "decode_ppl_humaneval", "mass_arc_easy", "arc_easy_norm")
    assert [category_of(each) for each in names] == [
        "mathematics", "code", "scientific questions", "scientific questions",
    ]  # fmt: skip
    assert category_of("ours") == OTHER
