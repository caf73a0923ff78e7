"""What a session says of its subjects."""

import pytest

from quantgate.compensation.session import passes, sentence


@pytest.mark.parametrize(
    ("verdicts", "passing"), [((), False), (("pass",), True), (("pass", "inconclusive"), False), (("invalid",), False)]
)
def test_what_was_judged_on_nothing_has_passed_nothing(verdicts, passing):
    row = {"name": "rtn4-after", "results": [{"verdict": each} for each in verdicts]}
    assert passes({"subjects": [row]}) is passing
    assert sentence([row]) == ("passes: rtn4-after" if passing else "none of these passes")
