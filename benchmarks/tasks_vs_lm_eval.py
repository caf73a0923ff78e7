"""Tasks against lm-evaluation-harness: its own task definitions over the same rows, in float32.

Command:
    python benchmarks/tasks_vs_lm_eval.py --model DIR --data DIR --peer-python VENV/bin/python --items 40

For each task, items are chosen by quantgate and their rows handed to lm-eval 0.4.13, which builds its prompts from the
definition it ships. Compared are the token ids of context and continuation of every option, the log-likelihood of every
option, the likeliest option of every item, and the items' scores under each metric. Everything but the rows is made
twice, independently. The peer's Python needs torch, transformers and lm-eval; it runs this same file with ``--peer``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# our task, the definition in lm-eval's tasks folder ({subject} for exams), our task under lm-eval's second metric
TABLE = {
    "mmlu": ("mmlu/default/mmlu_{subject}.yaml", {"acc": "mmlu"}),
    "ceval": ("ceval/ceval-valid_{subject}.yaml", {"acc": "ceval"}),
    "cmmlu": ("cmmlu/cmmlu_{subject}.yaml", {"acc": "cmmlu"}),
    "hellaswag": ("hellaswag/hellaswag.yaml", {"acc": "hellaswag", "acc_norm": "hellaswag_norm"}),
    "piqa": ("piqa/piqa.yaml", {"acc": "piqa", "acc_norm": "piqa_norm"}),
    "arc_easy": ("arc/arc_easy.yaml", {"acc": "arc_easy", "acc_norm": "arc_easy_norm"}),
    "arc_challenge": ("arc/arc_challenge.yaml", {"acc": "arc_challenge", "acc_norm": "arc_challenge_norm"}),
    "boolq": ("super_glue/boolq/default.yaml", {"acc": "boolq"}),
    "winogrande": ("winogrande/default.yaml", {"acc": "winogrande"}),
    "openbookqa": ("openbookqa/openbookqa.yaml", {"acc": "openbookqa", "acc_norm": "openbookqa_norm"}),
    "lambada": ("lambada/lambada_openai.yaml", {"acc": "lambada"}),
    **{name: (f"{name}/{name}.yaml", {"acc": name, "acc_norm": f"{name}_norm"}) for name in ("swag", "sciq", "mathqa")},
    "logiqa": ("logiqa/logiqa.yaml", {"acc": "logiqa", "acc_norm": "logiqa_norm"}),
    "copa": ("super_glue/copa/default.yaml", {"acc": "copa"}),
    "wsc273": ("wsc273/default.yaml", {"acc": "wsc273"}),
    "pubmedqa": ("pubmedqa/pubmedqa.yaml", {"acc": "pubmedqa"}),
    **{name: (f"glue/{name}/default.yaml", {"acc": name}) for name in ("mnli", "rte", "qnli", "wnli", "mrpc", "sst2")},
    "asdiv": ("asdiv/default.yaml", {"acc": "asdiv"}),
    "webqs": ("webqs/webqs.yaml", {"exact_match": "webqs"}),
    "blimp": ("blimp/adjunct_island.yaml", {"acc": "blimp"}),
    "truthfulqa_mc1": ("truthfulqa/truthfulqa_mc1.yaml", {"acc": "truthfulqa_mc1"}),
    "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", {"acc": "truthfulqa_mc2"}),
}


def peer_row(task: str, row: dict) -> dict:
    """The row as lm-eval's definition reads it, where the data at hand names or writes something else."""
    if task == "boolq":  # part of SuperGLUE there
        return {**row, "label": int(row["answer"])}
    if task == "mathqa":
        return {**row, "options": re.sub(r"[A-E] \)", lambda found: found.group().lower(), row["options"])}
    if task == "pubmedqa":
        return {**row, "CONTEXTS": row["context"]["contexts"], "QUESTION": row["question"]}
    if task == "wsc273" and "pronoun_loc" not in row:
        return {**row, "pronoun": "[MASK]", "pronoun_loc": row["text"].replace("  ", " ").find("[MASK]")}
    return row


