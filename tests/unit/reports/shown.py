"""Reports for the tests of what is made of them."""

import json
from dataclasses import replace

from quantgate.core.cases import CaseKey
from quantgate.core.items import ItemOutcome
from quantgate.reports.accounting import Account
from quantgate.reports.payload import Payload, invalid_result
from quantgate.reports.run import Run
from quantgate.tasks.table import TASKS
from quantgate.verdict.evidence import Evidence, conclude, evidence_to_json
from quantgate.verdict.policy_file import load_policy
from quantgate.verdict.recording import Told, build_result

ENVIRONMENT = {"command": "pytest evals", "versions": {"torch": "2"}, "cpu": "a cpu", "cores": 2, "python": "3.11"}
HOSTILE = "<script>alert(1)</script>|`x`&amp;\"'"


def outcomes(share, items, answer="yes"):
    return tuple(ItemOutcome(f"item {n}", "", float(n < share * items), answer) for n in range(items))


def payload(method, share, *, task="truthfulqa", items=200, answer="no"):
    """A case of a task with a 0/1 score: the reference is right in 80 of 100 items, the subject in ``share``."""
    row = TASKS[task]
    rule = load_policy(None).rule(row.id, row.dimension, row.metric, "tiny", method)
    evidence = Evidence(rule, outcomes(0.8, items), outcomes(share, items, answer))
    told = Told(task=row.id, dimension=row.dimension, protocol="0-shot", method=method, data_source="bundled")
    subject = {
        "subject": method, "method": method, "bits_nominal": 4, "bits_effective": 4.2, "bytes_on_disk": 1 << 20,
        "fake_or_packed": "packed", "calibration": None, "quantize_seconds": 1.0, "from_cache": False,
    }  # fmt: skip
    return Payload(
        build_result(conclude(evidence), rule, told),
        subject,
        {"id": "tiny", "dtype": "bfloat16", "device": "cpu", "digest": {"whole": "ab" * 32}},
        evidence=json.loads(json.dumps(evidence_to_json(evidence))),
        policy=load_policy(None).as_record(),
        texts={"item 159": f"What is {HOSTILE}?"},
    )


def report_of(*payloads):
    """The report of a run that judged these cases."""
    run = Run(Account())
    run.account.plan((each.result.key, each.result.dimension) for each in payloads)
    run.id, run.started, run.finished, run.code = "1", "2026-01-01", "2026-01-02", 1
    for each in payloads:
        run.add(each)
        run.account.record(each.result.key, allowed=each.result.verdict == "pass")
    return run.report(ENVIRONMENT)


def many(count):
    """A report of ``count`` cases that were never compared."""
    bare = invalid_result(CaseKey("m", "mmlu"), "knowledge", "nothing was compared")
    return report_of(*(Payload(replace(bare, method=f"m{number}")) for number in range(count)))
