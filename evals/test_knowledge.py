"""Knowledge and capacity: what the model knows and can do must survive quantization (paper A, dimension 1)."""

import pytest

from quantgate.fixtures.case import Allowed, Case, Judge

pytestmark = pytest.mark.knowledge


def test_within_tolerance(case: Case, judge: Judge, allowed: Allowed) -> None:
    """The subject is not worse than its 16-bit reference by more than the policy's margin."""
    result = judge(case)
    assert result.verdict in allowed(case), result.reason
