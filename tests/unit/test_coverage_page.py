"""docs/coverage.md: every row of the sources' table is there, and what it names exists."""

import re
from pathlib import Path

import pytest

from quantgate.quantize.catalogue.methods import METHODS
from quantgate.tasks.table import GROUPS, TASKS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ") and " what | " not in line]
TESTS = [
    (file, name)
    for file, names in re.findall(r"`((?:unit|suite)/[\w/]+\.py)`(?:: \*([^*]+)\*)?", PAGE)
    for name in names.split(", ")
]
SIZES = {"Quantizers": 25, "Calibration": 9, "Benchmarks": 19, "Efficiency": 8, "Analysis": 10, "Tooling": 10}


def test_all_rows_are_there():
    parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert {each.split("\n")[0]: each.count("\n| ") - 1 for each in parts} == SIZES


@pytest.mark.parametrize(("file", "name"), sorted(set(TESTS)))
def test_what_a_row_is_seen_in_is_a_test(file, name):
    text = (ROOT / "tests" / file).read_text(encoding="utf-8")
    wanted = f"test_{name.replace(' ', '_')}" if name else r"test_\w+"
    assert re.search(rf"^def {wanted}\(", text, re.MULTILINE)


def test_a_row_names_a_test_or_says_what_is_open():
    assert [row[0] for row in ROWS if not re.search(r"`(unit|suite|benchmarks)/|^open: ", row[-1])] == []


def test_methods_and_benchmarks_that_are_named_exist():
    words = {word for row in ROWS for word in re.findall(r"`([a-z][a-z0-9_-]*)`", row[2])}
    assert words - set(METHODS) - set(TASKS) - set(GROUPS) == set()
