"""The picture of several runs: where points stand, what is joined, and what is said of it."""

import dataclasses
import math
import re

import pytest

from quantgate.reports.trend import Point, of_case, picture
from tests.unit.reports.shown import payload


def heights(svg):
    return [float(each) for each in re.findall(r'cy="([\d.]+)"', svg)]


def test_a_greater_loss_stands_higher_and_the_margin_between():
    svg = picture([Point(-0.1, 0.0, 0.1, "pass"), Point(0.9, 1.5, 1.9, "regressed")])
    zero, margin = (float(y) for y in re.findall(r'y1="([\d.]+)" x2="[\d.]+" y2="\1" class="(?:zero|margin)"', svg))
    reference, worse = heights(svg)
    assert worse < margin < reference == zero  # from above
    assert svg.count('class="step"') == 1
    assert 'class="dot regressed"' in svg
    assert "run 2: regressed, 150% of what is allowed, between 90% and 190%" in svg


def test_a_run_without_the_case_is_a_gap():
    one = Point(0, 0.2, 0.4, "pass")
    svg = picture([one, None, one])
    assert svg.count("<circle") == 2
    assert 'class="step"' not in svg
    assert picture([one, None]) == ""


@pytest.mark.parametrize("end", [9.0, -9.0])
def test_what_lies_far_outside_is_drawn_at_the_edge(end):
    svg = picture([Point(end, end, end, "pass")] * 2)
    assert all(0 < y < 72 for y in heights(svg))


def test_what_has_no_loss_is_a_gap():
    result = payload("gptq4", 0.8).result
    lost = dataclasses.replace(result, delta=math.nan)
    assert of_case([result, lost]) == of_case([result, None]) == ""
    assert heights(of_case([result, result]))
