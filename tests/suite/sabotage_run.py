"""Ways to a false green with the store, data, policy, run and report (the others, and what a row is: ``sabotage``)."""

import contextlib
import errno
import io
import json
import shutil
from dataclasses import dataclass, replace

from quantgate import cli
from tests.suite.sabotage_scene import (
    ANY_LINE,
    KLD,
    NO_LIST,
    NO_WORDS,
    NOTHING,
    SENSIBLE,
    UNBOUND,
    UNCHECKED,
    USABLE,
    forgiving,
    row,
)

# the account of a run, and its last word on the exit code
ACCOUNTED = (
    ("quantgate.reports.session._account_for_all", NOTHING),
    ("quantgate.reports.accounting.Account.exit_code", lambda original: lambda self, code: code),
)
REPORT_MD = ("quantgate.verify._files", NO_LIST)

# --- the store ------------------------------------------------------------------------------------------------------


@row("answers of another model", "*belongs to another key*", UNCHECKED, UNBOUND, ANY_LINE)
def _(scene):
    good = scene.answers("rtn8")
    bad = scene.answers("rtn2")
    shutil.rmtree(bad)
    shutil.copytree(good, bad)
    return scene.run(*KLD)


@row("answers edited in the store", "*the digest of responses.jsonl does not match*", UNCHECKED, ANY_LINE)
def _(scene):
    good, bad = scene.answers("rtn8"), scene.answers("rtn2")
    shutil.copyfile(good / "responses.jsonl", bad / "responses.jsonl")
    return scene.run(*KLD)


@row(
    "a subject exchanged in the store",
    "*the digest of * does not match*",
    UNCHECKED,
    ("quantgate.subjects.subject.check_record", lambda original: lambda *args: None),
)
def _(scene):
    good = scene.checkpoint("rtn8")
    scene.checkpoint("rtn2")
    for entry in (scene.root / "store" / "subjects").iterdir():
        if json.loads((entry / "quantgate.json").read_text())["method"]["method"] == "rtn2":
            for name in ("model.safetensors", "config.json", "quantize_config.json"):
                shutil.copyfile(good / name, entry / name)
    shutil.rmtree(scene.root / "store" / "responses")
    return scene.run(*KLD)


@row(
    "a full disk while quantizing",
    "*cannot write*No space left on device*",
    ("quantgate.fixtures.plugin.judged", forgiving),
)
def _(scene):
    def full(work, key):
        raise OSError(errno.ENOSPC, "No space left on device")

    scene.monkeypatch.setattr("quantgate.store.store._seal", full)
    return scene.run()


# --- data -----------------------------------------------------------------------------------------------------------


def _questions(scene):
    return scene.data / "truthfulqa__truthful_qa" / "multiple_choice" / "validation.jsonl"


