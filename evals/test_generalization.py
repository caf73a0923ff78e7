"""Generalization: what the calibration text does to the answers elsewhere (paper B). Cases are there with ``--study``
or with several ``--calibration`` sets; the report draws the contrasts over them."""

import pytest

from quantgate.fixtures.case import Allowed, Case, Judge

pytestmark = pytest.mark.generalization


def test_within_tolerance(case: Case, judge: Judge, allowed: Allowed) -> None:
    """The subject, calibrated on one text, is not worse than its 16-bit reference by more than the policy's margin."""
    result = judge(case)
    assert result.verdict in allowed(case), result.reason
