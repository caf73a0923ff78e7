"""Kill the suite with SIGKILL at random moments; check that every next run gives what an uninterrupted one gives.

Each round starts from an empty store, is killed once, and is run again. Two ways to kill:

    python benchmarks/kill_resume.py --rounds 10
    python benchmarks/kill_resume.py --mode benchmark --rounds 10 [--model bundled]

``places``: by ``tests/suite/killer.py`` at a seeded random point while it quantizes, scores or writes its report. The
second run must exit 0 and give the same records.

``benchmark``: from outside, at a random moment between the first answer and the last, in the middle of tasks of every
kind (likelihood, generation, rolling) over the bundled items. The second run must exit as an uninterrupted one and give
the same records and the same outcome of every item, to the last bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
VOLATILE = {"seconds", "tokens", "from_cache", "reference_from"}
PLACES = {"quantize": 8, "score": 16, "report": 2}  # how many moments each place offers with the tiny model
POLICY = """schema = 1
[metrics.ppl]
margin = { relative = 0.05 }
min_items = 4
[metrics.kld_mean]
margin = { absolute = 0.05 }
min_items = 4
"""


def prepare(root: Path) -> list[str]:
    """Tiny model, tiny text and a policy; the command line that uses them."""
    from tests.conftest import make_model_dir

    make_model_dir(root / "model")
    generator = random.Random(1)
    words = ("sea", "ship", "sails", "north", "wind", "calm", "stone", "river", "old", "light", "moves", "bridge")
    folder = root / "data" / "ptb-text-only__ptb_text_only" / "penn_treebank"
    folder.mkdir(parents=True)
    for split in ("test", "train"):
        rows = [{"sentence": " ".join(generator.choice(words) for _ in range(12))} for _ in range(90)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "policy.toml").write_text(POLICY)
    options = {
        "--model": root / "model",
        "--data": root / "data",
        "--policy": root / "policy.toml",
        "--baselines": root / "baselines",
        "--report-dir": root / "report",
        "--calibration": "ptb",
        "--calibration-samples": "8",
        "--calibration-length": "64",
        "--tasks": "perplexity,kld",
        "--methods": "gptq4",
    }
    return [str(part) for pair in options.items() for part in pair]


def prepare_benchmark(root: Path, model: str, limit: int) -> list[str]:
    """The command line of tasks of every kind over the bundled items; of a tiny model unless another is named."""
    if model == "tiny":
        from tests.conftest import make_model_dir

        model = str(make_model_dir(root / "model"))
    options = {
        "--model": model,
        "--baselines": root / "baselines",
        "--report-dir": root / "report",
        "--calibration-samples": "8",
        "--tasks": "mmlu_cloze,truthfulqa_mc2,gsm8k,snli_strict,perplexity_prose,kld_prose",
        "--methods": "rtn4",
        "--limit": str(limit),
    }
    return [str(part) for pair in options.items() for part in pair]


def command_line(arguments: list[str], store: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "pytest", *more, "evals", *arguments, "--store", str(store), "-p", "no:cacheprovider"]


def run(arguments: list[str], store: Path, kill: str = "") -> subprocess.CompletedProcess[str]:
    command = command_line(arguments, store, *(["-p", "tests.suite.killer"] if kill else []))
    environment = os.environ | {"QUANTGATE_KILL": kill, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def answered(store: Path) -> tuple[int, int]:
    """Finished lists of answers, and answers in the journals of those that are not finished."""
    journals = [path.read_bytes().count(b"\n") for path in (store / "journals").glob("*.jsonl")]
    return len(list((store / "responses").glob("*"))), sum(journals)


def run_until(arguments: list[str], store: Path, moment: float) -> tuple[int, float]:
    """Run, and kill ``moment`` seconds after the first answer; exit code, and seconds from the first to the last."""
    process = subprocess.Popen(
        command_line(arguments, store),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    seen, first, last = (0, 0), 0.0, 0.0
    while process.poll() is None:
        now, found = time.perf_counter(), answered(store)
        first = first or (now if found != seen else 0.0)
        seen, last = found, now if found != seen else last
        if first and now - first >= moment:
            process.kill()
        time.sleep(0.01)
    return process.returncode, last - first


def records(root: Path) -> list[dict[str, object]]:
    content = json.loads((root / "report" / "report.json").read_text())
    return [{key: value for key, value in row.items() if key not in VOLATILE} for row in content["results"]]


def outcomes(root: Path) -> tuple[list[dict[str, object]], str]:
    """Records, and the digest of the outcomes of all items."""
    lines = (root / "report" / "evidence.jsonl").read_text().splitlines()
    # the last line seals the report, and with it its time
    return records(root), hashlib.sha256("\n".join(lines[:-1]).encode()).hexdigest()


def kill_at_places(root: Path, rounds: int, generator: random.Random) -> None:
    arguments = prepare(root)
    assert run(arguments, root / "untouched").returncode == 0
    expected, tally = records(root), Counter()
    for place, moments in PLACES.items():
        for number in range(rounds):
            store = root / f"{place}-{number}"
            (root / "report" / "report.json").unlink(missing_ok=True)
            killed = run(arguments, store, f"{place}:{generator.randrange(moments)}")
            again = run(arguments, store)
            right = killed.returncode == -9 and again.returncode == 0 and records(root) == expected
            said = any(word in again.stdout for word in ("rebuilding", "resuming"))
            tally[f"{place}: killed, then right"] += right
            tally[f"{place}: said what it rebuilt or resumed"] += said
    for line, count in tally.items():
        print(f"{line}: {count} of {rounds}")


def kill_mid_benchmark(root: Path, rounds: int, generator: random.Random, model: str, limit: int) -> None:
    arguments = prepare_benchmark(root, model, limit)
    code, seconds = run_until(arguments, root / "untouched", moment=1e6)
    expected, equal = outcomes(root), 0
    print(f"uninterrupted: exit code {code}, {seconds:.1f} s from the first answer to the last")
    for number in range(rounds):
        store, killed, moment = root / f"round-{number}", 0, 0.0
        while killed != -9:  # a run may be done before its moment
            shutil.rmtree(store, ignore_errors=True)
            moment = generator.uniform(0, seconds)
            (root / "report" / "report.json").unlink(missing_ok=True)
            killed, _ = run_until(arguments, store, moment)
        lists, answers = answered(store)
        again = run(arguments, store)
        resumed = re.findall(r"resuming (.+?): (\d+ of \d+) answers were kept", again.stdout + again.stderr)
        same = again.returncode == code and outcomes(root) == expected
        equal += same
        kept = "; ".join(f"{what} {count}" for what, count in dict.fromkeys(resumed)) or "nothing half done"
        print(
            f"killed after {moment:5.1f} s with {lists:2d} lists of answers done and {answers:3d} answers in journals; "
            f"resumed {kept}: {'equal' if same else 'DIFFERENT'}",
            flush=True,
        )
    print(f"equal to the uninterrupted run: {equal} of {rounds}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("places", "benchmark"), default="places")
    parser.add_argument("--rounds", type=int, default=10, help="kills, per place")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="tiny", help="of the mode benchmark: tiny, bundled or a directory")
    parser.add_argument("--limit", type=int, default=64, help="items a task in the mode benchmark")
    options = parser.parse_args()
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        if options.mode == "places":
            kill_at_places(Path(name), options.rounds, generator)
        else:
            kill_mid_benchmark(Path(name), options.rounds, generator, options.model, options.limit)


if __name__ == "__main__":
    main()
