"""report.html: everything escaped, nothing loaded, every case and every item that turned in it."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantgate.reports import html, shapes
from quantgate.reports.check import drawn_again
from quantgate.reports.run import sealed
from quantgate.studies.pareto import Point, pareto
from quantgate.verify import verify
from tests.unit.reports.shown import HOSTILE, many, payload, report_of

VOID = {"meta", "input", "br", "link", "img", "hr"}


class Tags(HTMLParser):
    """Checks that what is opened is closed, and keeps tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@pytest.fixture
def page():
    return Tags(html.render(report_of(payload("gptq4", 0.8), payload("rtn2", 0.3, answer=HOSTILE))))


def test_the_verdict_comes_first_and_every_case_is_there(page):
    assert page.tags.index("h1") < page.tags.index("table")
    assert "rtn2 must not replace the reference" in page.words
    assert page.tags.count("details") == 2
    assert re.search(r"gptq4 on truthfulqa: pass: acc", page.words)
    assert "What was judged" in page.words
    assert "pytest evals" in page.words


def test_every_table_is_scrolled_by_keys_and_every_picture_and_column_is_named():
    text = html.render(report_of(payload("gptq4", 0.8), payload("rtn2", 0.3)))
    boxes = re.findall(r'<div class="wide"[^>]*>', text)
    assert len(boxes) == text.count("<table>") + text.count('<table id="table">')
    assert all(re.search(r'tabindex="0" role="region" aria-label="[^"]+"', box) for box in boxes)
    assert all('scope="' in head for head in re.findall(r"<th\b[^>]*>", text))
    assert all('aria-label="' in picture for picture in re.findall(r"<svg[^>]*>", text))


def test_names_answers_and_questions_cannot_break_out(page):
    assert page.tags.count("script") == 1  # the page's own
    assert HOSTILE in page.words  # shown as it is
    assert not [value for _, value in page.attributes if value and "alert" in value]


def test_nothing_is_loaded_or_sent(page):
    policy = [value for name, value in page.attributes if name == "content" and "default-src" in value]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"]
    assert not [name for name, _ in page.attributes if name in ("src", "srcset", "action", "onload", "onclick")]
    assert all(value.startswith("#case-") for name, value in page.attributes if name == "href")
    assert "link" not in page.tags
    assert "http" not in html.page_part("page.js") + html.page_part("page.css")


def test_the_same_report_gives_the_same_page():
    report = report_of(payload("gptq4", 0.8))
    assert html.render(report) == html.render(report)


def test_every_link_has_its_case(page):
    ids = {value for name, value in page.attributes if name == "id"}
    assert {value[1:] for name, value in page.attributes if name == "href"} <= ids


def test_many_cases_make_a_page_of_bounded_size():
    text = html.render(many(500))
    assert len(text) < 500 * 2000
    assert text.count("<details") == 500


@pytest.mark.parametrize("higher", [True, False])
def test_an_interval_is_drawn_in_units_of_its_margin(higher):
    """Half of the margin is lost, give or take a quarter: right of the reference's line, left of the margin's."""
    loss = -1 if higher else 1
    result = replace(
        payload("gptq4", 0.8).result,
        higher_is_better=higher,
        margin=0.2,
        delta=loss * 0.1,
        ci_low=min(loss * 0.05, loss * 0.15),
        ci_high=max(loss * 0.05, loss * 0.15),
    )
    picture = shapes.interval(result)
    assert "loss 50% of what is allowed, between 25% and 75%" in picture
    zero, margin, bar = re.findall(r'<line x1="([\d.]+)"', picture)[:3]
    assert float(zero) < float(bar) < float(margin)


def test_an_interval_that_goes_on_ends_in_an_arrow_and_none_has_no_picture():
    result = payload("gptq4", 0.8).result
    assert 'class="arrow"' in shapes.interval(replace(result, margin=0.001, delta=-0.1, ci_low=-0.2, ci_high=-0.05))
    assert shapes.interval(replace(result, margin=0.0)) == ""
    assert shapes.interval(replace(result, ci_low=math.nan)) == ""


def test_a_histogram_counts_every_value():
    picture = shapes.histogram([*range(100), math.nan, 1e9], "nats")
    assert sum(int(found) for found in re.findall(r": (\d+)</title>", picture)) == 101
    assert shapes.histogram([1.0], "nats") == ""


@given(st.floats(-1e12, 1e12), st.floats(-1e12, 1e12))
def test_every_axis_has_a_few_round_ticks_within_it(low, high):
    scale = shapes._Scale([low, high], 0, 100)
    assert 1 <= len(scale.ticks) <= 8
    spread = max(scale.high - scale.low, 0.0)
    assert all(scale.low - 1e-6 * spread <= tick <= scale.high + 1e-6 * spread for tick in scale.ticks)


def test_a_page_that_cannot_be_drawn_costs_no_verdict(monkeypatch, tmp_path):
    def fails(report):
        raise StopIteration("no tick")

    monkeypatch.setattr("quantgate.reports.html.render", fails)
    for name, text in sealed(report_of(payload("gptq4", 0.8))).items():
        if text:
            (tmp_path / name).write_text(text)
    assert not (tmp_path / "report.html").exists()
    assert "report.html was not written: StopIteration: no tick" in (tmp_path / "report.md").read_text()
    findings = verify(tmp_path, drawn_again)
    assert (findings.confirmed, findings.differences) == (1, [])


def test_a_page_that_cannot_be_drawn_again_is_not_confirmed(monkeypatch, tmp_path):
    for name, text in sealed(report_of(payload("gptq4", 0.8))).items():
        if text:
            (tmp_path / name).write_text(text)
    assert verify(tmp_path, drawn_again).differences == []
    monkeypatch.setattr("quantgate.reports.html.render", lambda report: report.nothing)
    assert verify(tmp_path, drawn_again).differences == ["report.html does not say what report.json says"]


def test_names_in_a_plot_are_escaped():
    found = pareto([Point("<b>", 1, 1), Point("b", 2, 2)], "bytes", "score")
    assert "&lt;b&gt;" in shapes.front(found)
    assert "<b>" not in shapes.front(found)
