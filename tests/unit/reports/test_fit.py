"""A table fits the width there is: columns go in order, then names are cut; numbers never are."""

import pytest
from rich.cells import cell_len

from quantgate.reports import efficiency, table
from quantgate.reports.fit import LOG_WIDTH, Look, draw, fit, shorten

RESULT = (
    "smoothquant8-with-a-long-name", "mmlu_generate_cascade", "exact_match", "14042", "0.3295", "0.2500", "-0.0795",
    "[-0.2004, +0.0419]", "0.1648", "inconclusive, waived",
)  # fmt: skip
SUBJECT = ("gptq4", "4", "4.214", "164.9", "packed", "dialogues (23608 tokens)", "28.5", "this run")
PEAK = "1.234 [1.230, 1.240]"
MEMORY = ("gptq4", "packed, dequantized", "0.123", "0.456", "0.001", "0.010", PEAK, PEAK, PEAK, "0.345 computed")
SPEED = ("gptq4", "1x512x128", "1234 [1200, 1250]", "12.3 [12.0, 12.5]", "415 [400, 420]", "0.99 [0.98, 1.00]",
         "0.97 [0.95, 0.99]", "34%")  # fmt: skip
PROXY = ("perplexity_wikitext2", "truthfulqa_mc1", "21", "-0.912", "[-0.97, -0.80]", "-0.899", "[-0.96, -0.75]")


def places(header, names):
    return [header.index(name) for name in names if name in header]


TABLES = {
    "results": (table.HEADER, RESULT, places(table.HEADER, table.GIVE_UP)),
    "subjects": (table.SUBJECT_HEADER, SUBJECT, places(table.SUBJECT_HEADER, table.SUBJECT_GIVE_UP)),
    "memory": (efficiency.MEMORY_HEADER, MEMORY, efficiency._MEMORY_GIVE_UP),
    "speed": (efficiency.SPEED_HEADER, SPEED, efficiency._SPEED_GIVE_UP),
    "proxy": (efficiency.PROXY_HEADER, PROXY, efficiency._PROXY_GIVE_UP),
}


def drawn(name, width, **look):
    header, row, give_up = TABLES[name]
    fitted = fit(header, [row], width, give_up, places(header, table.NAMES))
    return fitted, draw(fitted, Look(width, **look), table.WORDS, [""])


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("width", [79, 99, 139, 240])
def test_nothing_is_wider_than_the_place(name, width):
    fitted, text = drawn(name, width)
    lines = text.rstrip("\n").split("\n")
    assert max(map(cell_len, lines)) <= width
    assert len(lines) == 3  # header, rule, one row: nothing is wrapped
    assert ("…" in text) <= (width < 140)
    _header, row, _ = TABLES[name]
    for cell, shown in zip(fitted.header, fitted.rows[0], strict=True):
        if cell not in table.NAMES:  # numbers and verdicts are whole, or not there at all
            assert shown in row


@pytest.mark.parametrize("name", TABLES)
def test_a_wide_place_has_every_column(name):
    fitted, text = drawn(name, 240)
    assert fitted.left_out == ()
    assert all(cell in text for cell in TABLES[name][1])


def test_what_matters_most_stays():
    fitted, _ = drawn("results", 79)
    assert set(fitted.header) >= {"method", "task", "16-bit", "subject", "margin", "verdict"}
    assert set(fitted.left_out) <= set(table.GIVE_UP)


def test_no_column_goes_without_need():
    header, row = ("method", "metric", "items"), ("gptq4", "acc", "88")
    assert fit(header, [row], 23, [1, 2], [0]).left_out == ()
    assert fit(header, [row], 22, [1, 2], [0]).left_out == ("metric",)


@pytest.mark.parametrize(("text", "width", "short"), [
    ("perplexity_wikitext2", 20, "perplexity_wikitext2"),
    ("perplexity_wikitext2", 11, "perpl…text2"),
    ("abc", 2, "a…"),
])  # fmt: skip
def test_names_are_cut_in_the_middle(text, width, short):
    assert shorten(text, width) == short


def test_a_place_without_unicode_gets_ascii():
    _, text = drawn("results", 79, unicode=False)
    assert text.isascii()


def test_a_log_is_as_wide_as_columns_says(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert Look.of_log().width == LOG_WIDTH
    monkeypatch.setenv("COLUMNS", "100")
    assert Look.of_log().width == 100
    monkeypatch.setenv("COLUMNS", "wide")
    assert Look.of_log().width == LOG_WIDTH
