"""The seal is over all that a report says, and evidence is written once."""

import math

import pytest

from quantgate.core.cases import CaseKey
from quantgate.core.items import ItemOutcome
from quantgate.reports.payload import invalid_result
from quantgate.verdict.evidence import outcomes_to_json
from quantgate.verdict.seal import EvidenceFile, finite, seal_of

CONTENT = {"decisions": ["may"], "results": [{"value": 1.0}], "plan": {}, "run": {"exit": 0}, "notes": []}


@pytest.mark.parametrize("name", CONTENT)
def test_the_seal_is_over_every_part(name):
    assert seal_of({**CONTENT, name: "other"}) != seal_of(CONTENT)
    assert seal_of({**CONTENT, "evidence": {"sha256": "x"}}) == seal_of(CONTENT)  # where the seal itself lies


def test_numbers_that_json_has_not_become_null():
    assert finite({"a": [math.nan, math.inf, 1.0]}) == {"a": [None, None, 1.0]}
    assert seal_of({"a": math.nan}) == seal_of({"a": None})


def test_outcomes_are_written_once_and_a_case_that_is_dropped_not_at_all():
    sides = {
        side: outcomes_to_json([ItemOutcome("one", "", score)])
        for side, score in (("reference", 1.0), ("subject", 0.0))
    }
    file = EvidenceFile()
    for method in ("rtn8", "rtn4"):
        file.add(invalid_result(CaseKey(method, "mmlu"), "knowledge", ""), sides)
    assert [line[:9] for line in file.text.splitlines()] == ['{"outcome', '{"outcome', '{"case":{', '{"case":{']
    file.drop(invalid_result(CaseKey("rtn8", "mmlu"), "knowledge", ""))
    assert file.sides(CaseKey("rtn8", "mmlu")) is None
    assert '"rtn8"' not in file.text
