"""``quantgate verify`` on edited reports: everything that is shown is confirmed or named as not confirmable."""

import hashlib
import json
from dataclasses import replace

import pytest

from quantgate import cli
from quantgate.core.cases import CaseKey
from quantgate.core.items import ItemOutcome
from quantgate.core.records import leaves_green
from quantgate.reports import environment
from quantgate.reports.accounting import Account
from quantgate.reports.directory import ReportDirectory
from quantgate.reports.payload import Payload, invalid_result
from quantgate.reports.run import Run, sealed
from quantgate.tasks.table import TASKS
from quantgate.verdict.evidence import Evidence, conclude, evidence_to_json
from quantgate.verdict.policy_file import parse_policy
from quantgate.verdict.recording import Told, build_result
from quantgate.verify import _differing

POLICY = """schema = 1
[metrics.acc]
margin = { absolute = 0.1 }
min_items = 4
[metrics.weight_bytes]
margin = { relative = 0.0 }
"""
ENVIRONMENT = {"command": "pytest evals", "versions": {"torch": "2"}, "cpu": "a cpu", "cores": 2, "python": "3.11"}
METHODS = {"rtn8": 0.8, "rtn2": 0.3}  # share of right answers


def outcomes(share, items=60):
    return tuple(ItemOutcome(f"item {n}", "", float(n < share * items), str(n % 3)) for n in range(items))


def payload(method, share):
    policy = parse_policy(POLICY, "policy.toml")
    task = TASKS["truthfulqa"]
    rule = policy.rule(task.id, task.dimension, task.metric, "tiny", method)
    evidence = Evidence(rule, outcomes(0.8), outcomes(share - 0.01))
    found = conclude(evidence)
    told = Told(task=task.id, dimension=task.dimension, protocol="0-shot", method=method)
    result = build_result(found, rule, told)
    subject = {
        "method": method, "bits_nominal": 4, "bits_effective": 4.2, "bytes_on_disk": 1 << 20,
        "fake_or_packed": "packed", "calibration": None, "quantize_seconds": 1.0, "from_cache": False,
    }  # fmt: skip
    return Payload(
        result,
        subject,
        {"id": "tiny", "dtype": "bfloat16", "device": "cpu", "digest": {"whole": "ab" * 32}},
        policy=policy.as_record(),
        evidence=json.loads(json.dumps(evidence_to_json(evidence))),
        allowed=leaves_green(result, strict=False),
    )


@pytest.fixture
def report(tmp_path):
    """A report of two methods, one of them regressed."""
    account = Account()
    account.plan((CaseKey(method, "truthfulqa"), "alignment") for method in (*METHODS, "rtn4"))
    run = Run(account)
    for method, share in METHODS.items():
        found = payload(method, share)
        run.add(found)
        account.record(CaseKey(method, "truthfulqa"), allowed=found.allowed)
    directory = ReportDirectory(tmp_path / "out")
    run.id, run.started, run.finished, run.code = directory.id, directory.started, directory.started, 1
    directory.begin(json.dumps({"status": "unfinished", "run": {"id": run.id}}))
    directory.finish(sealed(run.report(ENVIRONMENT)))
    directory.release()
    return directory.path


