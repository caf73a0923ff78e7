"""One run may hold several calibration sets: a case is known by all that makes it one, from the plan to the report."""

import json
from dataclasses import replace

import pytest

from quantgate.core.cases import CaseKey
from quantgate.core.progress import Silent
from quantgate.fixtures.case import Case
from quantgate.quantize.calibration.sources import CalibrationChoice
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.reports.accounting import Account
from quantgate.reports.check import drawn_again
from quantgate.reports.payload import Payload
from quantgate.reports.run import Run, sealed
from quantgate.runs.evaluation import Evaluation
from quantgate.runs.options import Options, Sources
from quantgate.store.store import Store
from quantgate.subjects.spec import SubjectSpec
from quantgate.tasks.base import Selection
from quantgate.tasks.data import BUNDLED_DATA, DirectorySource
from quantgate.tasks.table import TASKS
from quantgate.verdict.evidence import evidence_to_json
from quantgate.verdict.policy_file import load_policy
from quantgate.verify import verify
from tests.conftest import make_model_dir

SEEDS = (1, 2)
NAMES = {f"gptq4:dialogues.s{seed}" for seed in SEEDS}


def test_names_hold_what_a_run_has_several_of():
    assert CaseKey("gptq4", "mmlu").id == "gptq4-mmlu"
    assert CaseKey("gptq4", "mmlu", "c4").id == "gptq4:c4-mmlu"
    assert str(CaseKey("gptq4", "mmlu", "c4", "small")) == "small:gptq4:c4 on mmlu"
    choice = CalibrationChoice("c4")
    assert Case(METHODS["gptq4"], TASKS["mmlu"], choice).key == SubjectSpec(METHODS["gptq4"], choice).on("mmlu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two draws of one calibration set, judged on one task."""
    root = tmp_path_factory.mktemp("run")
    data = DirectorySource(BUNDLED_DATA)
    task = TASKS["truthfulqa"]
    evaluation = Evaluation(
        Options(model=str(make_model_dir(root / "model", layers=1)), selection=Selection(8)),
        [task],
        Sources(data, data),
        Store(root / "store", Silent()),
        load_policy(None),
        root / "baselines",
    )
    choices = [CalibrationChoice(n_samples=4, seed=seed) for seed in SEEDS]
    cases = [Case(METHODS["gptq4"], task, choice) for choice in choices]
    found = Run(Account())
    found.account.plan((case.key, task.dimension) for case in cases)
    found.id, found.started, found.finished, found.code = "1", "then", "now", 1
    for case in cases:
        result = evaluation.result(case.spec, task)
        evidence = json.loads(json.dumps(evidence_to_json(evaluation.evidence[case.key])))
        policy = evaluation.cases.policy.as_record()
        subject, model = evaluation.subject_record(case.spec), evaluation.model_record()
        found.add(Payload(result, subject, model, policy=policy, evidence=evidence))
        found.account.record(result.key, allowed=False)
    found.settle()
    return found


def test_nothing_of_one_set_stands_for_the_other(run):
    assert {result.about for result in run.results} == NAMES
    assert set(run.subjects) == NAMES
    first, second = (subject["calibration"]["digest"] for subject in run.subjects.values())
    assert first != second
    assert {decision.method for decision in run.report({}).derived.decisions} == NAMES
    assert run.account.expected() == {name: ["truthfulqa"] for name in NAMES}


def test_the_report_keeps_them_apart_and_stands(run, tmp_path):
    environment = {"command": "pytest evals", "versions": {}, "cpu": "a cpu", "cores": 2, "python": "3"}
    for name, text in sealed(run.report(environment)).items():
        if text:
            (tmp_path / name).write_text(text)
    findings = verify(tmp_path, drawn_again)
    assert findings.differences == []
    assert findings.confirmed + findings.unjudged == 2
    content = json.loads((tmp_path / "report.json").read_text())
    assert {(each["method"], each["calibration"]) for each in content["results"]} == {
        ("gptq4", f"dialogues.s{seed}") for seed in SEEDS
    }


def test_judged_again_is_the_same_case_only(run):
    twice = Run(Account())
    first, second = run.results
    for result in (first, second, replace(second, reason="again")):
        twice.add(Payload(result))
    assert [result.reason for result in twice.results] == [first.reason, "again"]