def in_our_order(pairs: list, their: dict) -> dict:
    """Their options in our order, where both have the same (SciQ and BLiMP name the right one at a fixed place)."""
    places = {(tuple(context), tuple(option)): n for n, (context, option) in enumerate(their["pairs"])}
    order = [places.get((tuple(context), tuple(option))) for context, option in pairs]
    if sorted(n for n in order if n is not None) != list(range(len(pairs))):
        return their
    return {**their, **{key: [their[key][n] for n in order] for key in ("pairs", "logprobs", "greedy")}}


class Peer:
    """lm-eval in a process of its own; one JSON line per job."""

    def __init__(self, python: str, model: str, threads: int) -> None:
        command = [python, __file__, "--peer", "--model", model, "--threads", str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self._answer()["version"]

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the peer ended; see its error above")
        return json.loads(line)

    def score(self, definition: str, splits: dict[str, list[dict]], shots: int) -> list[dict]:
        """Per item: ``pairs`` of token ids, ``logprobs``, ``greedy`` and ``metrics``."""
        with tempfile.TemporaryDirectory() as folder:
            files = {}
            for split, rows in splits.items():
                path = Path(folder) / f"{split}.jsonl"
                path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
                files[split] = str(path)
            job = {"definition": definition, "files": files, "shots": shots, "cache": folder}
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            return self._answer()["items"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve_peer(model: str, threads: int, answer: Callable[[Any, dict], list[dict]], batch_size: int = 8) -> None:
    """The peer's side: only lm-eval, torch and transformers are imported here. ``answer``: of its model and a job."""
    import importlib.metadata
    import os

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints goes to stderr
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(threads)
    lm = HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=batch_size)
    out.write(json.dumps({"version": importlib.metadata.version("lm-eval")}) + "\n")
    out.flush()
    for line in sys.stdin:
        out.write(json.dumps({"items": answer(lm, json.loads(line))}) + "\n")
        out.flush()


def answer_job(lm, job: dict) -> list[dict]:
    task = build_peer_task(job)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    answers = lm.loglikelihood(task.instances, disable_tqdm=True)
    items: dict[int, dict] = {}
    for instance, (logprob, greedy) in zip(task.instances, answers, strict=True):
        item = items.setdefault(
            instance.doc_id, {"doc": instance.doc, "pairs": [], "logprobs": [], "greedy": [], "results": []}
        )
        context, continuation = instance.args
        item["pairs"].append(
            lm._encode_pair(context, continuation) if context else ([lm.prefix_token_id], lm.tok_encode(continuation))
        )
        item["logprobs"].append(logprob)
        item["greedy"].append(bool(greedy))
        item["results"].append((logprob, greedy))
    for item in items.values():
        single = task.OUTPUT_TYPE == "loglikelihood"
        metrics = task.process_results(item.pop("doc"), [item["results"][0]] if single else item["results"])
        # what is no number (the pairs that an F1 is made of) is not compared
        item["metrics"] = {name: float(value) for name, value in metrics.items() if not isinstance(value, tuple)}
        del item["results"]
    return [items[number] for number in sorted(items)]


def build_peer_task(job: dict):
    import datasets
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    datasets.config.HF_DATASETS_CACHE = job["cache"]
    config = load_yaml(Path(lm_eval.__file__).parent / "tasks" / job["definition"], resolve_func=True)
    config = {key: value for key, value in config.items() if key not in ("tag", "group", "task_list", "task_alias")}
    for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if config.get(key) not in job["files"]:
            config[key] = None  # splits that are not at hand, and not needed
    config |= {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": job["files"], "cache_dir": job["cache"]},
        "num_fewshot": job["shots"],
    }
    return ConfigurableTask(config=config)


class Ours:
    """quantgate's tasks and engine on the same model."""

    def __init__(self, model: str, data: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from quantgate.core.progress import Silent
        from quantgate.engines.torch.engine import TorchEngine
        from quantgate.engines.torch.generation import end_tokens
        from quantgate.tasks.data import DirectorySource
        from quantgate.tasks.prompts import Prompts

        tokenizer = AutoTokenizer.from_pretrained(model)
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.engine = TorchEngine(loaded, tokenizer, progress=Silent())
        ends = end_tokens(self.engine.model, tokenizer)
        self.prompts = Prompts(tokenizer, loaded.config.max_position_embeddings, model, ends)
        self.data = DirectorySource(data)

    def items(self, name: str, limit: int) -> list:
        from quantgate.tasks.base import Selection
        from quantgate.tasks.table import TASKS

        return TASKS[name].items(self.data, Selection(limit=limit), self.prompts)

    def answer(self, name: str, items: list) -> tuple[list[list], list[list]]:
        """Requests and responses, item by item."""
        from quantgate.core.requests import Generate
        from quantgate.tasks.table import TASKS

        asked = [TASKS[name].requests(item, self.prompts) for item in items]
        requests = [[self.prompts.ended(x) if isinstance(x, Generate) else x for x in each] for each in asked]
        answers: dict = {}
        self.engine.run([request for each in requests for request in each], answers.__setitem__)
        numbers = iter(range(len(answers)))
        return requests, [[answers[next(numbers)] for _ in each] for each in requests]


def jobs(name: str, definition: str, items: list) -> Iterator[tuple[str, list]]:
    """(definition, items) per lm-eval task: exams have one for each subject."""
    if "{subject}" not in definition:
        yield definition, items
        return
    for subject in dict.fromkeys(item.group for item in items):
        yield definition.format(subject=subject), [item for item in items if item.group == subject]


def ask_peer(peer: Peer, name: str, items: list) -> dict[str, dict]:
    """lm-eval's answers by item id."""
    found = {}
    for definition, mine in jobs(name, TABLE[name][0], items):
        split = "validation" if name == "mrpc" else mine[0].id.split("/")[-2]
        splits = {split: [peer_row(name, dict(item.row)) for item in mine]}
        if mine[0].shots:
            splits["dev"] = [dict(shot) for shot in mine[0].shots]
        answers = peer.score(definition, splits, len(mine[0].shots))
        found |= {item.id: answer for item, answer in zip(mine, answers, strict=True)}
    return found


def compare(name: str, items: list, requests: list, responses: list, theirs: dict[str, dict]) -> str:
    """One line: what is equal and what is not."""
    from quantgate.tasks.table import TASKS

    worst, options, same_tokens, same_best = 0.0, 0, 0, 0
    same_score = dict.fromkeys(TABLE[name][1], 0)
    for item, asked, answered in zip(items, requests, responses, strict=True):
        pairs = [(list(each.context), list(each.continuation)) for each in asked]
        their = in_our_order(pairs, theirs[item.id])
        options += len(pairs)
        same_tokens += sum(mine == tuple(peer) for mine, peer in zip(pairs, map(tuple, their["pairs"]), strict=True))
        values = [each.logprob for each in answered]
        worst = max(worst, *(abs(a - b) for a, b in zip(values, their["logprobs"], strict=True)))
        same_best += values.index(max(values)) == their["logprobs"].index(max(their["logprobs"]))
        for metric, task in TABLE[name][1].items():
            same_score[metric] += abs(TASKS[task].score(item, answered).score - their["metrics"][metric]) < 1e-4
    scores = ", ".join(f"{metric} {count}/{len(items)}" for metric, count in same_score.items())
    return (
        f"{name:15s} items {len(items):3d}  options {options:4d}  same tokens {same_tokens}/{options}"
        f"  worst difference {worst:.1e}  same best {same_best}/{len(items)}  same score: {scores}"
    )


@contextmanager
def peer_of(args) -> Iterator[Peer]:
    peer = Peer(args.peer_python, args.model, args.threads)
    try:
        yield peer
    finally:
        peer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--peer-python")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--tasks", default=",".join(TABLE))
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        serve_peer(args.model, args.threads, answer_job)
        return
    import torch

    torch.set_num_threads(args.threads)
    ours = Ours(args.model, args.data)
    with peer_of(args) as peer:
        print(f"float32, lm-eval {peer.version}")
        for name in args.tasks.split(","):
            items = ours.items(name, args.items)
            requests, responses = ours.answer(name, items)
            print(compare(name, items, requests, responses, ask_peer(peer, name, items)), flush=True)


if __name__ == "__main__":
    main()
