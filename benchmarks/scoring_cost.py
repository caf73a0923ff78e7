"""What MMLU by option likelihood costs as the examples and the questions grow.

Command:
    python benchmarks/scoring_cost.py --model DIR --data DIR [--threads 2] [--whole]

First curve: 0, 5 and 10 examples before the same questions of the first subjects (200 of four by default). MMLU has
five examples a subject; for ten, rows of its test split that are not asked stand in, which is fine for a clock only.
Second curve: 50 to 1,600 questions over all subjects, drawn as ``--limit`` draws them, behind five examples. "plain":
the tokens of a scorer that reads every option with its whole prompt. Times are the best of ``--repeats``; building the
requests is not in them. They mean something on an idle machine only. ``--whole`` asks every question of every subject
instead, with five and with ten examples in turns, subject by subject (14 thousand questions, twice).

Measured, two threads, from five to ten examples. One layer of hidden size 2,048 (``--shape 2048x8192x32x8x1``): 13%
more time over 48 of the 57 subjects in full (10,391 questions), 2.9% more unique tokens. The bundled model: 13% over
the first eight subjects in full; 15 to 18% with 50 questions of four subjects, where the examples themselves are 9%
of the unique tokens. Beyond the tokens it is attention: at hidden size 576, 350 more tokens to look at cost every
token a tenth of its time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from prefill_rate import random_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from quantgate.core.items import Item
from quantgate.core.progress import Silent
from quantgate.engines.torch.engine import RunStats, TorchEngine
from quantgate.models.loading import context_length
from quantgate.tasks.base import Selection
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.items import with_shots
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.table import TASKS

TASK = TASKS["mmlu"]


class Clock:
    """Times the engine on MMLU questions."""

    def __init__(self, model: str, shape: str | None, repeats: int) -> None:
        tokenizer = AutoTokenizer.from_pretrained(model)
        if shape is None:
            loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
        else:
            loaded = random_model(shape, len(tokenizer))
        self.engine = TorchEngine(loaded, tokenizer, progress=Silent())
        self.prompts, self.repeats = Prompts(tokenizer, context_length(Path(model), model), model), repeats

    def time(self, *sets: Sequence[Item]) -> list[tuple[RunStats, int]]:
        """Of each set the quickest run's numbers, and the tokens a plain scorer would read; the sets take turns."""
        requests = [[request for item in items for request in TASK.requests(item, self.prompts)] for items in sets]
        runs: list[list[RunStats]] = [[] for _ in sets]
        for _ in range(self.repeats):
            for mine, asked in zip(runs, requests, strict=True):
                mine.append(self.engine.run(asked, lambda index, response: None))
        plain = [sum(len(request.context) + len(request.continuation) - 1 for request in asked) for asked in requests]
        return [(min(mine, key=lambda stats: stats.seconds), tokens) for mine, tokens in zip(runs, plain, strict=True)]


def subjects_of(data: DirectorySource, prompts: Prompts) -> list[list[Item]]:
    """By subject, every question but the last five, which are examples six to ten of the others."""
    rows: dict[str, list[Item]] = {}
    for item in TASK.items(data, Selection(), prompts):
        rows.setdefault(item.group, []).append(item)
    return [
        [replace(item, shots=(*item.shots, *(spare.row for spare in mine[-5:]))) for item in mine[:-5]]
        for mine in rows.values()
    ]


def first_of(subjects: Sequence[Sequence[Item]], questions: int) -> list[Item]:
    """As many questions of each subject, ``questions`` in all."""
    count = questions // len(subjects)
    for mine in subjects:
        if count > len(mine):
            raise SystemExit(f"{mine[0].group} has {len(mine)} questions: ask fewer, or more --subjects")
    return [item for mine in subjects for item in mine[:count]]


def with_examples(items: Sequence[Item], counts: Sequence[int]) -> list[list[Item]]:
    return [[replace(item, shots=item.shots[:count]) for item in items] for count in counts]


def whole(clock: Clock, subjects: Sequence[Sequence[Item]]) -> None:
    """Every question with five and with ten examples; the sums so far after each subject."""
    counts = (5, 10)
    sums = [RunStats() for _ in counts]
    asked = plain = 0
    for number, mine in enumerate(subjects):
        asked += len(mine)
        step = -1 if number % 2 else 1  # whoever comes first pays for the memory of a new subject's passes
        timed = clock.time(*with_examples(mine, counts)[::step])[::step]
        for total, (stats, tokens) in zip(sums, timed, strict=True):
            total.seconds += stats.seconds
            total.tokens_unique += stats.tokens_unique
            plain += tokens
        few, many = sums
        print(
            f"{asked:5d} questions  {few.seconds:7.1f} s  {many.seconds:7.1f} s  {many.seconds / few.seconds - 1:+.1%}"
            f"  {few.tokens_unique:8d} unique tokens  {many.tokens_unique / few.tokens_unique - 1:+.1%}"
            f"  {plain:9d} plain  {mine[0].group}",
            flush=True,
        )


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
    parser.add_argument("--shape", help="random weights of this shape instead of the model's, as in prefill_rate.py")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--subjects", type=int, default=4, help="of the first curve")
    parser.add_argument("--questions", type=int, default=200, help="of the first curve")
    parser.add_argument("--items", default="50,100,200,400,800,1600", help="questions of the second curve")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--whole", action="store_true", help="every question, with five and with ten examples")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data, clock = DirectorySource(args.data), Clock(args.model, args.shape, args.repeats)
    subjects = subjects_of(data, clock.prompts)
    clock.time(subjects[0][:8])  # the first pass is slower
    print(f"bf16, {args.threads} threads, best of {args.repeats}; growing examples:", flush=True)
    if args.whole:
        whole(clock, subjects)
        return
    items = first_of(subjects[: args.subjects], args.questions)
    before = None
    counts = (0, 5, 10)
    for shots, (stats, plain) in zip(counts, clock.time(*with_examples(items, counts)), strict=True):
        print(line(items, shots, stats, plain, before), flush=True)
        before = stats
    print("growing questions (all subjects):")
    for count in map(int, args.items.split(",")):
        part = with_shots(TASK, 5).items(data, Selection(limit=count), clock.prompts)
        print(line(part, 5, *clock.time(part)[0], None), flush=True)


if __name__ == "__main__":
    main()
