"""Does every guard have a test that needs it? Breaks them one after another and looks at what goes red.

    python benchmarks/mutation_check.py [-k WORDS] [--broken-only] [--only rows|mutants]

First the rows of tests/suite/sabotage*, twice: as they are, and with their guards out of order. With its guards a row
must end red, with its sentence; without them the same run must be green (exit code 0), or the row would be red whatever
the guard does. Then the mutants of mutants.py: the narrowest tests must go red when a clause of a guard is broken.
Prints tables and exits 1 if a row fails either way or a mutant survives. About a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks import mutants_run  # noqa: E402  # found from wherever this is started

ROWS = ("-m", "pytest", "tests/suite/test_sabotage.py", "-q", "--tb=no", "-p", "no:cacheprovider")
ENDS = {"0": "green", "1": "red", "3": "red (3, broken off)", "4": "refused (4)", "5": "nothing selected (5)"}


@dataclass(frozen=True)
class Ending:
    """How one row ended: its test's result, and the exit code of the gate it ran (empty when it got that far not)."""

    guards: str
    says: str
    code: str
    passed: bool

    @property
    def words(self) -> str:
        return ENDS.get(self.code, f"exit {self.code}" if self.code else "an error")


def endings(words: str, *, broken: bool) -> dict[str, Ending]:
    """Row -> ending, of one run over the rows."""
    chosen = "ends_red" + (f" and ({words})" if words else "")
    environment = {name: value for name, value in os.environ.items() if name != "QUANTGATE_BREAK_GUARDS"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.xml"
        command = [sys.executable, *ROWS, "-k", chosen, "--junitxml", str(path)]
        environment |= {"QUANTGATE_BREAK_GUARDS": "1"} if broken else {}
        subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr, check=False)
        cases = ET.parse(path).getroot().iter("testcase")
        return dict(_ending(case) for case in cases if case.find("skipped") is None)


def _ending(case: ET.Element) -> tuple[str, Ending]:
    found = {each.get("name", ""): each.get("value", "") for each in case.iter("property")}
    passed = case.find("failure") is None and case.find("error") is None
    return found["row"], Ending(found["guards"], found["says"], found.get("exit", ""), passed)


def line(name: str, whole: Ending | None, broken: Ending | None) -> tuple[str, bool]:
    """The row of the table, and whether it is as it should be."""
    known = whole or broken
    assert known is not None
    good = (whole is None or whole.passed) and (broken is None or broken.code == "0")
    guards = known.guards.replace("quantgate.", "") or "pytest's own"
    says = known.says.strip("*").replace("*", " ... ")
    without = broken.words if broken else "not ours to break"
    cells = (name, whole.words if whole else "not run", says, guards, without)
    return "| " + " | ".join(cells) + (" |" if good else " **WRONG** |"), good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-k", dest="words", default="", help="only rows whose test names match, as in pytest")
    parser.add_argument("--broken-only", action="store_true", help="leave the rows as they are to `make test`")
    parser.add_argument("--only", choices=("rows", "mutants"), help="one of the two parts")
    options = parser.parse_args()
    wrong = 0 if options.only == "mutants" else rows(options)
    if options.only != "rows":
        print("| mutant | its tests | time |\n|---|---|---|", flush=True)
        count, missed = mutants_run.survivors(options.words)
        print(f"\n{count} mutants, {len(missed)} not caught", *(mutant.name for mutant in missed), sep="\n  ")
        wrong += len(missed)
    return 1 if wrong else 0


def rows(options: argparse.Namespace) -> int:
    """Runs the rows and prints their table; how many are wrong (1 when none was found)."""
    whole = {} if options.broken_only else endings(options.words, broken=False)
    broken = endings(options.words, broken=True)
    names = list(dict.fromkeys([*whole, *broken]))
    lines = [line(name, whole.get(name), broken.get(name)) for name in names]
    print("| sabotage | with its guard | it says | guard | without it |\n|---|---|---|---|---|")
    print("\n".join(text for text, _ in lines))
    wrong = sum(not good for _, good in lines)
    print(f"\n{len(lines)} rows, {len(broken)} with a guard of ours, {wrong} wrong")
    return wrong if lines else 1


if __name__ == "__main__":
    sys.exit(main())
