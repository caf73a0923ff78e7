"""1,000 items of a served candidate: the client is killed ten times, the server three times; nothing may change.

    python benchmarks/kill_served.py --items 1000 --client-kills 10 --server-kills 3

A server of our tests (its model is a table, so that every answer is known exactly) and the suite are processes of their
own. Both are ended by SIGKILL at seeded random counts of answers. A killed client is started again on the same store,
and a killed server on the same port while the client asks on. At the end the records and the outcome
of every item must equal those of a run that nothing disturbed.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
DIALECT = "vllm"


def serve(port: int, pause: float) -> None:
    """Serve until killed; ``pause``: seconds that every answer takes."""
    from tests.conftest import make_tokenizer
    from tests.unit.engines.servers import SCORING, serving

    with serving(DIALECT, make_tokenizer(), port=port) as server:
        plain = server.answer

        def slow(path: str, body: object) -> object:
            time.sleep(pause if path in SCORING else 0.0)
            return plain(path, body)

        server.answer = slow
        time.sleep(1e6)


def started_server(port: int, pause: float) -> subprocess.Popen[bytes]:
    """A server that answers already."""
    found = subprocess.Popen([sys.executable, __file__, "--serve", str(port), "--pause", str(pause)])
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return found


def prepare(root: Path, items: int, port: int) -> list[str]:
    """A tiny model, as many questions as wanted, and the command line that asks them."""
    import json

    from tests.conftest import make_model_dir

    make_model_dir(root / "model", layers=1)
    folder = root / "data" / "truthfulqa__truthful_qa" / "multiple_choice"
    folder.mkdir(parents=True)
    rows = []
    for number in range(items):
        targets = {"choices": [f"It is {number}.", f"Never {number}!"], "labels": [1, 0]}
        rows.append({"question": f"Is it {number}?", "mc1_targets": targets, "mc2_targets": targets})
    (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {
        "--model": root / "model",
        "--data": root / "data",
        "--baselines": root / "baselines",
        "--report-dir": root / "report",
        "--tasks": "truthfulqa",
        "--candidate": f"live=http://127.0.0.1:{port}",
    }
    return [str(part) for pair in options.items() for part in pair]


def answered(store: Path) -> int:
    """Answers in the longest journal, once the reference is done: the server's."""
    if len(list((store / "responses").glob("*"))) < 2:  # the reference's, and those of its noise
        return 0
    return max((path.read_bytes().count(b"\n") for path in (store / "journals").glob("*.jsonl")), default=0)


def client(arguments: list[str], store: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pytest", "evals", *arguments, "--store", str(store), "-p", "no:cacheprovider"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with store.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def disturbed(arguments: list[str], store: Path, acts: list[tuple[int, str]], port: int, pause: float) -> int:
    """Run to the end through all ``acts`` (a count of answers, and who is killed then); the last exit code."""
    server, running, found = started_server(port, pause), client(arguments, store), 0
    for count, who in acts:
        while running.poll() is None and answered(store) < max(count, found + 1):  # whoever comes back gets to work
            time.sleep(0.005)
        if running.poll() is not None:
            print(f"the client ended ({running.returncode}) before {count} answers were there", flush=True)
            print(store.with_suffix(".log").read_text()[-2000:], flush=True)
            break
        found = answered(store)
        if who == "server":
            server.kill()
            server.wait()
            time.sleep(1.0)
            server = started_server(port, pause)
        else:
            running.kill()
            running.wait()
            running = client(arguments, store)
        print(f"killed the {who} at {found} answers", flush=True)
    code = running.wait()
    server.kill()
    return code


def _parts(found: tuple[int, tuple[object, object]]) -> tuple[object, object, object]:
    return found[0], *found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--client-kills", type=int, default=10)
    parser.add_argument("--server-kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds that the server takes for an answer")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.pause)
        return
    from benchmarks.kill_resume import outcomes

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    draw = random.Random(args.seed)
    whom = ["client"] * args.client_kills + ["server"] * args.server_kills
    draw.shuffle(whom)
    counts = sorted(draw.sample(range(1, 2 * args.items * 9 // 10), len(whom)))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        arguments = prepare(root, args.items, port)
        found = []
        for acts in ([], list(zip(counts, whom, strict=True))):
            began = time.monotonic()
            code = disturbed(arguments, root / f"store-{len(found)}", acts, port, args.pause)
            found.append((code, outcomes(root)))
            print(f"exit code {code} after {time.monotonic() - began:.0f} s and {len(acts)} kills", flush=True)
            (root / "report" / "report.json").rename(root / f"report-{len(found)}.json")
        [record] = found[0][1][0]
        print(f"{record['n_items']} items, value {record['value']}: {record['verdict']}")
        for name, one, two in zip(("exit code", "records", "outcomes"), *map(_parts, found), strict=True):
            print(f"{name}: {'equal to the undisturbed run' if one == two else f'DIFFERENT: {one} and {two}'}")


if __name__ == "__main__":
    main()
