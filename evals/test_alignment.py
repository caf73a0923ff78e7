"""Alignment: helpfulness, honesty and harmlessness must survive quantization (paper A, dimension 2)."""

import pytest

from quantgate.fixtures.case import Allowed, Case, Judge

pytestmark = pytest.mark.alignment


def test_within_tolerance(case: Case, judge: Judge, allowed: Allowed) -> None:
    """The subject is not worse than its 16-bit reference by more than the policy's margin."""
    result = judge(case)
    assert result.verdict in allowed(case), result.reason
