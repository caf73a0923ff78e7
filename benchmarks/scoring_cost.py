"""What MMLU by option likelihood costs as the examples and the questions grow.

Command:
    python benchmarks/scoring_cost.py --model DIR --data DIR [--threads 2]

First curve: 0, 5 and 10 examples before the same questions of the first subjects (200 of four by default). MMLU has
five examples a subject; for ten, rows of its test split that are not asked stand in, which is fine for a clock only.
Second curve: 50 to 1,600 questions over all subjects, drawn as ``--limit`` draws them, behind five examples. "plain":
the tokens of a scorer that reads every option with its whole prompt. Times are the best of ``--repeats``; building the
requests is not in them. They mean something on an idle machine only.

Measured with the bundled model, two threads: from five to ten examples the unique tokens grow by 5 to 9%, the time by
15 to 17%. The rest is attention: at hidden size 576 looking at 350 more tokens costs every token a tenth of its time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from quantgate.models.loading import context_length
from quantgate.progress import Silent
from quantgate.scoring.engine import RunStats, TorchEngine
from quantgate.tasks.base import Item, Selection
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.items import with_shots
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.table import TASKS

TASK = TASKS["mmlu"]


class Clock:
    """Times the engine on MMLU questions."""

    def __init__(self, model: str, repeats: int) -> None:
        tokenizer = AutoTokenizer.from_pretrained(model)
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
        self.engine = TorchEngine(loaded, tokenizer, progress=Silent())
        self.prompts, self.repeats = Prompts(tokenizer, context_length(Path(model), model), model), repeats

    def time(self, items: Sequence[Item]) -> tuple[RunStats, int]:
        """The quickest run's numbers, and the tokens a plain scorer would read."""
        requests = [request for item in items for request in TASK.requests(item, self.prompts)]
        runs = [self.engine.run(requests, lambda index, response: None) for _ in range(self.repeats)]
        plain = sum(len(request.context) + len(request.continuation) - 1 for request in requests)
        return min(runs, key=lambda stats: stats.seconds), plain


def questions_of(data: DirectorySource, prompts: Prompts, subjects: int, questions: int) -> list[Item]:
    """The first questions of the first subjects, each with ten examples."""
    rows: dict[str, list[Item]] = {}
    for item in TASK.items(data, Selection(), prompts):
        rows.setdefault(item.group, []).append(item)
    chosen = []
    for mine in list(rows.values())[:subjects]:
        count = questions // subjects
        if count + 5 > len(mine):
            raise SystemExit(f"{mine[0].group} has {len(mine)} questions: ask fewer, or more --subjects")
        shots = (*mine[0].shots, *(item.row for item in mine[-5:]))
        chosen += [replace(item, shots=shots) for item in mine[:count]]
    return chosen


def line(items: Sequence[Item], shots: int, stats: RunStats, plain: int, before: RunStats | None) -> str:
    seconds, unique, count = stats.seconds, stats.tokens_unique, len(items)
    added = f"  {seconds / before.seconds - 1:+.1%}" if before else ""
    return (
        f"{count:5d} questions  {shots:2d} examples  {seconds:7.2f} s  {unique:7d} unique tokens"
        f"  {stats.tokens_read:7d} read  {plain:8d} plain  {1000 * seconds / count:6.1f} ms a question"
        f"  {unique / seconds:6.0f} unique tokens/s{added}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--subjects", type=int, default=4, help="of the first curve")
    parser.add_argument("--questions", type=int, default=200, help="of the first curve")
    parser.add_argument("--items", default="50,100,200,400,800,1600", help="questions of the second curve")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data, clock = DirectorySource(args.data), Clock(args.model, args.repeats)
    items = questions_of(data, clock.prompts, args.subjects, args.questions)
    clock.time(items[:8])  # the first pass is slower
    print(f"bf16, {args.threads} threads, best of {args.repeats}; growing examples ({args.subjects} subjects):")
    before = None
    for shots in (0, 5, 10):
        part = [replace(item, shots=item.shots[:shots]) for item in items]
        stats, plain = clock.time(part)
        print(line(part, shots, stats, plain, before), flush=True)
        before = stats
    print("growing questions (all subjects):")
    for count in map(int, args.items.split(",")):
        part = with_shots(TASK, 5).items(data, Selection(limit=count), clock.prompts)
        print(line(part, 5, *clock.time(part), None), flush=True)


if __name__ == "__main__":
    main()
