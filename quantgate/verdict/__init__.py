"""Paired statistics, policy, verdicts."""