def verified(report, capsys):
    code = cli.main(["verify", str(report)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_an_untouched_report_stands_and_says_what_it_cannot_confirm(report, capsys):
    code, words = verified(report, capsys)
    assert "2 verdicts confirmed, 0 contradicted" in words
    assert code == 0
    assert "not confirmed: model, subjects, environment" in words


def edit(report, change):
    path = report / "report.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def result_of(content, method):
    return next(each for each in content["results"] if each["method"] == method)


def decide_otherwise(content):
    decision = next(each for each in content["decisions"] if each["method"] == "rtn2")
    decision.update(verdict="pass", regressed=[], sentence="rtn2 may replace the reference: it passes all 1 cases")


def test_what_was_found_is_there_for_programs(report, capsys):
    assert cli.main(["verify", str(report), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["stands"], found["confirmed"], found["differences"]) == (True, len(METHODS), [])
    page = report / "report.md"
    page.write_text(page.read_text(encoding="utf-8") + "all is well\n", encoding="utf-8")
    assert cli.main(["verify", str(report), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["stands"]
    assert "report.md" in found["differences"][0]


def test_a_field_that_is_there_twice_is_refused(report, capsys):
    """Readers of JSON differ in which of the two they take."""
    path = report / "report.json"
    path.write_text(path.read_text().replace('"results"', '"results": [], "results"', 1))
    code, words = verified(report, capsys)
    assert "it holds results twice" in words
    assert code != 0


EDITS = {
    "a decision": (decide_otherwise, "decisions do not follow from the results"),
    "counts": (lambda c: c["counts"].update({"pass": 2, "regressed": 0}), "counts do not follow"),
    "a reason": (lambda c: result_of(c, "rtn2").update(reason="all is well"), "reason is recorded as all is well"),
    "a margin": (lambda c: result_of(c, "rtn2").update(margin=0.9), "margin is recorded as 0.9"),
    "a waiver": (lambda c: result_of(c, "rtn2").update(waived="agreed"), "waived is recorded as agreed"),
    "a companion": (lambda c: result_of(c, "rtn2")["companions"].update(p_regressed=1.0), "companions is recorded"),
    "a dimension": (lambda c: result_of(c, "rtn2").update(dimension="efficiency"), "dimension is recorded as"),
    "a type": (lambda c: result_of(c, "rtn2").update(n_items="60"), "n_items is recorded as 60"),
    "the model": (lambda c: c["model"].update(id="Qwen/Qwen3-8B"), "its content does not fit the seal"),
    "a subject's bits": (lambda c: c["subjects"][0].update(bits_effective=2.0), "its content does not fit the seal"),
    "the policy's name": (lambda c: c["policy"].update(name="strict.toml"), "its content does not fit the seal"),
    "the policy's digest": (lambda c: c["policy"].update(digest="0" * 64), "not that of its digest"),
    "the environment": (lambda c: c["environment"].update(command="pytest --strict"), "its content does not fit"),
    "the time": (lambda c: c["run"].update(started="2020-01-01T00:00:00+00:00"), "its content does not fit the seal"),
    "the exit code": (lambda c: c["run"].update(exit=0), "exit code 0 is recorded, although"),
    "the plan": (lambda c: c["plan"]["planned"].update(rtn2=["truthfulqa", "mmlu"]), "the account of the plan"),
    "the selection": (lambda c: c["plan"]["selected"].pop("rtn2"), "judged, but never selected"),
    "a result twice": (lambda c: c["results"].append(dict(c["results"][0])), "more than one result"),
    "a name": (lambda c: result_of(c, "rtn2").update(method="rtn3"), "without evidence"),
    "a note": (lambda c: c["notes"].append("all is well"), "its content does not fit the seal"),
    "strictness": (lambda c: c["plan"].update(strict=True), "its content does not fit the seal"),
    "the evidence's name": (lambda c: c["evidence"].update(file="other.jsonl"), "does not say that its evidence is"),
    "more evidence": (lambda c: c["evidence"].update(approved=True), "does not say that its evidence is"),
    "all results": (lambda c: c.update(results=[]), "judged, but missing from the report"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_report_is_contradicted(report, capsys, name):
    change, words = EDITS[name]
    edit(report, change)
    code, said = verified(report, capsys)
    assert words in said
    assert code == 1


def test_an_edited_page_is_contradicted(report, capsys):
    path = report / "report.md"
    path.write_text(path.read_text().replace("regressed", "pass").replace("must not replace", "may replace"))
    code, said = verified(report, capsys)
    assert (code, "report.md was changed after it was written" in said) == (1, True)


def test_a_page_with_a_new_digest_still_has_to_follow_from_the_record(report, capsys):
    path = report / "report.md"
    path.write_text(path.read_text().replace("must not replace", "may replace"))
    edit(report, lambda c: c["files"].update({"report.md": hashlib.sha256(path.read_bytes()).hexdigest()}))
    code, said = verified(report, capsys)
    assert (code, "report.md does not say what report.json says" in said) == (1, True)


def test_a_page_says_which_run_it_is_of_and_when_it_was(report):
    content = json.loads((report / "report.json").read_text())
    page = (report / "report.md").read_text()
    assert f"- run `{content['run']['id']}`, finished: from {content['run']['started']} to" in page
    assert "exit code 1" in page


def test_a_page_that_is_gone_is_named(report, capsys):
    (report / "report.md").unlink()
    assert "report.md cannot be read" in verified(report, capsys)[1]


def reseal(report):
    """All seals made anew, as somebody does who has read the code."""
    from quantgate.verdict.seal import seal_of

    content = json.loads((report / "report.json").read_text())
    lines = (report / "evidence.jsonl").read_text().splitlines()[:-1]
    text = "\n".join([*lines, json.dumps({"report": seal_of(content)})]) + "\n"
    (report / "evidence.jsonl").write_text(text)
    edit(report, lambda c: c["evidence"].update(sha256=hashlib.sha256(text.encode()).hexdigest()))


def test_new_seals_do_not_hide_what_follows_from_something_else(report, capsys):
    def wider(content):
        result_of(content, "rtn2").update(margin=0.9, verdict="pass")

    path = report / "evidence.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line.get("case", {}).get("method") == "rtn2":
            line["case"]["rule"]["margin"]["amount"] = 0.9
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    edit(report, wider)
    reseal(report)
    code, said = verified(report, capsys)
    assert "rtn2 on truthfulqa: judged by another rule than the policy's text gives it" in said
    assert code == 1


def test_new_seals_hide_what_follows_from_nothing(report, capsys):
    """A seal without a key cannot: the docs say so, and verify says which parts these are."""
    edit(report, lambda c: c["subjects"][0].update(quantize_seconds=0.1))
    (report / "report.md").write_text((report / "report.md").read_text())
    reseal(report)
    said = verified(report, capsys)[1]
    assert "report.md does not say what report.json says" in said or "0 contradicted" in said
    assert "not confirmed: model, subjects" in said


def test_an_unfinished_report_is_refused(report, capsys):
    (report / "evidence.jsonl").unlink()
    edit(report, lambda c: c.update(status="unfinished"))
    code, said = verified(report, capsys)
    assert (code, "did not finish: there is no verdict to confirm" in said) == (1, True)


def test_a_report_of_the_first_format_says_what_it_cannot_confirm(report, capsys):
    def older(content):
        content["schema"] = 1
        for name in ("status", "run", "plan", "files"):
            del content[name]

    edit(report, older)
    lines = (report / "evidence.jsonl").read_text().splitlines(keepends=True)[:-1]
    (report / "evidence.jsonl").write_text("".join(lines))
    edit(report, lambda c: c["evidence"].update(sha256=hashlib.sha256("".join(lines).encode()).hexdigest()))
    code, said = verified(report, capsys)
    assert (code, "2 verdicts confirmed, 0 contradicted" in said) == (1, True)  # anybody may have written the decisions
    assert "not confirmed: decisions, counts and report.md" in said


def test_a_new_report_cannot_pass_for_an_old_one(report, capsys):
    edit(report, lambda c: (c.update(schema=1), decide_otherwise(c)))
    assert verified(report, capsys)[0] == 1


@pytest.mark.parametrize("text", ["[]", "3", '{"schema": 2}', "[" * 100000])
def test_what_is_no_report_is_one_sentence(report, capsys, text):
    (report / "report.json").write_text(text)
    code, said = verified(report, capsys)
    assert code == 1
    assert len(said.strip().split("\n")) == 1


def test_a_page_is_drawn_again_with_numbers_that_json_cannot_hold(tmp_path):
    from quantgate.verify import same

    assert same(None, float("inf"))
    assert same(float("inf"), float("inf"))
    assert not same(float("-inf"), float("inf"))
    assert not same(None, 1.0)
    assert not same(True, 1.0)
    assert replace(payload("rtn8", 0.8)).allowed


def test_a_report_from_before_a_field_was_added_stands():
    again = invalid_result(CaseKey(subject="gptq4", task="mmlu"), "knowledge", "nothing")
    recorded = again.as_json()
    assert _differing(recorded, again) == []
    for name in ("calibration", "model"):
        older = {key: value for key, value in recorded.items() if key != name}
        assert _differing(older, again) == []
        assert len(_differing(older, replace(again, **{name: "another"}))) == 1
    assert len(_differing({key: value for key, value in recorded.items() if key != "verdict"}, again)) == 1


def test_what_was_another_version_is_said_beside_a_contradiction(report, capsys, monkeypatch):
    monkeypatch.setattr(environment, "_commit", lambda root: ("b" * 40, False))
    monkeypatch.setattr(environment, "_version", lambda name: {"torch": "2.13.0"}.get(name, ""))
    edit(report, lambda c: c.update(environment={"commit": "a" * 40, "versions": {"torch": "2.9.1", "gone": "1"}}))
    code, said = verified(report, capsys)
    assert code == 1
    assert (
        "the report was written with the suite at commit aaaaaaaaaaaa (here bbbbbbbbbbbb), torch 2.9.1 (here 2.13.0): "
        "rules, wording and pictures may have changed since" in said
    )
    edit(report, lambda c: c.update(environment={"commit": "b" * 40, "versions": {"torch": "2.13.0"}}))
    assert "was written with" not in verified(report, capsys)[1]
    edit(report, lambda c: c.update(environment={"versions": ["torch"]}))
    assert "was written with" not in verified(report, capsys)[1]


@pytest.mark.parametrize("words", [("verify",), ("report", "--summary", "2000")])
def test_a_number_that_no_float_holds_ends_in_a_sentence(report, capsys, words):
    edit(report, lambda c: c["results"][0].update(value=10**400))
    assert cli.main([words[0], str(report), *words[1:]]) == 1
    assert "a whole number of 401 digits, which is no float" in capsys.readouterr().err