def _lenient(original):
    def rows(self, dataset, config, split, fields):
        path = self._folder(dataset) / config / f"{split}.jsonl"
        found = []
        for line in path.read_text(errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    return rows


ROWS_READ = ("quantgate.tasks.data.DirectorySource.rows", _lenient)


@row("an emptied benchmark", "*the file is empty*", ROWS_READ, USABLE, SENSIBLE)
def _(scene):
    _questions(scene).write_text("")
    return scene.run("--tasks", "truthfulqa")


@row("a truncated data file", "*line 80*", ROWS_READ)
def _(scene):
    path = _questions(scene)
    path.write_text(path.read_text()[:-40])
    return scene.run("--tasks", "truthfulqa")


@row("items copied", "*items ask the same as another*", ("quantgate.runs.asked.check_unique", NOTHING))
def _(scene):
    path = _questions(scene)
    lines = path.read_text().splitlines()[:8]
    path.write_text("\n".join(lines * 10) + "\n")
    return scene.run("--tasks", "truthfulqa")


@row("no item with a score", "*no item was scored*", USABLE, SENSIBLE)
def _(scene):
    return _unscored(scene, lambda number: True)


@row("every tenth item without a score", "*items have no score*", USABLE)
def _(scene):
    return _unscored(scene, lambda number: number % 10 == 0)


def _unscored(scene, which):
    from quantgate.core.items import ItemOutcome
    from quantgate.tasks.table import TASKS

    task = type(TASKS["truthfulqa"])
    score = task.score

    def half(self, item, responses):
        if which(int(item.id.rpartition("/")[2])):
            return ItemOutcome(item.id, item.group, None, unscored="nothing came back")
        return score(self, item, responses)

    scene.monkeypatch.setattr(task, "score", half)
    return scene.run("--tasks", "truthfulqa")


@row(
    "calibration on what is tested",
    "*it has text in common with * tested items*",
    ("quantgate.runs.questions.check_disjoint", NOTHING),
)
def _(scene):
    folder = scene.data / "ptb-text-only__ptb_text_only" / "penn_treebank"
    shutil.copyfile(folder / "test.jsonl", folder / "train.jsonl")
    return scene.run("--methods", "gptq8", "--tasks", "perplexity", "--calibration-length", "256")


# --- the policy -----------------------------------------------------------------------------------------------------


def _policy(scene, old, new):
    text = scene.policy.read_text()
    assert old in text
    scene.policy.write_text(text.replace(old, new))


@row("a reference at chance", "*at chance*", ("quantgate.verdict.judge._hopeless", NO_WORDS), SENSIBLE)
def _(scene):
    _policy(scene, "[metrics.acc]", "[metrics.acc]\nfloor = { chance = 0.5 }")
    return scene.run("--tasks", "truthfulqa")


@row(
    "a margin that is no number",
    "*found nan*",
    (
        "quantgate.verdict.policy_file._Reader._number",
        lambda original: lambda self, path, value, **bounds: float(value),
    ),
    SENSIBLE,
    code=4,
)
def _(scene):
    _policy(scene, "relative = 0.05", "relative = nan")
    return scene.run("--tasks", "perplexity")


@row(
    "a margin that allows everything",
    "*even a score of 0 would pass*",
    ("quantgate.verdict.policy.Policy._can_fail", NOTHING),
    code=4,
)
def _(scene):
    _policy(scene, "[metrics.acc]\nmargin = { absolute = 0.1 }", "[metrics.acc]\nmargin = { absolute = 1.0 }")
    return scene.run("--tasks", "truthfulqa")


@row(
    "invalid cases waved through",
    "*an invalid case is never allowed*",
    ("quantgate.verdict.policy_file._Reader._allow", lambda original: lambda self, path, value: tuple(value)),
    code=4,
)
def _(scene):
    waiver = 'floor = { chance = 0.5 }\nallow = ["invalid"]\nbecause = "it is red otherwise"'
    _policy(scene, "[metrics.acc]", f"[metrics.acc]\n{waiver}")
    return scene.run("--tasks", "truthfulqa")


def _rounding(decide):
    def rounded(*args):
        return replace(decide(*args), verdict="pass")

    return rounded


@row("a bound that would round to the margin", "*inconclusive*", ("quantgate.verdict.judge._decide", _rounding))
def _(scene):
    scene.run("--tasks", "kld", "--methods", "rtn2")
    high = scene.gate.report["results"][0]["ci_high"]
    _policy(scene, "absolute = 0.00002", f"absolute = {high * (1 - 1e-9)!r}")
    return scene.run(*KLD, "--strict")


@row("too few items", "*only 2 items were scored*", ("quantgate.verdict.judge._decide", _rounding))
def _(scene):
    return scene.run("--limit", "2", "--strict", "--tasks", "perplexity")


# --- the run --------------------------------------------------------------------------------------------------------


@row("nothing selected", "*deselected*", code=5)
def _(scene):
    return scene.run("-k", "no_such_method")


@row("a dimension without cases", "*deselected*", code=5)
def _(scene):
    return scene.run("-m", "knowledge", "--tasks", "perplexity")


@row(
    "verdicts lost on the way to the report",
    "*selected, but no verdict arrived*",
    *ACCOUNTED,
)
def _(scene):
    from quantgate.reports.collector import Collector

    receive = Collector.pytest_runtest_logreport

    def half(self, report):
        if "rtn4" not in report.nodeid:
            receive(self, report)

    scene.monkeypatch.setattr(Collector, "pytest_runtest_logreport", half)
    return scene.run("--methods", "rtn8,rtn4", "--tasks", "kld")


@row(
    "a full disk while reporting",
    "*the report could not be written*",
    ("quantgate.reports.session._not_green", lambda original: lambda: 0),
    code=3,
)
def _(scene):
    from quantgate.core.errors import StoreError
    from quantgate.reports import directory

    write = directory.write_atomically

    def full(path, text):
        if path.name == "evidence.jsonl":
            raise StoreError(str(path), "cannot be written (No space left on device)")
        write(path, text)

    scene.monkeypatch.setattr(directory, "write_atomically", full)
    return scene.run("--tasks", "kld")


# --- the report, afterwards -----------------------------------------------------------------------------------------


@dataclass
class Printed:
    """A command's exit code and words in the shape of a pytester result."""

    ret: int
    text: str


ANOTHER_FILE = ("quantgate.verify._foreign", NO_LIST)
ANOTHER_VERDICT = ("quantgate.verify._differing", NO_LIST)
ANOTHER_RUN = tuple((f"quantgate.verify.{name}", NO_LIST) for name in ("_unsealed", "_derived", "_account"))


def _verified(scene, **changes):
    """``quantgate verify`` on a report whose files were edited after the run: file's stem -> what it becomes."""
    scene.run("--tasks", "kld", "--methods", "rtn8,rtn2")
    report = scene.root / "report"
    for path in (report / "report.json", report / "evidence.jsonl"):
        if path.stem in changes:
            before = path.read_text()
            path.write_text(changes[path.stem](before))
            assert path.read_text() != before
    words = io.StringIO()
    with contextlib.redirect_stdout(words):
        return Printed(cli.main(["verify", str(report)]), words.getvalue())


def _without_rtn2(text):
    content = json.loads(text)
    content["results"] = [each for each in content["results"] if each["method"] != "rtn2"]
    return json.dumps(content)


@row(
    "a verdict edited in the report",
    "*verdict is recorded as pass and comes out as regressed*",
    ANOTHER_VERDICT,
    *ANOTHER_RUN,
    REPORT_MD,
)
def _(scene):
    return _verified(scene, report=lambda text: text.replace('"verdict": "regressed"', '"verdict": "pass"'))


@row(
    "outcomes edited after the run",
    "*were changed after they were written*",
    ("quantgate.verify._altered", NO_LIST),
    ANOTHER_FILE,
    ANOTHER_VERDICT,
    *ANOTHER_RUN,
    REPORT_MD,
)
def _(scene):
    return _verified(scene, evidence=lambda text: text.replace(",0.0,", ",99.0,", 1))


@row(
    "a red case cut out of the report",
    "*rtn2 on kld_ptb: judged, but missing from the report*",
    ("quantgate.verify._lost", NO_LIST),
    *ANOTHER_RUN,
    REPORT_MD,
)
def _(scene):
    return _verified(scene, report=_without_rtn2)


@row(
    "a red case cut out of report and evidence",
    "*is not the file this report was written with*",
    ANOTHER_FILE,
    *ANOTHER_RUN,
    REPORT_MD,
)
def _(scene):
    def cut(text):
        return "".join(line for line in text.splitlines(keepends=True) if '"method":"rtn2"' not in line)

    return _verified(scene, report=_without_rtn2, evidence=cut)
