"""Does every sabotage test the guard it names? Runs the rows twice: as they are, and with their guards out of order.

    python benchmarks/mutation_check.py [-k WORDS]

With its guards a row must end red, with its sentence; without them the same run must be green (exit code 0), or the
row would be red whatever the guard does. Prints a table and exits 1 if a row fails either way. About eight minutes on
one core.
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-k", dest="words", default="", help="only rows whose test names match, as in pytest")
    words = parser.parse_args().words
    whole, broken = endings(words, broken=False), endings(words, broken=True)
    survivors = 0
    print("| sabotage | with its guard | it says | guard | without it |\n|---|---|---|---|---|")
    for name, with_guard in whole.items():
        without = broken.get(name)
        wrong = not with_guard.passed or (without is not None and without.code != "0")
        survivors += wrong
        ending = without.words if without else "not ours to break"
        guards = with_guard.guards.replace("quantgate.", "") or "pytest's own"
        cells = (name, with_guard.words, with_guard.says.strip("*").replace("*", " ... "), guards, ending)
        print("| " + " | ".join(cells) + (" **WRONG** |" if wrong else " |"))
    print(f"\n{len(whole)} rows, {len(broken)} with a guard of ours, {survivors} wrong")
    return 1 if survivors or not whole else 0


if __name__ == "__main__":
    sys.exit(main())
