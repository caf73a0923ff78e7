"""What is brought along is known by a row of one table, and nowhere by its kind's name."""

import ast
from pathlib import Path

import pytest

from quantgate.core.errors import EngineError, ModelError
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.subjects import brought, candidates, served
from quantgate.subjects.candidates import parse_candidate

ROOT = Path(__file__).resolve().parents[3]
OWN = {"brought.py", "candidates.py", "served.py", "served_reference.py"}  # the table and its kinds


def test_a_candidate_and_a_server_are_brought_and_no_method_is(tmp_path):
    kinds = [brought.kind_of(parse_candidate(text)) for text in (f"mine={tmp_path}", "mine=http://127.0.0.1:9/v1")]
    assert [kind.open for kind in kinds] == [candidates.open_candidate, served.open_served]
    assert not [row.id for row in METHODS.values() if brought.kind_of(row)]


def test_each_kind_checks_its_own(tmp_path):
    row = parse_candidate(f"mine={tmp_path}")
    with pytest.raises(ModelError, match="candidate 'mine'"):
        brought.kind_of(row).check(row, None, True)
    row = parse_candidate("mine=http://127.0.0.1:9/v1")
    with pytest.raises(EngineError, match="Connection refused"):
        brought.kind_of(row).check(row, None, True)


def asks_for_a_kind(text):
    """Lines that compare with a kind's name, or import it to do so."""
    names = {*brought.BROUGHT}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module in (candidates.__name__, served.__name__):
            yield from (node.lineno for alias in node.names if alias.name == "ALGORITHM")
        if isinstance(node, ast.Compare) and "algorithm" in ast.unparse(node.left):
            inside = [each for right in node.comparators for each in ast.walk(right)]
            yield from (node.lineno for each in inside if isinstance(each, ast.Constant) and each.value in names)


def test_nobody_asks_for_a_kind_by_its_name():
    rooms = [path for room in ("quantgate", "fixtures", "reports") for path in (ROOT / room).rglob("*.py")]
    found = {path.name: [*asks_for_a_kind(path.read_text())] for path in rooms if path.name not in OWN}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "if method.algorithm == 'candidate': pass",
        "if method.algorithm in ('x', 'served'): pass",
        "from quantgate.subjects.served import ALGORITHM as SERVED",
    ],
)
def test_the_search_sees_such_lines(line):
    assert [*asks_for_a_kind(line)] == [1]
