"""Efficiency: bytes, memory and speed must be no worse than the 16-bit original's (paper A, dimension 3).

The bytes of the weights are compared in every run. Memory and speed are measured only when asked for
(``-m efficiency``, or ``--tasks peak_memory,decode_speed``): they need the machine to themselves for minutes.
"""

import pytest

from quantgate.fixtures.case import Allowed, Case, Judge

pytestmark = pytest.mark.efficiency


def test_within_tolerance(case: Case, judge: Judge, allowed: Allowed) -> None:
    """The subject is not worse than its 16-bit reference by more than the policy's margin."""
    result = judge(case)
    assert result.verdict in allowed(case), result.reason
