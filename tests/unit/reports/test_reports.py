"""Rendering: what is shown comes from the record; names cannot break out; not-a-number never becomes a number."""

import json
import math
from dataclasses import replace

import pytest

from quantgate.core.cases import CaseKey
from quantgate.core.places import suite_arguments
from quantgate.core.records import Result
from quantgate.reports import companions, html, markdown, table
from quantgate.reports.environment import command
from quantgate.reports.environment import facts as facts_of
from quantgate.reports.payload import Payload, invalid_result
from quantgate.reports.run import Run, dumps

RESULT = Result(
    task="mmlu",
    dimension="knowledge",
    protocol="5-shot",
    method="gptq4",
    metric="acc",
    higher_is_better=True,
    n_items=240,
    reference=0.5,
    value=0.48,
    delta=-0.02,
    ci_low=-0.05,
    ci_high=0.01,
    confidence=0.95,
    margin=0.1,
    verdict="pass",
    reason="at most 5 points worse",
    unscored={"no answer": 3},
)
SUBJECT = {
    "method": "gptq4",
    "bits_nominal": 4,
    "bits_effective": 4.21,
    "bytes_on_disk": 3 << 20,
    "fake_or_packed": "packed",
    "calibration": {"name": "dialogues", "n_tokens": 900},
    "quantize_seconds": 12.34,
    "from_cache": False,
}


@pytest.fixture
def run():
    run = Run()
    run.add(Payload(RESULT, SUBJECT, {"id": "bundled", "digest": {"whole": "ab" * 32}}, ("a note",)))
    return run


def test_payload_crosses_processes(run):
    payload = Payload(RESULT, SUBJECT, {"id": "bundled"}, ("a note",))
    assert Payload.from_json(json.loads(json.dumps(payload.as_json()))) == payload


def test_a_row_shows_the_record():
    assert table.result_row(RESULT) == (
        "gptq4", "mmlu", "acc", "240", "0.5000", "0.4800", "-0.0200", "[-0.0500, +0.0100]", "0.1000", "pass",
    )  # fmt: skip


def test_undefined_is_a_dash():
    row = table.result_row(invalid_result(CaseKey("gptq4", "mmlu"), "knowledge", "broken"))
    assert row[4:] == ("-", "-", "-", "[-, -]", "-", "invalid")


def test_large_and_infinite_values():
    row = table.result_row(replace(RESULT, reference=11.77, value=math.inf, delta=math.inf))
    assert row[4:7] == ("11.77", "infinite", "+infinite")
    assert table.result_row(replace(RESULT, value=12345.6))[5] == "12346"


def test_subject_row():
    assert table.subject_row(SUBJECT) == (
        "gptq4", "4", "4.210", "3.0", "packed", "dialogues (900 tokens)", "12.3", "this run",
    )  # fmt: skip


def test_report_json_is_strict_json(run):
    run.add(Payload(invalid_result(CaseKey("rtn2", "mmlu"), "knowledge", "NaN logits")))
    text = dumps(run.report({"seed": 1}).as_json())
    assert "NaN" not in text.replace("NaN logits", "")
    report = json.loads(text)
    assert report["counts"] == {"pass": 1, "regressed": 0, "inconclusive": 0, "invalid": 1}
    assert report["results"][1]["value"] is None
    assert report["unscored"] == [{"task": "mmlu", "method": "gptq4", "reason": "no answer", "items": 3}]


def test_notes_are_kept_once(run):
    run.add(Payload(replace(RESULT, task="boolq"), SUBJECT, {}, ("a note", "another")))
    assert run.notes == ["a note", "another"]
    assert run.model["id"] == "bundled"


def test_markdown_is_complete_and_names_stay_in_their_cell(run):
    run.models[""] = {"id": "evil|`name`<script>", "digest": {"whole": "x"}, "dtype": "bfloat16", "device": "cpu"}
    run.notes = ["<img src=x onerror=alert(1)> [link](http://x) | cell"]
    text = markdown.render(run.report({"versions": {"torch": "2.13.0"}, "command": "pytest `evals`"}))
    assert "| gptq4 | mmlu | acc | 240 |" in text
    assert "<script>" not in text.split("\n")[2].replace("`evil|'name'<script>`", "")
    assert "<img" not in text
    assert "\\[link\\]" in text
    assert "torch 2.13.0" in text
    for line in text.split("\n"):
        if line.startswith("| gptq4 | mmlu"):
            assert line.count("|") == len(table.HEADER) + 1


