"""How many faults would the tests notice? A random sample of mutants by Cosmic Ray, where numbers come from.

    pip install cosmic-ray==8.7.0      # beside what `make test` needs
    python benchmarks/mutation_score.py --out DIR [--count 400] [--seed 0] [--minutes 60]
    python benchmarks/mutation_score.py --out DIR --table

Cosmic Ray says where a function can be changed and how (comparisons, operators, numbers, booleans, loops, ...). Places
are drawn from all functions of all files alike, and at each place one of the changes that make another program.

pytest collects the near tests once, unbroken. Each mutant is then a forked process in which the changed functions get
their new code, whoever holds them; it meets the tests of its file (those called like it, those that import it, those
that import what imports it, and so on where that is nobody) until one goes red or they have taken `MOST_S` seconds of
CPU; then it survived, though a test that had no turn might notice. A test that goes red without the mutant too counts
for nothing, and one that never ends counts as noticed. What runs on import alone (constants, defaults, tables) is not
changed. What is done is kept in DIR: a run goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import ast
import gc
import itertools
import json
import os
import random
import re
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("quantgate/verdict", "quantgate/store", "quantgate/quantize/numerics", "quantgate/engines/torch")
NEAR = ("tests/unit/verdict", "tests/unit/store", "tests/unit/quantize", "tests/unit/engines", "tests/property")
MOST_S = 6
LATE_S = 40
SEEN, LEFT = 1, 0  # exit codes of a mutant's process


@dataclass(frozen=True)
class Change:
    """Cosmic Ray's ``occurrence`` of ``operator`` in ``file``, in line ``line``."""

    file: str
    operator: str
    occurrence: int
    line: int

    @property
    def key(self) -> str:
        return f"{self.file}:{self.operator}:{self.occurrence}"


# --- the sample -------------------------------------------------------------------------------------------------------


