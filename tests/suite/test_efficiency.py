"""Efficiency cases as a user sees them; the measuring process runs inside this one, to save its start-up."""

import json

import pytest

from quantgate.efficiency import bench, child
from quantgate.efficiency.__main__ import main

MARGINS = """
[metrics.weight_bytes]
margin = { relative = 0.9 }
[metrics.peak_memory]
margin = { relative = 9.0 }
min_items = 2
[metrics.decode_speed]
margin = { relative = 0.99 }
min_items = 5
"""


@pytest.fixture
def measured(gate, policy, monkeypatch):
    """The gate with margins for efficiency, and jobs done in this process; ``measured.jobs`` lists them."""
    policy.write_text(policy.read_text() + MARGINS)
    gate.jobs = []

    def run_job(job):
        import torch

        gate.jobs.append((job.kind, [name for name, _, _ in job.models]))
        with torch.inference_mode():
            return child.measure_memory(job) if job.kind == "memory" else child.measure_speed(job)

    monkeypatch.setattr(bench, "run_job", run_job)
    return gate


def test_rows_verdicts_and_labels(measured, tmp_path):
    result = measured.run("--tasks", "efficiency,perplexity", "--methods", "rtn4,rtn8", "--workloads", "1x8x4,2x4x3")
    verdicts = measured.verdicts()
    assert verdicts["rtn4-weight_bytes"] == "pass"
    fast = verdicts["rtn4-decode_speed"]  # a tiny model: whatever timings say, the exit code says it too
    assert (result.ret, fast) in ((0, "pass"), (0, "inconclusive"), (1, "regressed"))
    # 8-bit groups have no kernel here: nothing measured can speak for the deployed model
    assert verdicts["rtn8-decode_speed"] == verdicts["rtn8-peak_memory"] == "inconclusive"
    result.stdout.fnmatch_lines(
        [
            "Memory (GiB *",
            "*16-bit*bfloat16*as measured*",
            "*rtn8*dequantized to bfloat16*computed*",
            "Speed (median*",
            "*rtn4*1x8x4*",
            "*of perplexity_ptb against GiB of weights: *on the front",
            "rtn8 on decode_speed: inconclusive: rtn8 ran dequantized to bfloat16 (torch has no product with 8-bit*",
        ]
    )
    report = measured.report
    [first, second] = report["efficiency"]
    assert len(first["speed"]["rows"]) == 2
    assert first["speed"]["rows"][0]["repetitions"] == 7
    assert second["memory"][1]["deployed"] > 0
    assert [front["cost"] for front in report["pareto"]] == ["GiB of weights"]  # one subject has no speed of its own
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## Memory" in text
    assert "![roofline](roofline.svg)" in text
    picture = (tmp_path / "report" / "roofline.svg").read_text()
    assert picture.startswith("<?xml")
    assert "rtn4 decode" in picture
    # the reference is measured once for memory, and beside every subject for speed
    kinds = [kind for kind, names in measured.jobs if names == ["the reference"]]
    assert kinds == ["memory"] * 3
    assert [names for kind, names in measured.jobs if kind == "speed"] == [
        ["the reference", "rtn4"], ["the reference", "rtn8"],
    ]  # fmt: skip


def test_a_plain_run_measures_nothing_but_compares_bytes(measured):
    result = measured.run("--tasks", "weight_bytes")
    assert result.ret == 0
    assert measured.jobs == []
    assert measured.verdicts() == {"rtn8-weight_bytes": "pass"}


def test_larger_weights_are_a_regression(measured, policy, monkeypatch):
    counted = bench.stored_bytes
    monkeypatch.setattr(
        bench, "stored_bytes", lambda path: counted(path) * (3 if (path / "quantgate.json").is_file() else 1)
    )
    policy.write_text(policy.read_text().replace("relative = 0.9 ", "relative = 0.0 "))
    result = measured.run("--tasks", "weight_bytes")
    result.stdout.fnmatch_lines(["rtn8 on weight_bytes: regressed: the weights take *"])
    assert result.ret == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workloads", "1x2"), "*--workloads*BATCHxINxOUT*"),
        (("--repetitions", "4"), "*--repetitions*"),
        (("--tasks", "decode_sped"), "*unknown task 'decode_sped'*"),
    ],
)
def test_wrong_usage_is_exit_4(gate, arguments, message):
    result = gate.run(*arguments)
    assert result.ret == 4
    result.stderr.fnmatch_lines([message])


def test_timed_cases_are_collected_only_when_asked_for(gate):
    gate.base.pop("--tasks")
    plain = gate.run("--collect-only", "-q")
    plain.stdout.fnmatch_lines(["*test_efficiency.py::test_within_tolerance[[]rtn8-weight_bytes]"])
    plain.stdout.no_fnmatch_line("*decode_speed*")
    asked = gate.run("--collect-only", "-q", "-m", "efficiency")
    asked.stdout.fnmatch_lines(["*rtn8-weight_bytes]", "*rtn8-peak_memory]", "*rtn8-decode_speed]"])


def test_reports_of_several_models_are_compared(tmp_path, capsys):
    def report(name, reference, subject):
        result = {
            "task": "mmlu", "dimension": "knowledge", "method": "gptq4", "metric": "acc", "verdict": "pass",
            "reference": reference[1], "value": subject[1],
        }  # fmt: skip
        size = result | {"task": "weight_bytes", "dimension": "efficiency", "metric": "weight_bytes"}
        size |= {"reference": reference[0], "value": subject[0]}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"schema": 1, "model": {"id": name}, "results": [result, size]}))
        return str(path)

    # table 2 of paper A: GB and accuracy
    files = [report("7B", (15.14, 0.5710), (7.83, 0.5486)), report("14B", (27.60, 0.6292), (12.03, 0.6153))]
    assert main(files) == 0
    shown = capsys.readouterr().out
    assert "14B: gptq4" in shown
    assert "7B: 16-bit is dominated by 14B: gptq4" in shown
    assert main([str(tmp_path / "missing.json")]) == 4
