"""table.csv and table.tex, read back by other readers than the code that wrote them."""

import csv
import io
import math
import re
from dataclasses import replace

import pandas

from quantgate.reports.shift import Matrix
from quantgate.reports.spreadsheet import COLUMNS, as_csv, as_latex, studies_as_latex
from quantgate.reports.studies import Shown
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
    assert lines[1] == r"\begin{tabular}{lrrr}"
    assert r" & bits & truthfulqa & mmlu \\" in lines
    assert r"16-bit & 16 & 0.8000 & 0.8000 \\" in lines
    [gptq] = [line for line in lines if line.startswith(r"gptq4 & 4.20 & \textbf{0.8000} {\scriptsize $[-0.0")]
    assert re.search(r"\$\[-0\.\d{4}, \+0\.\d{4}\]\$\} & 0\.7900", gptq)
    assert any(re.match(r"rtn2 & 4.20 & 0.3000\$\^\{\\dagger\}\$ \{\\scriptsize .*\} & -- ", line) for line in lines)
    assert lines[-1] == "% in brackets: the difference from 16 bit, 95% interval; bits: a weight, as stored"
    assert table.count("{") == table.count("}")


def test_latex_escapes_names_and_nothing_to_show_is_no_file():
    assert r"a\_b\%\&\textbackslash{}" in as_latex(report_of(payload("a_b%&\\", 0.8)))
    only_bytes = payload("gptq4", 0.8)
    only_bytes = replace(only_bytes, result=replace(only_bytes.result, dimension="efficiency"))
    assert as_latex(report_of(only_bytes)) == ""


def test_the_tables_of_studies_are_tabulars_too(monkeypatch):
    one = Matrix("gptq4: 100% by set", ("test", "16-bit", "c4"), (("mm_lu", "0.500", "0.480* (-0.020±0.010)"),))
    assert studies_as_latex(report_of(payload("gptq4", 0.8))) == ""
    report = report_of(payload("gptq4", 0.8))
    monkeypatch.setattr(type(report), "shown_studies", [Shown("study", (), tables=(one,))])
    lines = studies_as_latex(report).splitlines()
    assert lines[2] == r"\begin{tabular}{lrr}"
    assert r"mm\_lu & 0.500 & 0.480* (-0.020$\pm$0.010) \\" in lines


def test_cases_without_numbers_are_rows_too():
    assert as_csv(many(3)).count("\n") == 4
    assert "--" not in as_latex(many(1))


def test_a_frame_has_columns_of_numbers():
    frame = report_of(payload("gptq4", 0.8), payload("rtn2", 0.3)).results
    assert list(frame.method) == ["gptq4", "rtn2"]
    assert (frame.delta.dtype.kind, frame.n_items.dtype.kind, frame.from_cache.dtype.kind) == ("f", "i", "b")
    assert "companions" not in frame
