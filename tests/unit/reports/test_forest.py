"""verdicts.svg: every case in one picture that loads nothing and is well formed whatever things are called."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from quantgate.reports import shapes
from quantgate.reports.forest import as_svg
from tests.unit.reports.shown import payload, report_of

SPACE = "{http://www.w3.org/2000/svg}"


def texts(picture):
    return [each.text for each in ET.fromstring(picture).iter(f"{SPACE}text")]


def test_every_case_stands_under_its_method_with_its_verdict_and_values():
    report = report_of(payload("gptq4", 0.78), payload("gptq4", 0.8, task="mmlu"), payload("rtn2", 0.3))
    said = texts(as_svg(report))
    assert [each for each in said if each in ("truthfulqa", "mmlu")].count("truthfulqa") == 2
    for result in report.rows:
        assert f"{result.reference:.4f} \u2192 {result.value:.4f}" in said
    assert sum(each.endswith("regressed") for each in said) == 1
    heads = [each for each in said if "gptq4" in each or "rtn2" in each]
    assert len(heads) == 2
    assert "regressed" not in heads[0]


@pytest.mark.parametrize("share", [0.78, 0.3])
def test_the_bar_is_the_intervals_loss_in_units_of_the_margin(share):
    report = report_of(payload("gptq4", share))
    result = report.judged[0]
    lines = [each for each in ET.fromstring(as_svg(report)).iter(f"{SPACE}line") if each.get("class") == "bar"]
    low, high = (-end / result.margin for end in (result.ci_high, result.ci_low))
    assert float(lines[0].get("x1")) == pytest.approx(shapes.position(low), abs=0.06)
    assert float(lines[0].get("x2")) == pytest.approx(shapes.position(high), abs=0.06)


def test_names_of_others_are_text_and_nothing_else():
    report = report_of(payload("gptq4", 0.78))
    strange = replace(report.judged[0], task="<script>alert(1)</script>\x00\x1b" + "x" * 90, metric='"><b>')
    picture = as_svg(replace(report, judged=(strange,)))
    assert not {each.tag for each in ET.fromstring(picture).iter()} & {f"{SPACE}script", f"{SPACE}b"}
    assert not re.search(r"(href|src|url\(|@import)", picture)
    assert any("script" in each and "\u2026" in each for each in texts(picture))


def test_no_cases_and_too_many_are_no_picture():
    report = report_of(payload("gptq4", 0.78))
    assert as_svg(replace(report, judged=())) == ""
    assert as_svg(replace(report, judged=report.judged * 401)) == ""
