"""Greedy answers against lm-evaluation-harness: the same prompts and stop strings, the same machine, one run.

Command:
    python benchmarks/generation_vs_lm_eval.py --model DIR --data DIR --peer-python VENV/bin/python

GSM8K problems behind 0 and behind 8 solved ones, as plain text. The peer's Python needs torch, transformers and
lm-eval 0.4.13; it runs this same file with ``--peer``. Both sides are timed without loading the model, in bf16, with
the same number of threads, and the peer takes each of ``--batch-sizes``. Then fewer prompts in float32: the share of
answers that are the same text (a tie or a rounding ends a common beginning now and then).
Limits: wall times mean something on an idle machine only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

from scoring_vs_lm_eval import Ours

STOP = ["Question:", "</s>"]


def prompts_of(data: Path, count: int, shots: int) -> list[str]:
    def rows(split: str) -> list[dict]:
        text = (data / "openai__gsm8k" / "main" / f"{split}.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    solved = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in rows("train")[:shots])
    return [f"{solved}Question: {row['question']}\nAnswer:" for row in rows("test")[:count]]


def serve_peer(args) -> None:
    """The peer's side: only lm-eval, torch and transformers are imported here."""
    import importlib.metadata

    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(args.threads)
    task = json.loads(Path(args.peer).read_text(encoding="utf-8"))
    lm = HFLM(pretrained=args.model, dtype=task["dtype"], device="cpu", batch_size=1)
    options = {"until": STOP, "max_gen_toks": args.new_tokens, "do_sample": False}
    asked = [
        Instance(request_type="generate_until", doc={}, arguments=(prompt, dict(options)), idx=at)
        for at, prompt in enumerate(task["prompts"])
    ]
    lm.generate_until(asked[:2], disable_tqdm=True)
    found = {"version": importlib.metadata.version("lm-eval"), "seconds": {}}
    for size in task["sizes"]:
        lm.batch_size_per_gpu = size
        started = time.perf_counter()
        found["texts"] = lm.generate_until(asked, disable_tqdm=True)
        found["seconds"][size] = time.perf_counter() - started
    Path(args.peer).write_text(json.dumps(found), encoding="utf-8")


def ask_peer(args, prompts: list[str], dtype: str, sizes: list[int]) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "task.json"
        file.write_text(json.dumps({"prompts": prompts, "dtype": dtype, "sizes": sizes}), encoding="utf-8")
        command = [args.peer_python, __file__, "--peer", str(file), "--model", args.model]
        command += ["--threads", str(args.threads), "--new-tokens", str(args.new_tokens)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(file.read_text(encoding="utf-8"))


def ask_ours(args, prompts: list[str], dtype: str) -> tuple[float, list[str], int]:
    """Seconds (encoding included), texts, new tokens."""
    import torch

    from quantgate.core.requests import Generate
    from quantgate.engines.torch.generation import end_tokens

    torch.set_num_threads(args.threads)
    ours = Ours(args.model, dtype)

    def run(texts: list[str]) -> tuple[float, list[str], int]:
        started = time.perf_counter()
        stop = tuple(STOP)
        ends = end_tokens(ours.engine.model, ours.tokenizer)
        requests = [Generate(tuple(ours.tokenizer.encode(text)), args.new_tokens, stop, ends) for text in texts]
        answers: dict = {}
        stats = ours.engine.run(requests, answers.__setitem__)
        return time.perf_counter() - started, [answers[at].text for at in range(len(texts))], stats.tokens_generated

    run(prompts[:2])
    return run(prompts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--peer-python")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--batch-sizes", default="8,32")
    parser.add_argument("--float32-count", type=int, default=24)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        serve_peer(args)
        return
    for shots in (0, 8):
        prompts = prompts_of(args.data, args.count, shots)
        seconds, _, new = ask_ours(args, prompts, "bfloat16")
        peer = ask_peer(args, prompts, "bfloat16", [int(size) for size in args.batch_sizes.split(",")])
        size, best = min(peer["seconds"].items(), key=lambda pair: pair[1])
        print(
            f"bfloat16, {args.threads} threads, {shots} examples, {len(prompts)} prompts, {new} new tokens:"
            f" engine {seconds:.1f} s, lm-eval {peer['version']} {best:.1f} s (batch {size}),"
            f" ratio {best / seconds:.2f}",
            flush=True,
        )
        some = prompts[: args.float32_count]
        if some:
            _, texts, _ = ask_ours(args, some, "float32")
            theirs = ask_peer(args, some, "float32", [8])["texts"]
            same = sum(one == other for one, other in zip(texts, theirs, strict=True))
            print(f"float32, {shots} examples: {same} of {len(some)} answers are the same text", flush=True)


if __name__ == "__main__":
    main()
