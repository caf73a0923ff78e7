"""What must hold for all policy files: nothing unclear gets in, and the rule does not depend on the file's order."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantgate.core.errors import PolicyError
from quantgate.core.metrics import ACCURACY
from quantgate.verdict.policy_file import parse_policy

KEYS = ("margin", "confidence", "min_items", "max_unscored", "floor", "allow", "because", "companions")
HEADS = ("tasks.mmlu", "methods.gptq4", "models.m", "metrics.acc", "dimensions.knowledge", "models.m.tasks.mmlu")
words = st.text(alphabet="abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)


def toml(value: float) -> str:
    return "nan" if math.isnan(value) else ("-inf" if value < 0 else "inf") if math.isinf(value) else repr(value)


@settings(max_examples=100, deadline=None)
@given(words.filter(lambda word: word not in KEYS))
def test_every_unknown_key_is_refused_by_name(key: str) -> None:
    with pytest.raises(PolicyError, match=f"unknown key '{key}'"):
        parse_policy(f"schema = 1\n[tasks.a]\n{key} = 1\n", "p.toml")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["absolute", "relative"]), st.floats(allow_nan=True, allow_infinity=True))
def test_a_margin_gets_in_only_when_it_is_finite_and_not_negative(kind: str, amount: float) -> None:
    text = f"schema = 1\n[tasks.a]\nmargin = {{ {kind} = {toml(amount)} }}\n"
    if math.isfinite(amount) and amount >= 0:
        assert parse_policy(text, "p").root.scopes["tasks"]["a"].settings["margin"].amount == amount
    else:
        with pytest.raises(PolicyError, match=r"tasks\.a\.margin"):
            parse_policy(text, "p")


@settings(max_examples=50, deadline=None)
@given(st.permutations(HEADS))
def test_order_of_the_file_changes_nothing(heads: list[str]) -> None:
    blocks = [f"[{head}]\nmargin = {{ absolute = 0.0{HEADS.index(head) + 1} }}\n" for head in heads]
    policy = parse_policy("schema = 1\n" + "".join(blocks), "p")
    assert policy.rule("mmlu", "knowledge", ACCURACY, "m", "gptq4").margin.amount == 0.06
    assert policy.digest == parse_policy("schema = 1\n" + "".join(reversed(blocks)), "p").digest


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_garbage_is_refused_and_never_crashes(text: str) -> None:
    with contextlib.suppress(PolicyError):
        parse_policy(text, "p")
    with contextlib.suppress(PolicyError):
        parse_policy(f"schema = 1\n[tasks.a]\n{text}", "p")
