"""Kill the suite with SIGKILL at random moments while it quantizes, scores and writes its report; check every next run.

Each round starts from an empty store, is killed by ``tests/suite/killer.py`` at a seeded random point, and is run
again. The second run must exit 0 and give the same records as a run that nobody interrupted.

    python benchmarks/kill_resume.py --rounds 10
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
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


def run(arguments: list[str], store: Path, kill: str = "") -> subprocess.CompletedProcess[str]:
    plugin = ["-p", "tests.suite.killer"] if kill else []
    command = [sys.executable, "-m", "pytest", *plugin, "evals", *arguments, "--store", str(store)]
    environment = os.environ | {"QUANTGATE_KILL": kill, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def records(root: Path) -> list[dict[str, object]]:
    content = json.loads((root / "report" / "report.json").read_text())
    return [{key: value for key, value in row.items() if key not in VOLATILE} for row in content["results"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="kills per place")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    tally: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        arguments = prepare(root)
        assert run(arguments, root / "untouched").returncode == 0
        expected = records(root)
        for place, moments in PLACES.items():
            for number in range(options.rounds):
                store = root / f"{place}-{number}"
                (root / "report" / "report.json").unlink(missing_ok=True)
                killed = run(arguments, store, f"{place}:{generator.randrange(moments)}")
                again = run(arguments, store)
                right = killed.returncode == -9 and again.returncode == 0 and records(root) == expected
                said = any(word in again.stdout for word in ("rebuilding", "resuming"))
                tally[f"{place}: killed, then right"] += right
                tally[f"{place}: said what it rebuilt or resumed"] += said
    for line, count in tally.items():
        print(f"{line}: {count} of {options.rounds}")


if __name__ == "__main__":
    main()