@cache
def source(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def places(file: str) -> list[list[Change]]:
    """Every place of ``file`` that can be changed, with the changes there."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    found: dict[object, list[Change]] = {}
    names = [name for name in operator_names() if name != "core/NoOp" and not get_operator(name).arguments()]
    operators, seen = {name: get_operator(name)() for name in names}, Counter[str]()
    for node in ast_nodes(get_ast(source(file))):
        for name, operator in operators.items():
            for place in operator.mutation_positions(node):
                found.setdefault(place, []).append(Change(file, name, seen[name], place[0][0]))
                seen[name] += 1
    return [found[place] for place in sorted(found)]


def mutated(change: Change) -> str | None:
    """The file's text with the change; None where Cosmic Ray cannot make it, or it is no program."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    try:
        after = mutate_code(source(change.file), get_operator(change.operator)(), change.occurrence)
        ast.parse(after or "(")
    except (SyntaxError, AttributeError):
        return None
    return after


def codes(text: str, file: str) -> dict[tuple[str, int], CodeType]:
    """Every function's code by its name and line; the module's own is ``("", 0)``."""
    found: dict[tuple[str, int], CodeType] = {}

    def walk(code: CodeType, key: tuple[str, int]) -> None:
        found[key] = code
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                walk(inner, (inner.co_qualname, inner.co_firstlineno))

    walk(compile(text, str(ROOT / file), "exec"), ("", 0))
    return found


def own(code: CodeType) -> tuple[object, ...]:
    """What a code does, the functions inside it left out."""
    inner = tuple(repr(each) for each in code.co_consts if not isinstance(each, CodeType))
    return code.co_code, inner, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars


def patch(change: Change, after: str) -> dict[tuple[str, int], CodeType]:
    """The changed functions' new code; empty where nothing or more than functions changed."""
    old, new = codes(source(change.file), change.file), codes(after, change.file)
    if set(old) != set(new):
        return {}
    differing = [key for key in old if own(old[key]) != own(new[key])]
    functions = [key for key in differing if old[key].co_flags & 0x2]  # newlocals: a class's or a module's has it not
    if not functions or len(functions) < len(differing):
        return {}
    # those around a changed one hold it among their constants
    around = {key for key in old for each in functions if each[0].startswith(f"{key[0]}.<locals>.")}
    return {key: new[key] for key in {*functions, *around} if old[key].co_flags & 0x2}


def files_of_rooms() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def drawn(count: int, seed: int) -> Iterator[tuple[Change, str, dict[tuple[str, int], CodeType]]]:
    """``count`` places of all files alike, one change at each."""
    files = files_of_rooms()
    every = [changes for file in files for changes in places(file)]
    random.Random(seed).shuffle(every)
    print(f"{len(every)} places in {len(files)} files", flush=True)
    taken = 0
    for changes in every:
        for change in random.Random(f"{seed} {changes[0].key}").sample(changes, len(changes)):
            if (after := mutated(change)) and (codes_ := patch(change, after)):
                yield change, after, codes_
                taken += 1
                break
        if taken == count:
            return


# --- the tests --------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Runner:
    """A plugin of pytest: when all is collected it runs mutants instead of tests."""

    options: argparse.Namespace
    done: set[str]
    kept: Path
    red: bool = False
    _sound: dict[str, bool] = field(default_factory=dict)
    _working: dict[int, dict[str, object]] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.red = self.red or report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        until = time.monotonic() + 60 * self.options.minutes
        self.items = list(session.items)
        self.texts = {item.path: item.path.read_text(encoding="utf-8") for item in self.items}
        self._warm(session)
        gc.disable()
        gc.unfreeze()  # tests/conftest.py freezes what is collected, and what is frozen is not listed
        self.functions = [each for each in gc.get_objects() if isinstance(each, FunctionType)]
        gc.freeze()
        for change, after, new in drawn(self.options.count, self.options.seed):
            if change.key in self.done:
                continue
            while len(self._working) >= self.options.workers:
                self._gather()
            if time.monotonic() > until:
                break
            self._begin(change, after, new)
        while self._working:
            self._gather()
        return True

    def _warm(self, session: pytest.Session) -> None:
        """Makes what is made once a session: one test for each such fixture."""
        made: set[str] = set()
        chosen: list[pytest.Item] = []
        for item in self.items:
            definitions = item._fixtureinfo.name2fixturedefs.items()
            shared = {name for name, found in definitions if found[-1].scope == "session"}
            if not shared <= made:
                made |= shared
                chosen.append(item)
        for item, after in zip(chosen, [*chosen[1:], session], strict=True):
            item.ihook.pytest_runtest_protocol(item=item, nextitem=after)

    def near(self, file: str) -> list[pytest.Item]:
        """The tests of a file, the nearest first."""
        called = [path for path in self.texts if path.stem.removeprefix("test_") == Path(file).stem]
        rank = {path: 0 for path in called if path.parent.name in file}
        ring, met = {file}, {file}
        for distance in itertools.count(1):
            for path, text in self.texts.items():
                if any(names(text, each) for each in ring):
                    rank.setdefault(path, distance)
            ring = {other for each in ring for other in importers(each)} - met
            met |= ring
            if not ring or (rank and distance >= 2):
                break
        return sorted((item for item in self.items if item.path in rank), key=lambda item: rank[item.path])

    def _begin(self, change: Change, after: str, new: dict[tuple[str, int], CodeType]) -> None:
        pairs = zip(source(change.file).split("\n"), after.split("\n"), strict=False)
        was, now = next(((a.strip(), b.strip()) for a, b in pairs if a != b), ("", ""))
        reading, writing = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if not child:
            os.close(reading)
            self._run(change, new, writing)
        os.close(writing)
        self._working[child] = {
            **asdict(change), "was": was, "now": now, "pipe": reading, "begun": time.monotonic()
        }  # fmt: skip

    def _run(self, change: Change, new: dict[tuple[str, int], CodeType], pipe: int) -> None:
        """In the mutant's process: never returns."""
        try:
            self._quiet()
            self._meet(change, new, pipe)
        except BaseException:  # noqa: BLE001 - it must not go on as its parent does
            os.write(pipe, traceback.format_exc()[-1500:].encode())
        os._exit(4)

    def _meet(self, change: Change, new: dict[tuple[str, int], CodeType], pipe: int) -> None:
        if not self._apply(change.file, new):
            os.write(pipe, b"nobody holds the function")
            os._exit(3)
        items, count = self.near(change.file), 0
        for item, after in zip(items, [*items[1:], None][: len(items)], strict=True):
            if time.process_time() > MOST_S:
                break
            count += 1
            item.ihook.pytest_runtest_protocol(item=item, nextitem=after)
            if self.red:
                os.write(pipe, item.nodeid.encode())
                os._exit(SEEN)
        os.write(pipe, f"{count} of {len(items)} tests".encode())
        os._exit(LEFT)

    def _quiet(self) -> None:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (LATE_S, LATE_S + 5))
        self.red = False

    def _apply(self, file: str, new: dict[tuple[str, int], CodeType]) -> bool:
        """Gives the changed functions their new code, whoever holds them."""
        found = False
        for function in self.functions:
            code = function.__code__
            key = (code.co_qualname, code.co_firstlineno)
            if key in new and code.co_filename.endswith(file) and code.co_freevars == new[key].co_freevars:
                function.__code__ = new[key]
                found = True
        return found

    def _gather(self) -> None:
        """Waits for one mutant and keeps how it ended."""
        child, status = os.waitpid(-1, 0)
        row = self._working.pop(child)
        with os.fdopen(int(str(row.pop("pipe"))), "rb") as pipe:
            told = pipe.read().decode()
        code = os.waitstatus_to_exitcode(status)
        end = {SEEN: "noticed", LEFT: "survived", 3: "unheld", 4: "broken"}.get(code, "late")
        if end == "noticed" and not self._is_sound(told):
            end = "spoilt"
        if end == "survived" and told.startswith("0 of 0"):
            end = "untested"
        row |= {"end": end, "by": told, "seconds": round(time.monotonic() - float(str(row.pop("begun"))), 1)}
        with self.kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _is_sound(self, nodeid: str) -> bool:
        """Whether a test is green without any mutant."""
        if nodeid not in self._sound:
            child = os.fork()
            if not child:
                self._quiet()
                item = next(each for each in self.items if each.nodeid == nodeid)
                item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
                os._exit(int(self.red))
            self._sound[nodeid] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        return self._sound[nodeid]


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def names(text: str, file: str) -> bool:
    """Whether ``text`` imports the module in ``file``."""
    module = module_of(file)
    room, _, name = module.rpartition(".")
    return name in text and bool(
        re.search(rf"\b{re.escape(module)}\b", text) or re.search(rf"from {re.escape(room)} import .*\b{name}\b", text)
    )


