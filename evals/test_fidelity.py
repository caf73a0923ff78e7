"""Fidelity: perplexity and the distance from the reference's own token probabilities."""

import pytest

pytestmark = pytest.mark.fidelity


def test_within_tolerance(case, judge, allowed):
    """The subject is not worse than its 16-bit reference by more than the policy's margin."""
    result = judge(case)
    assert result.verdict in allowed(case), result.reason