def test_companions_that_occur_are_shown_and_explained(run):
    assert "Beside the metric" not in markdown.render(run.report({}))
    choices = {"right_to_wrong": 3.0, "wrong_to_right": 1.0, "wrong_to_other": 0.0, "p_pass": 0.01}
    choices |= {"prob_right": 0.51, "prob_right_reference": 0.53, "prob_right_items": 0.042}
    text = {"kld_p99": 1.25, "same_top_p": 0.9, "nll": 2.5, "nll_reference": 2.25}
    run.add(Payload(replace(RESULT, task="boolq", companions=choices)))
    run.add(Payload(replace(RESULT, task="perplexity", companions=text)))
    shown = markdown.render(run.report({}))
    assert "| gptq4 | boolq | flips |  | 3 right to wrong, 1 wrong to right |  |" in shown
    assert "| gptq4 | boolq | prob_right | 0.5300 | 0.5100 | 0.042 |" in shown
    assert "| gptq4 | perplexity | nll | 2.2500 | 2.5000 |  |" in shown
    assert "| gptq4 | perplexity | kld_p99 | 0.0000 | 1.2500 |  |" in shown
    assert "| gptq4 | perplexity | same_top_p | 1.0000 | 0.9000 |  |" in shown
    explained = [line for line in shown.split("\n") if line.startswith("- ")]
    for name in ("flips", "prob_right", "nll", "kld_p99", "same_top_p"):
        assert sum(line.startswith(f"- {name}: ") for line in explained) == 1
    assert "rouge" not in shown


def test_equal_answers_have_no_flips():
    quiet = replace(RESULT, companions=dict.fromkeys(("right_to_wrong", "wrong_to_right", "wrong_to_other"), 0.0))
    assert companions.rows([quiet]) == [("gptq4", "mmlu", "flips", "", "none", "")]


def test_order_is_method_then_dimension_then_task():
    results = [replace(RESULT, method=method, task=task) for task in ("b", "a") for method in ("m2", "m1")]
    assert [(each.method, each.task) for each in table.ordered(results)] == [
        ("m2", "a"), ("m2", "b"), ("m1", "a"), ("m1", "b"),
    ]  # fmt: skip


def test_a_run_that_asked_no_model_says_so():
    assert "No model was asked. Verdicts: none." in markdown.render(Run().report({}))
    assert "No model was asked" in html.render(Run().report({}))


def test_environment_outside_a_checkout(tmp_path):
    facts = facts_of(tmp_path, ["evals", "-k", "a b"], 7)
    assert (facts["commit"], facts["dirty"], facts["seed"]) == ("", None, 7)
    assert facts["command"] == "pytest evals -k 'a b'"
    assert facts_of(tmp_path, [*suite_arguments(), "-k", "a b"], 7)["command"] == "quantgate run -k 'a b'"
    assert facts["versions"]["pytest"]


def test_the_command_holds_what_was_added_to_it_and_no_secret():
    variables = {
        "PYTEST_ADDOPTS": "--policy lax.toml --limit 40", "OMP_NUM_THREADS": "2", "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "AVX2", "QUANTGATE_STORE": "/store", "PYTHONOPTIMIZE": "1", "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "0", "HF_TOKEN": "hf_secret", "QUANTGATE_JUDGE_KEY": "sk-secret", "HOME": "/home/me",
        "PYTEST_CURRENT_TEST": "noise",
    }  # fmt: skip
    told = command(["evals", "--judge", "https://me:sk-secret@judge/v1"], ["--tb=short"], variables)
    assert "PYTEST_ADDOPTS='--policy lax.toml --limit 40' " in told
    assert told.endswith("pytest --tb=short evals --judge https://***@judge/v1")
    for name in ("OMP_NUM_THREADS=2", "ATEN_CPU_CAPABILITY=default", "ONEDNN_MAX_CPU_ISA=AVX2", "PYTHONOPTIMIZE=1"):
        assert name in told
    for hidden in ("secret", "TOKEN", "KEY", "/home/me", "PYTEST_CURRENT_TEST"):
        assert hidden not in told


def test_of_several_attempts_the_last_one_counts_and_the_others_are_told(run):
    run.add(Payload(replace(RESULT, verdict="invalid", reason="the store hiccuped")))
    run.add(Payload(replace(RESULT, verdict="regressed", reason="worse")))
    assert [(each.task, each.verdict) for each in run.results] == [("mmlu", "regressed")]
    assert "before: pass: at most 5 points worse" in run.notes[1]
    assert "before: invalid: the store hiccuped" in run.notes[2]
