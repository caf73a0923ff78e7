"""Meters, workloads, the measuring process, and what the numbers become: rows, verdicts, rates."""

import json
import math
import types
from dataclasses import asdict

import pytest
import torch

from quantgate.core.errors import ModelError, UsageError
from quantgate.core.items import ItemOutcome
from quantgate.efficiency import child, rows
from quantgate.efficiency.architecture import read_architecture
from quantgate.efficiency.bench import BenchOptions
from quantgate.efficiency.child import Job, run_job
from quantgate.efficiency.execution import load_plain
from quantgate.efficiency.meters import CudaGauge, Peak, ResidentGauge, Stages
from quantgate.efficiency.rows import memory_row, speed_row
from quantgate.efficiency.workload import (
    WORKLOADS,
    Generator,
    Timing,
    Workload,
    cache_size,
    parse_workloads,
    prompt_of,
    run_in_turns,
)
from quantgate.tasks.efficiency import EFFICIENCY_TASKS, efficiency_tasks, split_names
from quantgate.verdict.evidence import Evidence, conclude
from quantgate.verdict.judge import judge
from quantgate.verdict.paired import compare
from quantgate.verdict.policy_file import load_policy

MIB = 2**20
WORK = Workload(2, 12, 4)


def test_each_stage_has_its_own_peak():
    stages = Stages(ResidentGauge())
    if not stages.gauge.resets:
        pytest.skip("this kernel cannot reset the peak")
    stages.start()
    with stages.stage("high"):
        block = torch.ones(64 * MIB, dtype=torch.uint8)
        del block
    with stages.stage("low"):
        torch.ones(MIB, dtype=torch.uint8)
    with stages.stage("kept"):
        kept = torch.ones(32 * MIB, dtype=torch.uint8)
    high, low, after = (stages.peaks[name].allocated - stages.base for name in ("high", "low", "kept"))
    assert 60 * MIB < high < 90 * MIB
    assert low < 20 * MIB  # what an earlier stage needed is not seen again
    assert 28 * MIB < after < 60 * MIB
    assert stages.peaks["kept"].after - stages.base > 28 * MIB
    assert kept.numel()


def test_cuda_counters_are_reset_before_each_stage():
    calls = []
    cuda = types.SimpleNamespace(
        synchronize=lambda device: calls.append("wait"),
        empty_cache=lambda: calls.append("empty"),
        reset_peak_memory_stats=lambda device: calls.append(f"reset {device}"),
        max_memory_allocated=lambda device: 30,
        max_memory_reserved=lambda device: 50,
        memory_allocated=lambda device: 20,
    )
    stages = Stages(CudaGauge(cuda, "cuda:1"))
    stages.start()
    with stages.stage("load"):
        calls.append("work")
    assert stages.peaks == {"load": Peak(30, 50, 20)}
    assert calls == ["wait", "empty", "reset cuda:1", "wait", "wait", "empty", "reset cuda:1", "work", "wait"]


def test_workloads_by_name_and_by_size():
    assert parse_workloads("paper-a, 8x64x32") == [Workload(1, 256, 512), Workload(8, 64, 32)]
    assert WORKLOADS["paper-a"].name == "1x256x512"
    for wrong in ("0x1x2", "1x1x1", "1x2", "papera", ""):
        with pytest.raises(UsageError, match="BATCHxINxOUT"):
            parse_workloads(wrong)


def test_rates_by_hand():
    rates = Timing(first=0.5, rest=1.5).rates(Workload(2, 100, 4))
    assert rates == {"prefill": 400, "decode": 4, "generate": 4}


