"""``quantgate import A.jsonl B.jsonl``: two sample files of lm-eval, paired and judged, without a model."""

from __future__ import annotations

import argparse
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.errors import UsageError
from quantgate.core.progress import Progress
from quantgate.core.words import say
from quantgate.reports.accounting import GREEN, Account
from quantgate.reports.environment import facts
from quantgate.reports.payload import Payload
from quantgate.reports.report import Report
from quantgate.reports.reporters import reporters
from quantgate.reports.run import Run, sealed
from quantgate.reports.samples import Pair, Samples, paired, read_samples
from quantgate.runs.preflight import check_writable
from quantgate.store.store import write_atomically
from quantgate.tasks.table import TASKS
from quantgate.verdict.evidence import Evidence, conclude, evidence_to_json
from quantgate.verdict.family import green
from quantgate.verdict.policy import Policy
from quantgate.verdict.policy_file import load_policy
from quantgate.verdict.recording import Told, build_result

_EPILOG: Final = "example: quantgate import fp16/samples_sciq.jsonl int4/samples_sciq.jsonl --name int4"
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
_DIMENSION: Final = "knowledge"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("reference", type=Path, metavar="A.jsonl", help="samples of the 16-bit model (lm-eval --log_samples)")
    add("subject", type=Path, metavar="B.jsonl", help="samples of the quantized model, of the same task")
    add("--name", default="imported", help="what the quantized model is called in the report (default: imported)")
    add(
        "--model", default="", metavar="NAME", help="the 16-bit model's name, where the policy has margins for it alone"
    )
    add("--policy", type=Path, metavar="FILE", help="policy file with the margins; without it evals/policy.toml")
    add("--report-dir", type=Path, metavar="DIR", help="write report.html, report.json, ... there")
    add("--strict", action="store_true", help="an inconclusive case fails too")
    add("--json", action="store_true", help="the records as JSON")


def run(args: argparse.Namespace, progress: Progress) -> int:
    """Judge the pairs; 0 when all are allowed, 1 when one is not.

    Raises:
        UsageError: a file is none of lm-eval's samples, or the two cannot be paired.
        PolicyError: the policy says nothing of one of the metrics.
        StoreError: the report cannot be written.
    """
    if not _NAME.fullmatch(args.name) or args.name == "reference":
        raise UsageError("--name", repr(args.name), expected="letters, digits and . _ - only, and not 'reference'")
    if args.report_dir is not None:
        check_writable(args.report_dir, "--report-dir")
    if args.policy is not None and not args.policy.is_file():
        raise UsageError("--policy", f"{args.policy} is no file", expected="a policy file (docs/policy.md)")
    reference, subject = read_samples(args.reference), read_samples(args.subject)
    pairs, notes = paired(reference, subject)
    judged = _judged(args, load_policy(args.policy), (reference, subject), pairs)
    judged.notes += notes
    report = judged.report(facts(None, [], 0) | {"command": _command(args)})
    code = judged.account.exit_code(GREEN)
    if args.report_dir is not None:
        _write(report, args.report_dir)
    if args.json:
        print(json.dumps([reading.through_json(result.as_json()) for result in report.judged], indent=2))
        return code
    for result in report.rows:
        say(report.sentence(result))
    for line in (*report.account, *(decision.sentence for decision in report.derived.decisions), *judged.notes):
        say(line)
    if args.report_dir is not None:
        say(f"report: {args.report_dir}")
    return code


def _judged(args: argparse.Namespace, policy: Policy, files: tuple[Samples, Samples], pairs: list[Pair]) -> Run:
    """A run of these cases, settled as any other."""
    judged = Run(Account(strict=args.strict))
    judged.id, judged.started = "import", datetime.now(UTC).isoformat(timespec="seconds")
    for pair in pairs:
        judged.add(_payload(args, policy, files, pair))
    results = judged.results
    judged.account.plan((result.key, result.dimension) for result in results)
    let_by = green(results, policy.correction, policy.exit_by, strict=args.strict)
    for result, allowed in zip(results, let_by, strict=True):
        judged.account.record(result.key, allowed=allowed)
    judged.finished, judged.code = datetime.now(UTC).isoformat(timespec="seconds"), judged.account.exit_code(GREEN)
    return judged


def _payload(args: argparse.Namespace, policy: Policy, files: tuple[Samples, Samples], pair: Pair) -> Payload:
    known = TASKS.get(pair.task)
    dimension = known.dimension if known else _DIMENSION
    rule = policy.rule(pair.task, dimension, pair.metric, args.model, args.name)
    evidence = Evidence(rule, pair.reference, pair.subject, problems=pair.problems, chance=pair.chance)
    told = Told(
        task=pair.task,
        dimension=dimension,
        protocol=f"lm-eval's samples of {files[0].task}, filter {pair.filter}",
        method=args.name,
        data_source=" against ".join(f"{each.name} (sha256 {each.digest})" for each in files),
    )
    return Payload(
        build_result(conclude(evidence), rule, told),
        {},  # nothing is known of the quantized model but its name
        {"id": args.model or files[0].name, "engine": "lm-eval"},
        policy=policy.as_record(),
        evidence=reading.through_json(evidence_to_json(evidence)),
    )


def _command(args: argparse.Namespace) -> str:
    more = [f"--{name} {value}" for name in ("name", "model", "policy") if (value := getattr(args, name))]
    return " ".join(["quantgate import", str(args.reference), str(args.subject), *more, *["--strict"] * args.strict])


def _write(report: Report, place: Path) -> None:
    reporters()
    texts: dict[str, Any] = sealed(report)
    place.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        if text:
            write_atomically(place / file, text)
