"""Does a Ray cluster give the records of one process? With 1, 2 and 4 workers, and with a node killed in mid-run.

Command:
    pip install 'quantgate[ray]'
    python benchmarks/cluster.py [--methods rtn8,rtn4,int8,nf4] [--tasks truthfulqa,kld_prose] [--limit 16]

The bundled model is judged by ``--executor process``, then by ``--executor ray`` on clusters of `ray.cluster_utils`
with one processor a node, each time from an empty store. Compared are the lines of evidence.jsonl (the outcomes of all
items, in any order) and what each run took. Then a cluster of three nodes, one of which is killed as soon as a subject
lies in the store. Prints a line a run and exits 1 where evidence differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def run(args: Any, folder: Path, *more: str) -> subprocess.Popen[str]:
    """One run of the suite, begun."""
    words = ["--methods", args.methods, "--tasks", args.tasks, "--limit", str(args.limit)]
    words += ["--store", str(folder / "store"), "--report-dir", str(folder / "report")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "evals", *words, *more], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def evidence(folder: Path) -> list[str]:
    """The lines of items and cases, in an order of their own; seconds and places are no evidence."""
    lines = (folder / "report" / "evidence.jsonl").read_text(encoding="utf-8").splitlines()
    return sorted(line for line in lines if "outcomes" in json.loads(line) or "case" in json.loads(line))


def cluster_of(count: int) -> Any:
    """A cluster of ``count`` nodes with a processor each, and a head with none."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(count):
        cluster.add_node(num_cpus=1)
    return cluster


def on_cluster(args: Any, folder: Path, count: int, *, kill: bool) -> tuple[list[str], float]:
    """Evidence and seconds of a run on a cluster; ``kill``: one node goes as soon as a subject lies in the store."""
    cluster = cluster_of(count)
    try:
        started = time.monotonic()
        running = run(args, folder, "--executor", "ray", "--address", cluster.address)
        if kill:
            while running.poll() is None and not list((folder / "store" / "subjects").glob("*/entry.json")):
                time.sleep(0.5)
            cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        output, _ = running.communicate()
        seconds = time.monotonic() - started
    finally:
        cluster.shutdown()
    if running.returncode not in (0, 1):
        raise SystemExit(output[-3000:])
    return evidence(folder), seconds


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--methods", default="rtn8,rtn4,int8,nf4")
    parser.add_argument("--tasks", default="truthfulqa,kld_prose")
    parser.add_argument("--limit", type=int, default=16)
    args = parser.parse_args()
    os.environ.update({"RAY_worker_niceness": "0"})  # or whatever else runs here comes first
    with tempfile.TemporaryDirectory(prefix="quantgate-cluster-") as name:
        top = Path(name)
        started = time.monotonic()
        alone = run(args, top / "alone")
        output, _ = alone.communicate()
        if alone.returncode not in (0, 1):
            raise SystemExit(output[-3000:])
        wanted = evidence(top / "alone")
        print(f"one process: {len(wanted)} lines of evidence, {time.monotonic() - started:.0f} s", flush=True)
        wrong = 0
        for count, kill in ((1, False), (2, False), (4, False), (3, True)):
            found, seconds = on_cluster(args, top / f"{count}{kill}", count, kill=kill)
            same = found == wanted
            wrong += not same
            what = f"{count} workers{', one killed' if kill else ''}"
            print(f"{what}: evidence {'the same' if same else 'DIFFERS'}, {seconds:.0f} s", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
