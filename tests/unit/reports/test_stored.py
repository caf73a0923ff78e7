"""Reports read back from disk."""

import json

import pytest

import quantgate
from quantgate.core.errors import StoreError
from quantgate.reports.run import sealed
from tests.unit.reports.shown import payload, report_of


@pytest.fixture
def place(tmp_path):
    for name, text in sealed(report_of(payload("gptq4", 0.8), payload("rtn2", 0.3))).items():
        if text:
            (tmp_path / name).write_text(text)
    return tmp_path


def test_a_report_read_back_says_the_same(place):
    report = quantgate.load_report(place)
    content = json.loads((place / "report.json").read_text())
    assert json.loads(json.dumps(report.as_json()["decisions"])) == content["decisions"]
    assert [each.about for each in report.rows] == ["gptq4", "rtn2"]
    assert len(report.turned(report.rows[1])) == 200  # every answer is another one


def test_without_evidence_the_numbers_are_there_and_no_item(place):
    (place / "evidence.jsonl").unlink()
    report = quantgate.load_report(place / "report.json")
    assert report.rows[0].verdict == "pass"
    assert report.turned(report.rows[1]) == []


def test_a_report_of_the_first_format_is_read(place):
    path = place / "report.json"
    content = json.loads(path.read_text())
    for name in ("plan", "efficiency", "texts", "run"):
        del content[name]
    path.write_text(json.dumps({**content, "schema": 1}))
    assert len(quantgate.load_report(place).rows) == 2


@pytest.mark.parametrize("content", ['{"status": "unfinished"}', "{}", "[]", '{"results": [{}]}', "x"])
def test_what_is_no_report_is_refused_in_a_sentence(tmp_path, content):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(StoreError, match=r"report|read"):
        quantgate.load_report(tmp_path)
