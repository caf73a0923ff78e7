"""How a study of abilities is shown: gains, what one task shows by itself, and what free answers look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantgate.reports.shift import Matrix


def sentences(record: Mapping[str, Any]) -> list[str]:
    """The answer, and what could not be compared."""
    told = [f"abilities: {record['answer']}"]
    return told + [f"{each['subject']}, {each['ability']} on {each['benchmark']}: {each['why']}"
                   for each in record["holes"]]  # fmt: skip


def matrices(record: Mapping[str, Any]) -> list[Matrix]:
    """Every table of the study that has rows."""
    bits = {each["name"]: each["bits"] for each in record["subjects"]}
    gains = Matrix(
        "Gains: items with examples (or a chain of thought) minus the same items without",
        ("subject", "bits", "ability", "benchmark", "items", "16-bit", "quantized", "change, 95%", "p (Holm)"),
        tuple(
            (
                each["subject"], f"{bits[each['subject']]:.2f}", each["ability"], each["benchmark"], str(each["items"]),
                f"{each['reference_gain']:+.3f}", f"{each['gain']:+.3f}", _interval(each), f"{each['adjusted']:.2g}",
            )
            for each in record["gains"]
        ),
    )  # fmt: skip
    alone = Matrix(
        "Abilities that one task shows by itself",
        ("subject", "bits", "ability", "task", "16-bit", "quantized", "change, 95%", "verdict"),
        tuple(
            (
                each["subject"], f"{bits[each['subject']]:.2f}", each["ability"], each["task"],
                f"{each['reference']:.3f}", f"{each['value']:.3f}", _interval(each), each["verdict"],
            )
            for each in record["alone"]
        ),
    )  # fmt: skip
    answers = Matrix(
        "Free answers: length against the original's, cut at the cap, and right but not said last",
        ("subject", "task", "items", "length, 95%", "cut, 16-bit", "cut", "not last, 16-bit", "not last"),
        tuple(
            (
                each["subject"], each["task"], str(each["items"]),
                f"x {each['length_ratio']:.2f} [{each['length_low']:.2f}, {each['length_high']:.2f}]",
                f"{each['capped_reference']:.1%}", f"{each['capped']:.1%}", f"{each['not_final_reference']:.1%}",
                f"{each['not_final']:.1%}",
            )
            for each in record["answers"]
        ),
    )  # fmt: skip
    return [each for each in (gains, alone, answers) if each.rows]


def _interval(each: Mapping[str, Any]) -> str:
    return f"{each['change']:+.3f} [{each['low']:+.3f}, {each['high']:+.3f}]"