def test_generation_is_greedy_and_exactly_as_long_as_asked(reference):
    model = load_plain(reference, "reference", "float32", "cpu").model
    tokens = prompt_of(WORK, model.config.vocab_size, 3)
    assert torch.equal(tokens, prompt_of(WORK, model.config.vocab_size, 3))
    seen = []
    with torch.inference_mode():
        generator = Generator(model, lambda: None)
        plain_step = generator.step
        generator.step = lambda *args: seen.append(plain_step(*args)) or seen[-1]
        [timing], [cache] = run_in_turns([generator], tokens, WORK.new, [0])
        expected = model.generate(
            tokens, max_new_tokens=4, min_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    assert torch.equal(torch.stack(seen, 1), expected[:, 12:])
    assert timing.first > 0 < timing.rest
    shape = read_architecture(reference, "reference")
    assert (
        cache_size(cache) == 4 * 2 * shape.layers * shape.kv_heads * shape.head_dim * (12 + 3) * 2
    )  # float32 of two sequences


def test_the_measuring_process(reference):
    job = Job("memory", (("reference", str(reference), False),), ((2, 12, 4),), "bfloat16", "cpu", threads=1)
    found = run_job(job)
    assert found["execution"]["packed"]
    assert set(found["peaks"]) == {"load", "prefill", "decode"}
    shape = read_architecture(reference, "reference")
    assert found["resident"] == pytest.approx(2 * shape.parameters, rel=0.01)
    assert found["base"] > 50 * MIB  # python and its libraries, which are not the model's


@pytest.mark.parametrize(
    ("code", "words"), [(-9, "it was killed; there may be too little memory"), (1, "ModelError: no such file")]
)
def test_a_process_that_failed_says_why(monkeypatch, code, words):
    dead = types.SimpleNamespace(returncode=code, stdout="", stderr="Traceback ...\nModelError: no such file\n")
    monkeypatch.setattr(child.subprocess, "run", lambda *args, **kwargs: dead)
    with pytest.raises(ModelError, match=f"measuring speed of a and b: {words}"):
        run_job(Job("speed", (("a", "", False), ("b", "", True)), ((1, 2, 2),), "bfloat16", "cpu"))


def test_speed_is_measured_in_turns_after_a_warm_up(reference, quantized, monkeypatch):
    order = []
    plain = Generator.step

    def step(self, tokens, cache):
        order.append((id(self), tokens.shape[1]))
        return plain(self, tokens, cache)

    monkeypatch.setattr(Generator, "step", step)
    models = (("reference", str(reference), False), ("rtn4", str(quantized("rtn4")), True))
    with torch.inference_mode():
        found = child.measure_speed(Job("speed", models, ((1, 8, 12),), "bfloat16", "cpu", 3))
    a, b = order[0][0], order[1][0]
    turns = [(a, 8), (b, 8), *[(a, 1), (b, 1)] * 11]
    assert order[:16] == turns[:16]  # the warm-up, 8 tokens each
    back = [(b, 8), (a, 8), *[(b, 1), (a, 1)] * 11]
    assert order[16:] == [*turns, *back, *turns]
    row = speed_row(found["runs"][0], found["executions"])
    assert row["repetitions"] == 3
    assert row["subject"]["execution"]["name"] == "int4 (torch)"
    pairs = [x["rest"] / y["rest"] for x, y in zip(*found["runs"][0]["times"], strict=True)]
    assert row["ratio"]["decode"]["median"] == pytest.approx(sorted(pairs)[1])
    assert json.loads(json.dumps(found)) == found
    # a roofline is a bound: nothing that ran was faster (a third for noise of other programs)
    machine = rows.Hardware(**found["machine"])
    shape = read_architecture(reference, "reference")
    seconds = rows.decode_seconds(shape, rows.Setting(), 8, 12, machine)
    assert row["reference"]["decode"]["high"] < 1.33 * 11 / seconds


def peaks(base, load, prefill, decode):
    stages = {"load": load, "prefill": prefill, "decode": decode}
    return {
        "how": "x", "base": base, "resident": 100, "cache": 20, "execution": {"name": "x", "packed": True},
        "peaks": {name: asdict(Peak(value, value, value)) for name, value in stages.items()},
    }  # fmt: skip


def test_a_memory_row_by_hand():
    row = memory_row([peaks(50, 250, 200, 190), peaks(50, 260, 204, 190), peaks(60, 250, 240, 230)], 90)
    assert row["peaks"]["load"] == {"median": 200, "low": 190, "high": 210}
    assert row["peaks"]["prefill"] == {"median": 154, "low": 150, "high": 180}
    assert row["activations"] == 154 - 100 - 20
    assert row["on_disk"] == 90


@pytest.fixture
def rule():
    def of(name):
        task = EFFICIENCY_TASKS[name]
        return load_policy(None).rule(task.id, task.dimension, task.metric, "some/model", "gptq4")

    return of


def verdict_of(rates, rule):
    before, after = ([ItemOutcome(str(at), "", math.log(rate)) for at, rate in enumerate(side)] for side in rates)
    return judge(compare(before, after, rule.metric, rule.confidence), rule)


def test_timing_verdicts_need_what_the_spread_allows(rule):
    speed = rule("decode_speed")
    steady = [10.0, 10.1, 9.9, 10.05, 9.95]
    assert verdict_of((steady, [2 * rate for rate in steady[::-1]]), speed).verdict == "pass"
    assert verdict_of((steady, [0.5 * rate for rate in steady[::-1]]), speed).verdict == "regressed"
    assert verdict_of((steady, [4.0, 16.0, 7.0, 12.0, 9.0]), speed).verdict == "inconclusive"
    assert verdict_of((steady[:4], [20.0, 20.1, 19.9, 20.2]), speed).verdict == "inconclusive"  # four are too few
    # drift that hits both sides of a pair alike does not widen anything
    drift = [10.0, 5.0, 2.5, 8.0, 4.0]
    wobble = [1.5 * rate * noise for rate, noise in zip(drift, (1, 1.01, 0.99, 1, 1.02), strict=True)]
    assert verdict_of((drift, wobble), speed).verdict == "pass"


def test_known_numbers_are_judged_without_an_interval(rule):
    weights = rule("weight_bytes")

    def verdict(before, after, **more):
        sides = ((ItemOutcome("files", "", before),), (ItemOutcome("files", "", after),))
        return conclude(Evidence(weights, *sides, counted=True, **more)).judgement

    assert verdict(1.0, 0.3).verdict == "pass"
    assert (verdict(1.0, 0.3).p_pass, verdict(1.0, 0.3).p_regressed) == (0.0, 1.0)
    assert (verdict(1.0, 1.01).p_pass, verdict(1.0, 1.01).p_regressed) == (1.0, 0.0)
    assert verdict(1.0, math.nan).verdict == verdict(1.0, 0.0).verdict == "invalid"
    assert "-70.0%" in verdict(1.0, 0.3).reason
    assert verdict(1.0, 1.01).verdict == "regressed"
    assert verdict(1.0, 0.3, identical_weights=True).verdict == "invalid"
    assert verdict(1.0, 0.3, problems=("another model",)).verdict == "invalid"


def test_names_are_split_and_what_costs_time_needs_asking():
    assert split_names(None) == (None, None)
    assert split_names(["mmlu", "decode_speed"]) == (["mmlu"], ["decode_speed"])
    assert split_names(["efficiency"]) == ([], list(EFFICIENCY_TASKS))
    assert [task.id for task in efficiency_tasks(None, requested=False)] == ["weight_bytes"]
    assert [task.id for task in efficiency_tasks(None, requested=True)] == list(EFFICIENCY_TASKS)
    assert BenchOptions().repetitions >= 5
