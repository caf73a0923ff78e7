"""The command line: ``quantgate COMMAND ...``, or ``python -m quantgate COMMAND ...``.

A new command is a module with ``add_arguments`` and ``run`` and a row in `COMMANDS`. Exit codes are those of the suite:
0 done, 1 failed, 4 wrong usage: also for models, data, checkpoints and policies that cannot be used, whoever made them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from quantgate import auditing, diagnose, doctor, export, inspecting, listing, search, starting, statistics, tune
from quantgate.core.configuration import configuration
from quantgate.core.errors import EngineError, QuantgateError, StoreError
from quantgate.core.progress import Progress
from quantgate.core.registry import check_packages
from quantgate.core.words import for_stream
from quantgate.fixtures import command as suite
from quantgate.fixtures.options import declared_options
from quantgate.reports import again, check, imported

_FAILED: Final = 1
_WRONG_USAGE: Final = 4
_CUT_SHORT: Final = 141  # what a shell shows of a command that SIGPIPE ended
_OF_THE_MACHINE: Final = (StoreError, EngineError)
"""What the same words may do without elsewhere, or later: everything else has to be given otherwise."""


@dataclass(frozen=True)
class Command:
    """``add_arguments`` declares the command's arguments, ``run`` does it and returns the exit code.

    ``forwards``: what is typed behind the name is not parsed here, only shown by ``--help``. ``configured``: arguments
    that quantgate.toml may give where nobody types them; the file is then checked as a run checks it.
    """

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Progress], int]
    forwards: bool = False
    configured: tuple[str, ...] = ()


COMMANDS: Final = (
    Command("run", "judge quantized models: the suite", suite.add_arguments, suite.run, forwards=True),
    Command("export", "write a quantized model that other runtimes load", export.add_arguments, export.run),
    Command("audit", "look into the files of a checkpoint before it is scored", auditing.add_arguments, auditing.run),
    Command("diagnose", "which parts of a quantized model make it differ", diagnose.add_arguments, diagnose.run),
    Command(
        "inspect",
        "block outputs, channels and losses by layer of several methods",
        inspecting.add_arguments,
        inspecting.run,
    ),
    Command(
        "search",
        "the smallest mixture of methods that passes the policy",
        search.add_arguments,
        search.run,
        configured=("policy",),
    ),
    Command(
        "tune",
        "adapters that make up for what a method loses, judged",
        tune.add_arguments,
        tune.run,
        configured=("policy",),
    ),
    Command(
        "statistics",
        "sum up a private text, for others to quantize without seeing it",
        statistics.add_arguments,
        statistics.run,
    ),
    Command(
        "list",
        "the methods, benchmarks, calibration sets, engines and models there are",
        listing.add_arguments,
        listing.run,
        configured=("task_file",),
    ),
    Command("doctor", "what a run would stumble over here", doctor.add_arguments, doctor.run),
    Command("init", "write what to judge, a policy and a workflow to begin with", starting.add_arguments, starting.run),
    Command("report", "make a run's files again, or show runs side by side", again.add_arguments, again.run),
    Command(
        "import",
        "judge two sample files of lm-eval, paired",
        imported.add_arguments,
        imported.run,
        configured=("policy",),
    ),
    Command("verify", "draw again all that a report shows, from its items", check.add_arguments, check.run),
)


class StderrProgress:
    """Steps as one line that overwrites itself on a terminal, and as one line each in a log; notes as lines.

    Nothing goes to stdout.
    """

    def __init__(self) -> None:
        self._begun = ""

    def step(self, what: str, done: float, total: float) -> None:
        """Show ``done`` of ``total``; where stderr is no terminal, only that ``what`` has begun."""
        if not sys.stderr.isatty():
            if what != self._begun:
                self._begun = what
                self.note(what)
        else:
            end = "\n" if done >= total else ""
            print(f"\r{what}: {done / max(total, 1):4.0%}", end=end, file=sys.stderr, flush=True)

    def note(self, message: str) -> None:
        """Say something at once."""
        print(for_stream(f"quantgate: {message}", sys.stderr), file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(_WRONG_USAGE, f"{self.prog}: {message}\n")


def version() -> str:
    """The installed version; of a clone that is not installed, what it would be."""
    try:
        return importlib.metadata.version("quantgate")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def build_parser() -> argparse.ArgumentParser:
    """The parser with one sub-parser a command; ``command`` of its result is the row."""
    parser = _Parser(prog="quantgate", description="May this quantized model replace its 16-bit original?")
    parser.add_argument("--version", action="version", version=f"quantgate {version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        own = commands.add_parser(command.name, help=command.summary, description=command.summary)
        command.add_arguments(own)
        own.set_defaults(command=command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its errors are one line on stderr, without a traceback."""
    args = _parsed(sys.argv[1:] if arguments is None else list(arguments))
    try:
        check_packages()
        progress = StderrProgress()
        _configure(args, progress)
        code: int = args.command.run(args, progress)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough (`| head`); Python would say so once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _CUT_SHORT
    except QuantgateError as error:
        print(for_stream(f"quantgate {args.command.name}: {error}", sys.stderr), file=sys.stderr)
        return _FAILED if isinstance(error, _OF_THE_MACHINE) else _WRONG_USAGE
    return code


def _configure(args: argparse.Namespace, progress: Progress) -> None:
    """Fill in what nobody typed and the configuration file says. Raises UsageError for what is wrong with the file."""
    if not args.command.configured:
        return
    file = configuration()
    for found in file.check(declared_options()):
        if found.dest in args.command.configured and not getattr(args, found.dest):
            setattr(args, found.dest, found.value)
            progress.note(f"{' '.join(found.words)}, as {file.name} says")


def _parsed(arguments: list[str]) -> argparse.Namespace:
    for command in COMMANDS:
        if command.forwards and arguments[:1] == [command.name] and not {"-h", "--help"} & set(arguments):
            return argparse.Namespace(command=command, arguments=arguments[1:])
    return build_parser().parse_args(arguments)
