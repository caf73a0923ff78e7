"""What a sabotage may touch, how a row is written, and how guards are put out of order."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from quantgate.core.errors import QuantgateError
from quantgate.reports.payload import failed_payload

LURE = 99.0  # a reference that is this bad makes every subject look better
PROVENANCE = ("model", "weights", "config", "tokenizer", "protocol", "task_version", "requests", "data", "engine")


@dataclass(frozen=True)
class Row:
    """``run(gate)`` gives a pytester result; ``guards``: (dotted name, replacement) that together let it through."""

    name: str
    run: Callable
    says: str
    guards: tuple = ()
    code: int = 1


ROWS: list[Row] = []


def row(name, says, *guards, code=1):
    def add(run):
        ROWS.append(Row(name, run, says, guards, code))
        return run

    return add


def always_passes(judge):
    """The guard of last resort, out of order: every judgement becomes a pass."""

    def judged(*args, **kwargs):
        return replace(judge(*args, **kwargs), verdict="pass")

    return judged


def forgiving(judged):
    """A gate that takes an error for a pass."""

    def run(plan, case):
        try:
            return judged(plan, case)
        except QuantgateError as error:
            payload = failed_payload(case.key, case.task, str(error))
            return replace(payload, result=replace(payload.result, verdict="pass"), allowed=True)

    return run


class Equal:
    """Equal to everything."""

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    __hash__ = None


class AnySum(str):
    """A checksum that every line has."""

    __slots__ = ()
    __hash__ = None

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False


HONEST = ("quantgate.verdict.evidence.judge", always_passes)
NOTHING = lambda original: lambda *args, **kwargs: None  # noqa: E731
NO_WORDS = lambda original: lambda *args, **kwargs: ""  # noqa: E731
NO_LIST = lambda original: lambda *args, **kwargs: []  # noqa: E731
USABLE = ("quantgate.verdict.judge._unusable", NO_WORDS)
SENSIBLE = ("quantgate.verdict.judge._bad_margin", NO_WORDS)
FINITE = (("quantgate.verdict.paired._undefined", NO_WORDS), USABLE)
UNCHECKED = ("quantgate.store.store.check_entry", NO_WORDS)
UNBOUND = (
    "quantgate.store.bound.read_json",
    lambda original: lambda path, key: json.loads(path.read_text())["content"],
)
ANYBODYS = ("quantgate.store.journal._checksum", lambda original: lambda body, key: original(body, ""))
ANY_LINE = ("quantgate.store.journal._checksum", lambda original: lambda body, key: AnySum(original(body, key)))
KLD = ("--tasks", "kld", "--methods", "rtn2")


@dataclass
class Scene:
    """What a sabotage may touch: the gate's command line, its files, and the running code."""

    gate: object
    root: Path
    policy: Path
    data: Path
    model: Path
    monkeypatch: object
    edit_baseline: Callable
    write_jsonl: Callable
    notes: dict = field(default_factory=dict)

    def run(self, *more):
        return self.gate.run(*more)

    def checkpoint(self, method="rtn8"):
        """A writable copy of a subject that the gate made."""
        self.run("--methods", method, "--tasks", "kld")
        for entry in (self.root / "store" / "subjects").iterdir():
            if json.loads((entry / "quantgate.json").read_text())["method"]["method"] == method:
                return Path(shutil.copytree(entry, self.root / f"copy-{method}", dirs_exist_ok=True))
        raise LookupError(method)

    def judge_candidate(self, path, *more):
        return self.run("--candidate", f"theirs={path}", "-k", "theirs", "--tasks", "kld", *more)

    def answers(self, method):
        """The store's entry with a subject's answers on kld: the newest one after running it."""
        folder = self.root / "store" / "responses"
        before = set(folder.iterdir()) if folder.is_dir() else set()
        self.run("--methods", method, "--tasks", "kld")
        subject = [new for new in set(folder.iterdir()) - before if '"topk' not in (new / "entry.json").read_text()]
        return max(subject, key=lambda entry: entry.stat().st_mtime)
