"""table.csv and table.tex, read back by other readers than the code that wrote them."""

import csv
import io
import math
from dataclasses import replace

import pandas

from quantgate.reports.spreadsheet import COLUMNS, as_csv, as_latex
from tests.unit.reports.shown import many, payload, report_of


def test_numbers_survive_and_columns_have_their_types():
    report = report_of(payload("gptq4", 0.8), payload("rtn2", 0.3))
    table = pandas.read_csv(io.StringIO(as_csv(report)))
    assert list(table.columns) == list(COLUMNS)
    assert {"companions", "unscored"}.isdisjoint(table.columns)
    for (_, row), result in zip(table.iterrows(), report.rows, strict=True):
        assert (row.method, row.verdict, row.n_items) == (result.method, result.verdict, result.n_items)
        assert math.isclose(row.ci_low, result.ci_low, rel_tol=1e-12)
    assert table.ci_low.dtype.kind == "f"


def test_no_cell_is_a_formula_and_what_is_not_defined_is_empty():
    bad = payload("gptq4", 0.8)
    report = report_of(replace(bad, result=replace(bad.result, reason='=HYPERLINK("x")', value=math.nan)))
    [row] = csv.DictReader(io.StringIO(as_csv(report)))
    assert row["reason"].startswith("'=")
    assert row["value"] == ""


def test_latex_has_paper_a_layout():
    table = as_latex(report_of(payload("gptq4", 0.8), payload("rtn2", 0.3), payload("gptq4", 0.79, task="mmlu")))
    lines = table.splitlines()
    assert lines[1] == r"\begin{tabular}{lrr}"
    assert r" & truthfulqa & mmlu \\" in lines
    assert r"16-bit & 0.8000 & 0.8000 \\" in lines
    assert any(line.startswith(r"gptq4 & \textbf{0.8000}") for line in lines)
    assert any(line.startswith("rtn2 & 0.3000$^{\\dagger}$ & -- ") for line in lines)
    assert table.count("{") == table.count("}")


def test_latex_escapes_names_and_nothing_to_show_is_no_file():
    assert r"a\_b\%\&\textbackslash{}" in as_latex(report_of(payload("a_b%&\\", 0.8)))
    only_bytes = payload("gptq4", 0.8)
    only_bytes = replace(only_bytes, result=replace(only_bytes.result, dimension="efficiency"))
    assert as_latex(report_of(only_bytes)) == ""


def test_cases_without_numbers_are_rows_too():
    assert as_csv(many(3)).count("\n") == 4
    assert "--" not in as_latex(many(1))


def test_a_frame_has_columns_of_numbers():
    frame = report_of(payload("gptq4", 0.8), payload("rtn2", 0.3)).as_frame()
    assert list(frame.method) == ["gptq4", "rtn2"]
    assert (frame.delta.dtype.kind, frame.n_items.dtype.kind, frame.from_cache.dtype.kind) == ("f", "i", "b")
    assert "companions" not in frame
