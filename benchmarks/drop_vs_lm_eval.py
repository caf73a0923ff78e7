"""DROP's scores against lm-evaluation-harness's own code: what is said beside what is accepted, random and real.

Command:
    python benchmarks/drop_vs_lm_eval.py --utils LM_EVAL/tasks/drop/utils.py --data DIR [--pairs 200000]

``--utils``: that file of lm-eval 0.4.13, which needs numpy and scipy alone. Random texts are made of words that DROP's
rules treat apart (numbers, compounds, articles, punctuation); real ones are the accepted answers and what is near them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
from collections.abc import Iterator
from pathlib import Path

from quantgate.tasks.passages import drop_golds, drop_score

WORDS = "the a an 22-yard field goal 3 3.0 14 Losman J. P. 1,000 irish -5 nan 1e3 -- . !! Theresa and of 25 inf ½ é"


def made(count: int) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    draw, words = random.Random(0), WORDS.split()

    def text(most: int) -> str:
        return " ".join(draw.choice(words) for _ in range(draw.randint(0, most)))

    for _ in range(count):
        yield text(5), [tuple(text(4) for _ in range(draw.randint(1, 3))) for _ in range(draw.randint(1, 3))]


def real(data: Path) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    for line in (data / "ucinlp__drop" / "default" / "validation.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for said in (*row["answers"], f"{row['answers'][0]} yards", row["passage"].split(".")[0]):
            yield said, drop_golds(row)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--utils", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=200_000)
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location("peer", args.utils)
    assert spec is not None
    assert spec.loader is not None
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    count = differing = 0
    for said, golds in (*made(args.pairs), *real(args.data)):
        theirs = peer.process_results({"answers": golds}, [said])
        known = [gold for gold in golds if gold[0].strip()]
        ours = drop_score(said, known) if known else (0.0, 0.0)
        count += 1
        differing += (theirs["em"], round(float(theirs["f1"]), 2)) != ours
    print(f"{count} pairs, {differing} differ")


if __name__ == "__main__":
    main()
