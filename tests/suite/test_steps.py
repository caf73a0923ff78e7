"""One subject in several forms, from the command line: the report says which step lost what."""

import pytest

from quantgate import cli
from quantgate.core.remote import Manners
from tests.unit.engines.servers import serving


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("quantgate.subjects.served.MANNERS", Manners(attempts=2, pause_s=0.0))


def test_the_report_says_what_each_step_changed(gate, tokenizer, tmp_path):
    with serving("vllm", tokenizer) as server:
        result = gate.run(
            "--tasks",
            "truthfulqa",
            "--methods",
            "rtn8",
            "--candidate",
            f"live={server.address}",
            "--forms",
            "rtn8,live",
        )
    text = result.stdout.str()
    assert "steps from 16 bit to rtn8 to live: truthfulqa: " in text
    [found] = gate.report["studies"]
    assert found["forms"] == ["rtn8", "live"]
    assert [(step["from"], step["to"], step["items"]) for step in found["steps"]] == [
        ("16-bit", "rtn8", 6),
        ("rtn8", "live", 6),
    ]
    cases = {each["method"]: each for each in gate.report["results"]}
    assert found["steps"][0]["delta"] == pytest.approx(cases["rtn8"]["delta"])
    total = sum(step["delta"] for step in found["steps"])
    assert total == pytest.approx(cases["live"]["delta"])
    assert "## Which step lost what" in (tmp_path / "report" / "report.md").read_text()
    assert cli.main(["verify", str(tmp_path / "report")]) == 0


def test_a_steps_interval_is_that_of_its_case_under_the_runs_policy(gate, tmp_path):
    gate.run("--methods", "rtn8,rtn4", "--forms", "rtn8,rtn4")
    [found] = gate.report["studies"]
    [case] = [each for each in gate.report["results"] if each["method"] == "rtn8"]
    step = found["steps"][0]
    assert (step["from"], step["to"]) == ("16-bit", "rtn8")
    assert [step[end] for end in ("low", "high")] == pytest.approx([case[f"ci_{end}"] for end in ("low", "high")])
    assert cli.main(["verify", str(tmp_path / "report")]) == 0


def test_forms_that_are_no_subjects_of_the_run(gate):
    for forms, words in (("rtn8,rtn4", "'rtn4' is no subject of this run"), ("rtn8", "'rtn8'; expected two or more")):
        result = gate.run("--forms", forms)
        assert result.ret == 4
        assert f"--forms: {words}" in result.stderr.str() + result.stdout.str()
