"""Fronts: the definition by brute force, paper A's table 2 replayed, and what a run's results become."""

import math
import random
from dataclasses import replace

import pytest

from quantgate.studies.pareto import REFERENCE, Point, fronts, pareto, quality_points
from tests.unit.studies.paper_a import TABLE_2, result

KINDS = ("knowledge", "efficiency", "efficiency")


def names(front):
    return set(front.front)


def test_replay_of_table_2_a_larger_quantized_model_beats_a_smaller_16_bit_one():
    points = [Point(f"{model}-{method}-{bits}", gb, acc) for (model, bits, method), (acc, gb, _) in TABLE_2.items()]
    found = pareto(points, "GB", "accuracy")
    by_name = {point.name: point for point in points}
    assert by_name["14B-gptq-4"].dominates(by_name["7B-bf16-16"])
    assert found.dominated["7B-bf16-16"] == "14B-gptq-3"  # 10.77 GB and 58.34 already beat 15.14 GB and 57.10
    assert found.dominated["7B-gptq-8"] == "14B-gptq-3"
    assert "14B-gptq-4" in found.front
    assert "7B-int8-8" in found.front  # 9.23 GB: nothing larger fits there
    # by speed the picture is another one: nothing is faster than the small model's 4-bit or 16-bit rows
    speed = pareto(
        [Point(f"{m}-{k}-{b}", 1 / rate, acc) for (m, b, k), (acc, _, rate) in TABLE_2.items()], "s", "accuracy"
    )
    assert {"7B-bf16-16", "14B-bf16-16", "72B-gptq-4"} <= names(speed)
    assert "72B-bf16-16" in speed.front  # slower than GPTQ-4, but 0.38 points better
    assert "14B-int8-8" in speed.dominated


@pytest.mark.parametrize("seed", range(5))
def test_the_front_by_its_definition(seed):
    draw = random.Random(seed)
    points = [Point(str(at), draw.randrange(6), draw.randrange(6)) for at in range(20)]
    found = pareto(points, "", "")
    for point in points:
        beaten = any(
            (o.cost < point.cost and o.quality >= point.quality) or (o.cost <= point.cost and o.quality > point.quality)
            for o in points
        )
        assert (point.name in found.dominated) == beaten
        assert (point.name in found.front) == (not beaten)


def test_equals_do_not_beat_each_other_and_undefined_points_are_left_out():
    found = pareto([Point("a", 1, 1), Point("b", 1, 1), Point("c", math.nan, 9), Point("d", 1, math.inf)], "", "")
    assert found.front == ("a", "b")
    assert not found.dominated


def test_quality_is_the_mean_over_tasks_that_all_have():
    results = [
        result("a", "mmlu", 0.4),
        result("a", "gsm8k", 0.2, "exact_match", reference=0.3),
        result("a", "only_a", 0.9),
        result("b", "mmlu", 0.5),
        result("b", "gsm8k", 0.4, "exact_match", reference=0.3),
        result("b", "perplexity_prose", 11.0, "ppl"),
        result("no-cost", "mmlu", 1.0),
    ]
    words, points = quality_points(results, {"a": 10, "b": 20, REFERENCE: 30})
    assert words == "mean score of gsm8k, mmlu"
    assert [(point.name, point.cost, pytest.approx(point.quality)) for point in points] == [
        ("a", 10, 0.3), ("b", 20, 0.45), (REFERENCE, 30, 0.4),
    ]  # fmt: skip


def test_without_benchmarks_perplexity_is_the_quality():
    words, points = quality_points([result("a", "perplexity_prose", math.e**2, "ppl", math.e)], {"a": 1, REFERENCE: 2})
    assert words == "-ln perplexity of perplexity_prose"
    assert [(point.name, pytest.approx(point.quality)) for point in points] == [("a", -2), (REFERENCE, -1)]
    assert quality_points([], {"a": 1}) == ("", [])


def test_fronts_of_a_run_leave_out_speed_that_was_only_simulated():
    def of(method, size, rate, score, companions=()):
        speed = replace(result(method, "decode_speed", rate, "decode_speed", 10.0), companions=dict(companions))
        rows = [result(method, "mmlu", score), result(method, "weight_bytes", size, "weight_bytes", 4.0), speed]
        return [replace(row, verdict="pass", dimension=dimension) for row, dimension in zip(rows, KINDS, strict=True)]

    results = [*of("a", 1.0, 20.0, 0.4), *of("b", 2.0, 5.0, 0.3), *of("c", 3.0, 99.0, 0.6, {"simulated": 1.0}.items())]
    size, speed = fronts(results)
    assert size.front == ("a", "c")  # the reference, 4 GiB and 0.5, is beaten by c
    assert size.dominated == {"b": "a", REFERENCE: "c"}
    assert speed.front == ("a", REFERENCE)  # 20 tokens/s at 0.4, 10 at 0.5
    assert speed.dominated == {"b": "a"}
    assert fronts(results[:3]) == []  # one method makes no front
