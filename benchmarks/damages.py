"""Damages to checkpoints that real tools wrote: what the audit finds, and whether the gate stops what it does not.

    python benchmarks/damages.py [--layouts a,b] [--no-gate] [--work DIR]

Every damage of ``tests/unit/checkpoints`` (tensors and the files beside them) is done to every layout kept in
``tests/data/checkpoints`` that has something of the kind, and looked into as ``quantgate audit`` does. Where the audit
has no error, the gate itself is run on it (``quantgate run -k kld --strict``, the policy as shipped). Changes that
compute the same must have no error. Prints a table; exits with 1 when a damage is green, or an honest checkpoint is
not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from quantgate.checkpoints.audit import whole_audit
from quantgate.checkpoints.findings import ERROR
from quantgate.core.errors import ModelError
from quantgate.models.files import tokenizer_files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.unit.checkpoints.damages import DAMAGES, HARMLESS, damaged  # noqa: E402
from tests.unit.checkpoints.file_damages import FILE_DAMAGES  # noqa: E402

DATA = ROOT / "tests" / "data" / "checkpoints"
REFERENCE = DATA / "reference"
NAME = "theirs"
NOTHING = "-"
SILENT = ""


def layouts() -> list[str]:
    """All quantized checkpoints that are kept."""
    return sorted(path.parent.name for path in DATA.glob("*/config.json") if path.parent != REFERENCE)


def whole(name: str, target: Path) -> Path:
    """A copy with the reference's tokenizer and generation settings beside it, as its tool would have written."""
    shutil.copytree(DATA / name, target)
    return beside(target)


def beside(target: Path) -> Path:
    for file in [*tokenizer_files(REFERENCE), REFERENCE / "generation_config.json"]:
        shutil.copyfile(file, target / file.name)
    return target


def made(name: str, kind: str, target: Path) -> bool:
    """The damage or change ``kind`` to the layout ``name`` in ``target``; False where it has nothing of the kind."""
    if kind in FILE_DAMAGES:
        return FILE_DAMAGES[kind](whole(name, target))
    if not damaged(DATA / name, target, kind):
        return False
    beside(target)
    return True


def said(path: Path) -> str:
    """Codes of the errors that the audit has, or that it cannot read the checkpoint; empty when it is silent."""
    try:
        found = whole_audit(path, REFERENCE, "candidate")
    except ModelError as error:
        return f"refused: {error.found}"
    refused = [each.sentence for each in found.findings if each.code == "not_scored"]
    if refused and not found.of_level(ERROR):
        return f"refused: {refused[0]}"
    return ", ".join(dict.fromkeys(each.code for each in found.of_level(ERROR)))


def gate(path: Path, work: Path) -> str:
    """The gate's verdict in words, or its exit code where it came to none."""
    report = work / "report"
    command = [
        sys.executable, "-m", "quantgate", "run", "-q", "--model", str(REFERENCE), "--candidate", f"{NAME}={path}",
        "-k", f"{NAME} and kld", "--limit", "64", "--strict", "--store", str(work / "store"),
        "--report-dir", str(report), "--offline",
    ]  # fmt: skip
    shutil.rmtree(report, ignore_errors=True)
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    results = json.loads((report / "report.json").read_text())["results"] if (report / "report.json").is_file() else []
    if not results:
        said = next((line for line in (done.stdout + done.stderr).splitlines() if f"'{NAME}'" in line), "")
        if not said:  # the command itself was wrong: nothing was judged
            raise RuntimeError(f"exit {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
        return f"exit {done.returncode}, {said}"
    return f"exit {done.returncode}, {results[0]['verdict']}: {results[0]['reason']}"


def rows(names: list[str], work: Path, gated: bool) -> Iterator[tuple[str, str, str, str]]:
    """``(layout, kind, what the audit says, what the gate says)`` for every pair that exists."""
    for name in names:
        for kind in [*DAMAGES, *FILE_DAMAGES, *HARMLESS]:
            target = work / "copy"
            shutil.rmtree(target, ignore_errors=True)
            if not made(name, kind, target):
                continue
            found = said(target)
            yield name, kind, found, gate(target, work) if gated and not found and kind not in HARMLESS else NOTHING


def verdicts(names: list[str], work: Path, gated: bool) -> bool:
    """Print every row that is of interest and the table; whether all is as it has to be."""
    found, green, alarms = Counter[tuple[str, str]](), [], []
    for name in names:
        codes = said(whole(name, work / f"whole-{name}"))
        if codes and not codes.startswith("refused: its declaration is not computed here"):
            alarms.append(f"{name} as it was written: {codes}")
    for name, kind, codes, verdict in rows(names, work, gated):
        if kind in HARMLESS:
            alarms += [f"{name}, {kind}: {codes}"] if codes else []
            found[name, "harmless"] += 1
            continue
        how = "refused" if codes.startswith("refused") else "error" if codes else "gate"
        found[name, how] += 1
        if codes == SILENT:
            print(f"the audit is silent: {name}, {kind}; gate: {verdict}", flush=True)
            green += [f"{name}, {kind}"] if verdict.startswith("exit 0") else []
    columns = ("error", "refused", "gate", "harmless")
    print(f"\n| layout | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for name in names:
        print(f"| {name} | {' | '.join(str(found[name, column]) for column in columns)} |")
    kinds = len(DAMAGES) + len(FILE_DAMAGES)
    total = sum(count for (_, column), count in found.items() if column != "harmless")
    print(f"\n{kinds} damages, {total} damaged checkpoints over {len(names)} layouts; green: {green or 'none'}")
    print(f"errors where nothing is wrong: {alarms or 'none'}")
    return not green and not alarms


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", default="", help="names of directories in tests/data/checkpoints, with commas")
    parser.add_argument("--no-gate", action="store_true", help="only the audit")
    parser.add_argument("--work", type=Path, help="where to write; a temporary directory without it")
    args = parser.parse_args()
    names = args.layouts.split(",") if args.layouts else layouts()
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        return int(not verdicts(names, Path(work), not args.no_gate))


if __name__ == "__main__":
    sys.exit(main())
