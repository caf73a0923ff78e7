"""What --diagnose found in the report: bars, modules and tokens on the page and in the text, and drawn again alike."""

from dataclasses import replace

import pytest

from quantgate.reports import html, markdown, taken_apart
from quantgate.reports.check import drawn_again
from quantgate.reports.run import sealed
from quantgate.verify import verify
from tests.unit.reports.shown import HOSTILE, payload, report_of
from tests.unit.reports.test_page import Tags


def row(unit, block, mean, *, measured=False):
    value = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}
    return {"unit": unit, "block": block, "isolated": value if measured else None, "estimate": {"mean": 2 * mean}}


RECORD = {
    "whole": {"mean": 1.5, "low": None, "high": None},
    "levels": {
        "component": [
            row("attention of block 0", 0, 0.25, measured=True), row("feed-forward of block 0", 0, 0.5),
            row("feed-forward of block 2", 2, 1.25, measured=True),
        ],
        "module": [row(f"model.{HOSTILE}", 2, 0.75, measured=True), row("lm_head", None, 0.5)],
    },
    "causes": [{"kind": "outliers", "sentence": f"few {HOSTILE} carry it"}],
    "worst_tokens": [{"item": "v/1", "position": 7, "divergence": 3.25, "before": HOSTILE, "text": "\x1b[2J blue"}],
}  # fmt: skip


@pytest.fixture
def report():
    found = taken_apart.kept(RECORD, "rtn2", "truthfulqa", quoted=True)
    return report_of(payload("gptq4", 0.8), replace(payload("rtn2", 0.3), diagnosis=found))


def test_the_page_draws_a_bar_a_block_and_shows_tokens_in_their_text(report):
    text = html.render(report)
    page = Tags(text)
    assert "rtn2 taken apart on truthfulqa" in page.words
    assert text.count('class="column"') + text.count('class="hollow"') == 3
    assert "<title>block 0: 0.25, measured</title>" in text
    assert "<title>block 0: 1, estimated</title>" in text
    assert "<title>block 2: 1.25, measured</title>" in text
    assert "measured, 0.65 to 0.85" in page.words
    assert "v/1:7" in page.words
    assert HOSTILE in page.words
    assert page.tags.count("script") == 1
    assert "\x1b" not in text


def test_the_text_says_the_same_without_the_bars(report):
    text = markdown.render(report)
    assert "## rtn2 taken apart on truthfulqa" in text
    assert "| v/1:7 | 3.25 |" in text
    assert "<script" not in text


def test_it_is_in_the_record_and_is_drawn_again_alike(report, tmp_path):
    for name, text in sealed(report).items():
        if text:
            (tmp_path / name).write_text(text)
    assert verify(tmp_path, drawn_again).differences == []
    [kept] = report.as_json()["diagnoses"]
    assert kept["subject"] == "rtn2"


def test_a_report_without_one_has_no_such_part():
    assert "taken apart" not in html.render(report_of(payload("gptq4", 0.8)))
