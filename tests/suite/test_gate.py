"""The gate as a user sees it: outcomes, exit codes, tables, reports."""

import re
import xml.etree.ElementTree as ET

import pytest


def test_a_harmless_subject_passes(gate):
    result = gate.run("--tasks", "perplexity,kld")
    assert result.ret == 0
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["*rtn8*perplexity_ptb*ppl*pass*", "rtn8 may replace the reference: it passes all 2 cases*"]
    )
    assert gate.verdicts() == {"rtn8-perplexity_ptb": "pass", "rtn8-kld_ptb": "pass"}


def test_a_harmful_subject_is_red_and_named(gate, policy):
    policy.write_text(policy.read_text().replace("0.05", "0.000001"))
    result = gate.run("--methods", "rtn2", "--tasks", "kld")
    assert result.ret == 1
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "_* test_within_tolerance* _*",
            "rtn2 on kld_ptb: regressed: kld_mean rose*",
            "rtn2 must not replace the reference: 1 of 1 cases (kld_ptb) regressed*",
        ]
    )
    for source in ("where '", "Result(", "AssertionError", "0x", "assert ", "in test_within", "judge(", "Error:"):
        result.stdout.no_fnmatch_line(f"*{source}*")


def test_a_waived_verdict_stays_in_the_record_and_leaves_the_case_green(gate, policy, tmp_path):
    waiver = 'min_items = 4\nallow = ["regressed"]\nbecause = "known and accepted until the next release"'
    policy.write_text(policy.read_text().replace("0.05", "0.000001").replace("min_items = 4", waiver))
    result = gate.run("--methods", "rtn2", "--tasks", "kld", "--junitxml", tmp_path / "junit.xml")
    assert result.ret == 0
    assert gate.verdicts() == {"rtn2-kld_ptb": "regressed"}
    why = "known and accepted until the next release"
    result.stdout.fnmatch_lines([f"rtn2 on kld_ptb: regressed: *; waived by the policy: {why}", "*1 waived*"])
    assert not re.search(r"\d+ passed", result.stdout.lines[-1])
    assert gate.report["results"][0]["waived"] == why
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| regressed, waived |" in text
    assert f"**Waived by the policy:** {why}" in text
    assert f'<property name="waived" value="{why}"' in (tmp_path / "junit.xml").read_text()


def test_a_verdict_that_needs_no_waiver_shows_none(gate, policy):
    waiver = 'min_items = 4\nallow = ["regressed"]\nbecause = "known and accepted until the next release"'
    policy.write_text(policy.read_text().replace("min_items = 4", waiver))
    result = gate.run()
    result.assert_outcomes(passed=1)
    assert gate.report["results"][0]["waived"] == ""
    result.stdout.no_fnmatch_line("*waived*")


def test_a_misspelt_policy_section_is_wrong_usage(gate, policy):
    policy.write_text(policy.read_text() + "[tasks.mmul]\nmargin = { absolute = 0.5 }\n")
    result = gate.run()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*nothing called 'mmul' among the tasks*did you mean*"])


def test_inconclusive_is_its_own_outcome_and_red_when_strict(gate):
    few = ("--limit", "2")
    result = gate.run(*few)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*rtn8 on perplexity_ptb: inconclusive: only 2 items*", "*1 inconclusive*"])
    assert not re.search(r"\d+ passed", result.stdout.lines[-1])
    assert gate.run(*few, "--strict").ret == 1


def test_a_reference_at_chance_is_invalid(gate, policy):
    policy.write_text(policy.read_text().replace("[metrics.acc]", "[metrics.acc]\nfloor = { chance = 0.5 }"))
    result = gate.run("--tasks", "truthfulqa")
    assert result.ret == 1
    assert gate.verdicts() == {"rtn8-truthfulqa": "invalid"}
    result.stdout.fnmatch_lines(["*at chance*"])


def test_the_second_run_computes_nothing(gate):
    gate.run("--methods", "gptq4")
    first = gate.report
    result = gate.run("--methods", "gptq4")
    assert result.ret == 0
    second = gate.report
    assert [each["from_cache"] for each in first["results"]] == [False]
    assert [each["from_cache"] for each in second["results"]] == [True]
    assert second["subjects"][0]["from_cache"]
    assert [each["value"] for each in first["results"]] == [each["value"] for each in second["results"]]


def test_k_selects_one_method(gate):
    result = gate.run("--methods", "gptq4,gptq8,rtn4", "-k", "gptq4")
    result.assert_outcomes(passed=1, deselected=2)
    assert [each["method"] for each in gate.report["subjects"]] == ["gptq4"]


def test_nothing_selected_is_exit_5(gate):
    assert gate.run("-k", "no_such_method").ret == 5


def test_markers_select_dimensions(gate):
    result = gate.run("--tasks", "perplexity,truthfulqa", "-m", "alignment", "--collect-only", "-q")
    result.stdout.fnmatch_lines(["*test_alignment.py::test_within_tolerance[[]rtn8-truthfulqa[]]"])
    result.stdout.no_fnmatch_line("*perplexity*")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "gptq5"), "*unknown*gptq5*"),
        (("--tasks", "mmul"), "*unknown task 'mmul'; did you mean 'mmlu'*"),
        (("--data", "nowhere"), "*'nowhere' is no directory*"),
        (("--limit", "0"), "*--limit*"),
        (("--judge", "http://localhost:1/v1"), "*--judge: --judge-model is missing*"),
        (("--dtype", "int4"), "*invalid choice*int4*"),
        (("--policy", "nowhere.toml"), "*nowhere.toml*"),
    ],
)
def test_wrong_usage_is_exit_4(gate, arguments, message):
    result = gate.run(*arguments)
    assert result.ret == 4
    result.stderr.fnmatch_lines([message])


def test_junit_carries_the_numbers(gate, tmp_path):
    gate.run("--junitxml", tmp_path / "junit.xml")
    properties = {each.get("name"): each.get("value") for each in ET.parse(tmp_path / "junit.xml").iter("property")}
    record = gate.report["results"][0]
    assert properties["verdict"] == "pass"
    for name in ("reference", "value", "delta", "ci_low", "ci_high", "margin"):
        assert float(properties[name]) == pytest.approx(record[name])


def test_the_report_holds_what_the_design_promises(gate, tmp_path):
    gate.run("--methods", "gptq4", "--tasks", "perplexity,kld")
    report = gate.report
    assert report["schema"] == 2
    assert set(report["model"]["digest"]) == {"weights", "config", "tokenizer", "whole"}
    assert report["environment"]["versions"]["torch"]
    subject = report["subjects"][0]
    assert subject["bits_nominal"] == 4
    assert 4 < subject["bits_effective"] < 7
    assert subject["calibration"]["n_samples"] == 8
    assert subject["fake_or_packed"] == "packed"
    result = report["results"][0]
    for name in ("protocol", "data_digest", "confidence", "reason", "seconds", "tokens", "reference_from"):
        assert result[name] not in (None, "")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| gptq4 | perplexity\\_ptb" in text or "| gptq4 | perplexity_ptb" in text
    assert "gptq4 on perplexity_ptb: 8 items came out otherwise" in text


@pytest.mark.parametrize("option", ["--junitxml", "--report-dir", "--baselines"])
def test_a_place_that_cannot_be_written_is_wrong_usage_before_the_run(gate, tmp_path, option):
    (tmp_path / "file").write_text("")
    result = gate.run(option, tmp_path / "file" / "inner" / "there", "--update-baselines")
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"*{'report directory' if option == '--report-dir' else option}*file*"])
    result.stdout.no_fnmatch_line("*test_within_tolerance*")
