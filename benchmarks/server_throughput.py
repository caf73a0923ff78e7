"""Answers a second from one llama.cpp server: quantgate's client beside lm-eval's on the same prompts.

    python benchmarks/server_throughput.py http://127.0.0.1:8080 --peer VENV/bin/python --data DIR --model DIR

The peer's Python needs lm-eval 0.4.13 with ``[api]`` and transformers; it runs this same file and gets the prompts as
JSON. ``--model``: the served model's small files. Both write greedy answers to questions of gsm8k, as many in flight as
the server has slots, and take turns (ours, peer, peer, ours), each pair on prompts that the server has not seen: the
first one of a pair has them read, the second finds them in the cache. Options cannot be compared: the peer's
`local-completions` wants ``echo``, which llama.cpp ignores; what it makes of that is printed. What the server says of
its own speed stands beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STOP = "\n\n\n\n"


def peer(file: Path) -> None:
    """Run in the peer's Python: answer ``file``'s prompts, and print what came of it as JSON."""
    asked = json.loads(file.read_text(encoding="utf-8"))
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    client = LocalCompletionsAPI(
        model="served", base_url=f"{asked['address']}/v1/completions", tokenizer=asked["model"],
        tokenizer_backend="huggingface", num_concurrent=asked["slots"], tokenized_requests=False, max_retries=2,
    )  # fmt: skip
    settings = {"until": [STOP], "max_gen_toks": asked["new"], "do_sample": False, "temperature": 0.0}
    wanted = [Instance("generate_until", {}, (text, dict(settings)), at) for at, text in enumerate(asked["prompts"])]
    started = time.perf_counter()
    answers = client.generate_until(wanted, disable_tqdm=True)
    seconds = time.perf_counter() - started
    try:
        pair = Instance("loglikelihood", {}, (asked["prompts"][0], " yes"), 0)
        options = repr(client.loglikelihood([pair], disable_tqdm=True))
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        options = f"{type(error).__name__}: {error}"
    print(json.dumps({"answers": answers, "seconds": seconds, "options": options}))


def asked_of_peer(python: Path, asked: dict[str, Any]) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asked, file)
        file.flush()
        command = [str(python), __file__, "", "--as-peer", file.name]
        told = subprocess.run(command, capture_output=True, check=False, text=True)
    if told.returncode:
        sys.exit(told.stderr[-2000:])
    return dict(json.loads(told.stdout.splitlines()[-1]))


def ours(asked: dict[str, Any]) -> dict[str, Any]:
    """The same by quantgate's engine."""
    sys.path.insert(0, str(ROOT))
    from quantgate.core.progress import Silent
    from quantgate.core.remote import Remote
    from quantgate.core.requests import Generate
    from quantgate.engines.http.probe import probe
    from quantgate.engines.http.row import HttpEngine
    from quantgate.engines.protocol import Job
    from quantgate.models.loading import load_tokenizer

    tokenizer = load_tokenizer(Path(asked["model"]), "model")
    server = probe(Remote(asked["address"], "the server"), "", tokenizer)
    requests = [Generate(tuple(tokenizer.encode(text)), asked["new"], (STOP,)) for text in asked["prompts"]]
    answers: dict[int, Any] = {}
    engine = HttpEngine(server, server.canary())
    started = time.perf_counter()
    engine.run(requests, answers.__setitem__, Job("throughput", Silent()))
    seconds = time.perf_counter() - started
    return {"answers": [answers[at].text for at in range(len(requests))], "seconds": seconds,
            "in flight": engine.flight.limit, "made": sum(each.n_tokens for each in answers.values())}  # fmt: skip


def own_speed(address: str, prompt: str) -> dict[str, float]:
    """What the server says of itself: tokens a second read and written, with one question in flight."""
    body = json.dumps({"prompt": prompt, "n_predict": 64, "cache_prompt": False, "ignore_eos": True}).encode()
    asked = urllib.request.Request(f"{address}/completion", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=600) as reply:
        timings = json.loads(reply.read())["timings"]
    return {name: round(timings[name], 1) for name in ("prompt_per_second", "predicted_per_second")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--limit", type=int, default=40, help="questions of each half")
    parser.add_argument("--new", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--as-peer", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_peer:
        peer(args.as_peer)
        return
    file = args.data / "openai__gsm8k" / "main" / "test.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[: 2 * args.limit + 1]]
    *prompts, last = [f"Question: {row['question']}\nAnswer:" for row in rows]
    with urllib.request.urlopen(f"{args.address}/props", timeout=60) as reply:
        slots = json.loads(reply.read())["total_slots"]
    total, same = {"ours": 0.0, "peer": 0.0}, 0
    for half, order in ((prompts[: args.limit], ("ours", "peer")), (prompts[args.limit :], ("peer", "ours"))):
        print("the server alone:", own_speed(args.address, last), flush=True)
        asked = {"address": args.address, "model": str(args.model), "slots": slots, "new": args.new, "prompts": half}
        found = {who: ours(asked) if who == "ours" else asked_of_peer(args.peer, asked) for who in order}
        for who, each in found.items():
            total[who] += each["seconds"]
            print(who, {name: value for name, value in each.items() if name != "answers"}, flush=True)
        pairs = list(zip(found["ours"]["answers"], found["peer"]["answers"], strict=True))
        same += sum(one == two for one, two in pairs)
        for one, two in pairs:
            if one != two:
                print(f"apart: {one!r} and {two!r}")
    for who, seconds in total.items():
        print(f"{who}: {2 * args.limit / seconds:.2f} answers a second")
    print(f"the same answer: {same} of {2 * args.limit}")


if __name__ == "__main__":
    main()
