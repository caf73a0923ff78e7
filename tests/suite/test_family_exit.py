"""Red cases among many: what the exit code, pytest, JUnit, the reports and verify say of them."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from quantgate import cli
from quantgate.verdict import evidence

TWO_BY_TWO = ("--methods", "rtn8,rtn4", "--tasks", "perplexity,kld")
ALONE = "regressed alone, not confirmed in this family of 4 cases"


@pytest.fixture
def p_values(monkeypatch):
    """Case -> p-value of its regression; every other case passes."""
    given = {}
    honest = evidence.judge

    def judge(comparison, rule, **more):
        found = replace(honest(comparison, rule, **more), verdict="pass", p_regressed=0.9)
        p = given.get((rule.method, rule.task))
        return found if p is None else replace(found, verdict="regressed", p_regressed=p)

    monkeypatch.setattr(evidence, "judge", judge)
    return given


def junit(path):
    """Test name -> whether it failed, of every entry in the order of the file."""
    return [(case.get("name"), case.find("failure") is not None) for case in ET.parse(path).iter("testcase")]


def test_a_case_that_is_red_alone_is_named_everywhere_and_not_red(gate, p_values, tmp_path, capsys):
    p_values["rtn4", "kld_ptb"] = 0.01
    result = gate.run(*TWO_BY_TWO, "--junitxml", tmp_path / "junit.xml", "-v")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*rtn4-kld_ptb* REGRESSED ALONE*",
            "*regressed, alone*",
            f"rtn4 on kld_ptb: regressed: *; {ALONE}",
            "judged 4 of 4 selected cases, 4 allowed; 4 were planned",
            "rtn8 may replace the reference*",
            f"rtn4 is not decided: 1 of 2 cases (kld_ptb) {ALONE}*",
            "*3 passed, 1 regressed alone*",
        ]
    )
    assert not any(failed for _, failed in junit(tmp_path / "junit.xml"))
    assert '"regressed alone, unless the other cases of the run confirm it"' in (tmp_path / "junit.xml").read_text()
    assert f"**{ALONE}**" in (tmp_path / "report" / "report.md").read_text()
    assert gate.report["policy"]["exit"] == "confirmed"
    assert [decision["alone"] for decision in gate.report["decisions"]] == [[], ["kld_ptb"]]
    assert cli.main(["verify", str(tmp_path / "report")]) == 0
    assert "4 verdicts confirmed, 0 contradicted" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["strict", "policy", "no correction", "one case"])
def test_it_is_red_where_the_gate_is_strict_or_the_policy_says_so(gate, p_values, policy, tmp_path, how):
    p_values["rtn4", "kld_ptb"] = 0.01
    family = {"policy": '[family]\nexit = "case"\n', "no correction": '[family]\ncorrection = "none"\n'}.get(how, "")
    policy.write_text(policy.read_text() + family)
    more = {"strict": ["--strict"], "one case": ["-k", "rtn4 and kld"]}.get(how, [])
    result = gate.run(*TWO_BY_TWO, *more, "--junitxml", tmp_path / "junit.xml")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAILED *rtn4-kld_ptb*"])
    assert [name for name, failed in junit(tmp_path / "junit.xml") if failed] == ["test_within_tolerance[rtn4-kld_ptb]"]
    assert gate.report["plan"]["counts"]["allowed"] == (0 if how == "one case" else 3)


def test_what_the_other_cases_confirm_fails_at_the_end(gate, p_values, tmp_path):
    # Holm: 0.0001 <= 0.025 / 4 at once, then 0.007 <= 0.025 / 3
    p_values.update({("rtn8", "kld_ptb"): 0.007, ("rtn4", "kld_ptb"): 0.0001})
    result = gate.run(*TWO_BY_TWO, "--junitxml", tmp_path / "junit.xml")
    assert result.ret == 1
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        [
            "rtn8 on kld_ptb: regressed: *; alone it was open, the other cases of the run confirm it",
            "judged 4 of 4 selected cases, 2 allowed; 4 were planned",
            "rtn8 must not replace the reference: 1 of 2 cases (kld_ptb) regressed (Holm's correction)*",
            "rtn4 must not replace the reference*",
            "FAILED *rtn8-kld_ptb*",
        ],
        consecutive=False,
    )
    result.stdout.no_fnmatch_line("*1 regressed alone*")
    failed = [name for name, failed in junit(tmp_path / "junit.xml") if failed]
    assert sorted(failed) == ["test_within_tolerance[rtn4-kld_ptb]", "test_within_tolerance[rtn8-kld_ptb]"]
    assert cli.main(["verify", str(tmp_path / "report")]) == 0


def test_verify_finds_an_exit_code_that_the_family_does_not_give(gate, p_values, policy, tmp_path, capsys):
    policy.write_text(policy.read_text() + '[family]\nexit = "case"\n')
    p_values["rtn4", "kld_ptb"] = 0.01
    assert gate.run(*TWO_BY_TWO).ret == 1
    path = tmp_path / "report" / "report.json"
    content = json.loads(path.read_text())
    content["policy"]["exit"], content["run"]["exit"] = "confirmed", 0
    path.write_text(json.dumps(content))
    assert cli.main(["verify", str(path)]) == 1
    assert "the policy's text is not that of its digest" in capsys.readouterr().out
