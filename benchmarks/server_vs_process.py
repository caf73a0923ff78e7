"""A server's log-likelihoods beside those of the engine in process, request by request, on the bundled model.

    python benchmarks/server_vs_process.py http://127.0.0.1:8080 --limit 20 --tasks mmlu,truthfulqa,hellaswag,gsm8k

Prints, a task: requests, mean and largest absolute difference of log-likelihoods (nats; of a whole option and a token),
how often both name the same best option, how often both write the same answer, and how fast each of them was.
``--dtype float32`` shows how much of a difference is the rounding of the engine in process. ``--rolling`` adds the
losses of the first so many tokens of a text.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from quantgate.core.progress import Silent
from quantgate.core.remote import Remote, parse_address
from quantgate.core.requests import (
    Generate,
    GenerateResponse,
    Likelihood,
    LikelihoodResponse,
    Request,
    Response,
    Rolling,
    RollingResponse,
)
from quantgate.engines.http.probe import probe
from quantgate.engines.http.row import HttpRow
from quantgate.engines.protocol import Engine, Job, Setting
from quantgate.engines.torch.row import TorchRow
from quantgate.runs.evaluation import Evaluation
from quantgate.runs.options import Options, Sources
from quantgate.store.store import Store, default_root
from quantgate.tasks.base import Selection
from quantgate.tasks.data import BUNDLED_DATA, open_data
from quantgate.tasks.table import TASKS
from quantgate.verdict.policy_file import load_policy


def answers(engine: Engine, requests: Sequence[Request]) -> tuple[list[Response], float]:
    """All answers, and the seconds they took."""
    found: dict[int, Response] = {}
    started = time.perf_counter()
    engine.run(requests, found.__setitem__, Job("both", Silent()))
    return [found[index] for index in range(len(requests))], time.perf_counter() - started


def compared(name: str, slices: Sequence[slice], ours: Sequence[Response], theirs: Sequence[Response]) -> str:
    """One line about a task."""
    pairs = list(zip(ours, theirs, strict=True))
    if isinstance(ours[0], GenerateResponse):
        same = sum(one.text == two.text for one, two in pairs if isinstance(two, GenerateResponse))
        first = [_alike(one, two) for one, two in pairs]
        return f"{name}: {same} of {len(pairs)} answers the same; on average the same for {sum(first) / len(first):.0%}"
    if isinstance(ours[0], RollingResponse):
        losses = [
            (a, b)
            for one, two in pairs
            if isinstance(one, RollingResponse) and isinstance(two, RollingResponse)
            for a, b in zip(one.nll, two.nll, strict=True)
        ]
        apart = sum(abs(a - b) for a, b in losses) / len(losses)
        means = [sum(values) / len(losses) for values in zip(*losses, strict=True)]
        return f"{name}: {len(losses)} losses, {apart:.4f} nats apart, means {means[0]:.4f} here, {means[1]:.4f} there"
    values = [[each.logprob for each in side if isinstance(each, LikelihoodResponse)] for side in (ours, theirs)]
    tokens = sum(each.n_tokens for each in ours if isinstance(each, LikelihoodResponse))
    apart = [abs(one - two) for one, two in zip(*values, strict=True)]
    best = [[max(range(mine.start, mine.stop), key=side.__getitem__) for mine in slices] for side in values]
    same = sum(one == two for one, two in zip(*best, strict=True))
    return (
        f"{name}: {len(apart)} options of {tokens} tokens, {sum(apart) / len(apart):.4f} nats apart on average "
        f"({max(apart):.4f} at most, {sum(apart) / tokens:.4f} a token), "
        f"bias {sum(two - one for one, two in zip(*values, strict=True)) / len(apart):+.4f}; "
        f"same best option in {same} of {len(slices)}"
    )


def _alike(one: Response, two: Response) -> float:
    if not (isinstance(one, GenerateResponse) and isinstance(two, GenerateResponse)):
        return 0.0
    length = max(len(one.text), len(two.text), 1)
    return next((at for at in range(length) if one.text[at : at + 1] != two.text[at : at + 1]), length) / length


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--tasks", default="mmlu,truthfulqa,hellaswag,gsm8k")
    parser.add_argument("--data", default="bundled")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rolling", type=int, default=0)
    parser.add_argument("--new", type=int, default=64, help="most new tokens of an answer")
    args = parser.parse_args()
    data = open_data(args.data, BUNDLED_DATA, offline=True)
    tasks = [TASKS[name] for name in args.tasks.split(",") if name]
    options = Options(dtype=args.dtype, selection=Selection(args.limit))
    store = Store(default_root(), Silent())
    scratch = Path(tempfile.mkdtemp())
    evaluation = Evaluation(options, tasks, Sources(data, data), store, load_policy(None), scratch)
    questions = evaluation.questions
    remote = Remote(parse_address(args.address, "the address").removesuffix("/v1"), "the server")
    server = probe(remote, "", questions.remembered.real)
    print(server.as_record(), flush=True)
    here = TorchRow().open(questions.model, questions.remembered.real, Setting(args.dtype))
    there = HttpRow(server).open(questions.model, questions.remembered.real, Setting(args.dtype))
    for task in tasks:
        asked = evaluation.asked(task)
        slices = [mine for mine in asked.slices if mine.stop > mine.start]
        requests = [_short(request, args.new) for request in asked.requests]
        both = [answers(engine, requests) for engine in (here, there)]
        (ours, fast), (theirs, slow) = both
        print(f"{compared(task.id, slices, ours, theirs)}; {fast:.0f} s here, {slow:.0f} s there", flush=True)
    if args.rolling:
        tokens = questions.prompts.plain(__doc__ or "")[: args.rolling]
        (ours, _), (theirs, _) = (answers(engine, [Rolling(tokens)]) for engine in (here, there))
        print(compared("text", [], ours, theirs))


def _short(request: Request, most: int) -> Request:
    if isinstance(request, Generate):
        return Generate(request.prompt, min(most, request.max_new_tokens), request.stop, request.ends)
    assert isinstance(request, (Likelihood, Rolling))
    return request


if __name__ == "__main__":
    main()