@cache
def importers(file: str) -> list[str]:
    """Files of the library that import the one in ``file``."""
    paths = sorted((ROOT / "quantgate").rglob("*.py"))
    every = [str(path.relative_to(ROOT)) for path in paths if ROOT / "quantgate" / "evals" not in path.parents]
    return [each for each in every if each != file and names(source(each), file)]


def near_tests() -> list[Path]:
    """The files of tests that name one of the rooms."""
    files = sorted(path for room in NEAR for path in (ROOT / room).rglob("test_*.py"))
    return [path for path in files if any(room.replace("/", ".") in path.read_text() for room in ROOMS)]


def key_of(row: dict[str, object]) -> str:
    return f"{row['file']}:{row['operator']}:{row['occurrence']}"


def table(rows: list[dict[str, object]]) -> str:
    """Per room: mutants, noticed, survivors; and the survivors."""
    lines = ["| room | mutants | noticed | survived | noticed, % |", "|---|---|---|---|---|"]
    for room in (*ROOMS, ""):
        ends = Counter(str(row["end"]) for row in rows if str(row["file"]).startswith(room))
        seen, left = ends["noticed"] + ends["late"], ends["survived"] + ends["untested"]
        if total := seen + left:
            cells = (f"`{room}`" if room else "all", total, seen, left, f"{100 * seen / total:.1f}")
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    left_ = [row for row in rows if row["end"] not in ("noticed", "late")]
    shown = [
        f"{row['file']}:{row['line']}: {row['was']}  ->  {row['now']}  ({row['end']}, {row['by']})" for row in left_
    ]
    return "\n".join([*lines, "", *sorted(shown)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where results are kept")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="no mutant is begun after that")
    parser.add_argument("--workers", type=int, default=1, help="mutants at a time")
    parser.add_argument("--table", action="store_true", help="print what is kept")
    options = parser.parse_args()
    kept = options.out.resolve() / "results.jsonl"
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.is_file() else []
    found = {key_of(row): row for row in map(json.loads, lines)}  # what could not be judged is tried again
    rows = list(found.values())
    if options.table:
        print(table(rows))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    done = {key for key, row in found.items() if row["end"] != "broken"}
    wanted = [str(path) for path in near_tests()]
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    arguments = [*wanted, "-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow and not gpu"]
    return int(pytest.main(arguments, plugins=[Runner(options, done, kept)]))


if __name__ == "__main__":
    sys.exit(main())
