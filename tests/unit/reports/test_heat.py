"""The calibration matrix on the page: a cell's colour says how much of the margin was lost or gained."""

import math

import pytest

from quantgate.reports import shift
from quantgate.reports.html import page_part, templates


def cell(name, change, margin=0.1, test="mmlu"):
    return {
        "method": "gptq4", "test": test, "set": name, "own": name == "c4", "reference": 0.5, "value": 0.5 + change,
        "change": change, "low": change - 0.01, "high": change + 0.01, "margin": margin,
    }  # fmt: skip


@pytest.mark.parametrize(("change", "margin", "colour"), [
    (-0.2, 0.1, "harm-3"), (-0.08, 0.1, "harm-2"), (-0.02, 0.1, "harm-1"), (-0.005, 0.1, ""), (0.0, 0.1, ""),
    (0.02, 0.1, "gain-1"), (0.08, 0.1, "gain-2"), (0.2, 0.1, "gain-3"), (-0.2, math.nan, ""), (-0.2, 0.0, ""),
])  # fmt: skip
def test_a_colour_is_a_share_of_the_margin(change, margin, colour):
    [matrix] = shift.matrices({"matrix": [cell("c4", change, margin)]})
    assert matrix.heat == (("", "", colour),)


def test_the_page_colours_the_cells_of_a_matrix_and_says_what_colours_mean():
    cells = [cell("c4", -0.2), cell("ptb", 0.02), cell("c4", 0.0, test="arc"), cell("ptb", 0.0, test="arc")]
    [matrix] = shift.matrices({"matrix": cells})
    assert matrix.header == ("test", "16-bit", "c4", "ptb")
    source = page_part("page.html").partition("<!doctype")[0] + "{{ table('t', m.header, m.rows, m.heat) }}"
    text = templates().from_string(source).render(m=matrix)
    assert '<td class="harm-3">0.300* (-0.200±0.010)</td>' in text
    assert '<td class="gain-1">0.520 (+0.020±0.010)</td>' in text
    assert text.count('<td class="') == 2
    assert "of the margin lost" in text
    plain = templates().from_string(source.replace(", m.heat", "")).render(m=matrix)
    assert 'class="harm' not in plain
    styles = page_part("page.css")
    assert all(styles.count(f"--{kind}-{step}:") == 2 for kind in ("harm", "gain") for step in (1, 2, 3))
