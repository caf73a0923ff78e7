"""Whether two reports say the same: ``python benchmarks/same_report.py OLD NEW`` (directories of reports).

The evidence must be equal line by line, but for the seal in its last line. report.json must be equal but for times,
where answers came from, the commit and the command, and for fields that only the newer schema has; those are listed.
Exits 1 when anything else differs. For changes of the code that must not change what it says: run both on one machine,
with the quantized models of one store.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOVING = {"seconds", "from_cache", "quantize_seconds", "id", "started", "finished", "sha256", "files", "environment"}
MOVING |= {"evidence", "schema", "notes", "phases"}


def differing(old: Any, new: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """(place, what) of everything that differs; ``what`` begins with ``only in`` for a field of one side."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            inner = f"{place}.{name}".lstrip(".")
            if name in MOVING:
                continue
            if name not in old or name not in new:
                yield inner, f"only in the {'new' if name in new else 'old'} report"
            else:
                yield from differing(old[name], new[name], inner)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for at, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differing(before, after, f"{place}[{at}]")
    elif old != new:
        yield place, f"{str(old)[:60]} -> {str(new)[:60]}"


def evidence(directory: Path) -> list[Any]:
    """The lines of the evidence without seals, which hold times by way of the report."""
    lines = (directory / "evidence.jsonl").read_text(encoding="utf-8").splitlines()
    return [content for line in lines if "report" not in (content := json.loads(line))]


def main() -> int:
    """Print what differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    args = parser.parse_args()
    before, after = evidence(args.old), evidence(args.new)
    found = [("evidence.jsonl", f"{len(before)} lines -> {len(after)}")] if len(before) != len(after) else []
    for at, (old, new) in enumerate(zip(before, after, strict=False)):
        found += [(f"evidence.jsonl line {at + 1}: {place}", what) for place, what in differing(old, new)]
    reports = (json.loads((each / "report.json").read_text(encoding="utf-8")) for each in (args.old, args.new))
    found += differing(*reports)
    for place, what in found:
        print(f"{place}: {what}")
    changed = [what for _, what in found if what != "only in the new report"]
    print(f"{len(before)} lines of evidence, {len(changed)} differences, {len(found) - len(changed)} new fields")
    return int(bool(changed))


if __name__ == "__main__":
    raise SystemExit(main())
