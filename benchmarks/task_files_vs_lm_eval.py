"""Task files of lm-evaluation-harness, read by both: prompts, log-likelihoods and per-item scores in float32.

Command:
    python benchmarks/task_files_vs_lm_eval.py --model DIR --data DIR --peer-python VENV/bin/python --items 20

The YAML files are those that lm-eval ships. quantgate reads them (`quantgate.tasks.written.lm_eval`) and asks their
first items; the same raw rows are handed to lm-eval, which builds its prompts from the same files. Compared are token
ids, log-likelihoods, the likeliest option, generated texts, and the score of every item under every metric. Where a
file names a split or configuration that the data directory lacks, `CHANGES` says what it has instead, for both sides.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.tasks_vs_lm_eval import Ours, Peer, serve_peer

CHANGES: dict[str, dict[str, object]] = {
    "arc/arc_easy.yaml": {},
    "arc/arc_challenge.yaml": {},
    "sciq/sciq.yaml": {"dataset_name": "default"},
    "openbookqa/openbookqa.yaml": {},
    "swag/swag.yaml": {},
    "piqa/piqa.yaml": {"dataset_path": "ybisk/piqa", "dataset_name": "plain_text"},
    "truthfulqa/truthfulqa_mc1.yaml": {},
    "mmlu/default/mmlu_anatomy.yaml": {"num_fewshot": 5},
    "glue/rte/default.yaml": {},
    "glue/qnli/default.yaml": {},
    "lambada/lambada_openai.yaml": {},
    "asdiv/default.yaml": {"dataset_name": "asdiv"},
    "gsm8k/gsm8k.yaml": {"num_fewshot": 2, "fewshot_config": {"sampler": "first_n"}},
    "triviaqa/default.yaml": {"dataset_name": "unfiltered.nocontext"},
}
_NEW = 48


def prepared(definition: str, source: Path, folder: Path) -> Path:
    """A file that includes a copy of lm-eval's and says what is otherwise."""
    import yaml

    for path in (source / definition).parent.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    changes = dict(CHANGES[definition])
    text = (source / definition).read_text(encoding="utf-8")
    if "generate_until" in text:
        kept = yaml.safe_load(text)["generation_kwargs"]
        changes["generation_kwargs"] = {**kept, "max_gen_toks": _NEW}
    path = folder / "asked.yaml"
    path.write_text(yaml.safe_dump({"include": Path(definition).name, **changes}), encoding="utf-8")
    return path


class Generating(Peer):
    """lm-eval's side, which runs this file."""

    def __init__(self, python: str, model: str, threads: int) -> None:
        command = [python, __file__, "--peer", "--model", model, "--threads", str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self._answer()["version"]


def answered(lm, job: dict) -> list[dict]:
    task = build(job)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    generates = task.OUTPUT_TYPE == "generate_until"
    ask = lm.generate_until if generates else lm.loglikelihood
    items: dict[int, dict] = {}
    for instance, answer in zip(task.instances, ask(task.instances, disable_tqdm=True), strict=True):
        item = items.setdefault(instance.doc_id, {"doc": instance.doc, "pairs": [], "results": []})
        item["pairs"].append([lm.tok_encode(instance.args[0])] if generates else lm._encode_pair(*instance.args))
        item["results"].append(answer)
        instance.resps.append(answer)
    if generates:
        task.apply_filters()
    for number, item in items.items():
        doc = item.pop("doc")
        item["metrics"] = {}
        if generates:
            [instance] = [each for each in task.instances if each.doc_id == number]
            for name, text in instance.filtered_resps.items():
                scores = task.process_results(doc, [text])
                item["metrics"][name] = float(scores["exact_match"])
        else:
            results = item["results"]
            scores = task.process_results(doc, results[:1] if task.OUTPUT_TYPE == "loglikelihood" else results)
            item["metrics"] = {name: float(value) for name, value in scores.items()}
    return [items[number] for number in sorted(items)]


def build(job: dict):
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    datasets.config.HF_DATASETS_CACHE = job["cache"]
    config = load_yaml(Path(job["definition"]), resolve_func=True)
    config = {key: value for key, value in config.items() if key not in ("tag", "group", "task_list", "task_alias")}
    for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if config.get(key) not in job["files"]:
            config[key] = None
    config |= {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": job["files"], "cache_dir": job["cache"]},
        "num_fewshot": job["shots"],
    }
    return ConfigurableTask(config=config)


def compared(definition: str, path: Path, ours: Ours, peer: Generating, limit: int) -> str:
    """One line: what is equal and what is not."""
    from quantgate.core.requests import Generate
    from quantgate.tasks.base import Selection
    from quantgate.tasks.table import TASKS
    from quantgate.tasks.written.lm_eval import LmEval

    tasks = {task.id: task for task in LmEval(path).tasks()}
    TASKS.update(tasks)
    first = next(iter(tasks.values()))
    items = first.items(ours.data, Selection(), ours.prompts)[:limit]
    raw = first.form.where.rows(ours.data)[: len(items)]
    splits = {first.form.where.split: raw}
    if first.shots:
        splits[first.form.examples.split] = first.form.examples.rows(ours.data)[: first.shots]
    theirs = peer.score(str(path), splits, first.shots)
    requests, responses = ours.answer(first.id, items)
    for name in tasks:
        TASKS.pop(name)
    pairs = same = best = 0
    worst, scores = 0.0, dict.fromkeys(tasks, 0)
    for item, asked, answers, their in zip(items, requests, responses, theirs, strict=True):
        mine = [[list(each.prompt)] if isinstance(each, Generate) else [list(each.context), list(each.continuation)]
                for each in asked]  # fmt: skip
        pairs, same = pairs + len(mine), same + sum(a == list(b) for a, b in zip(mine, their["pairs"], strict=True))
        if isinstance(asked[0], Generate):
            best += answers[0].text == their["results"][0]
        else:
            values, others = [each.logprob for each in answers], [each[0] for each in their["results"]]
            worst = max(worst, *(abs(a - b) for a, b in zip(values, others, strict=True)))
            best += values.index(max(values)) == others.index(max(others))
        for (name, task), value in zip(tasks.items(), metrics_of(tasks, their), strict=True):
            scores[name] += abs(task.score(item, answers).score - value) < 1e-3
    found = ", ".join(f"{name} {count}/{len(items)}" for name, count in scores.items())
    return (
        f"{definition:32s} items {len(items):3d}  same tokens {same}/{pairs}  worst difference {worst:.1e}"
        f"  same best or text {best}/{len(items)}  same score: {found}"
    )


def metrics_of(tasks: dict, their: dict) -> list[float]:
    """lm-eval's score for each of our tasks; its perplexity is a log-likelihood, ours a loss."""
    metrics = their["metrics"]
    if len(metrics) == len(tasks) and not {"acc", "perplexity"} & {*metrics}:
        return list(metrics.values())
    names = {"acc": "acc", "acc_norm": "acc_norm", "ppl": "perplexity"}
    return [metrics[names[task.metric.name]] * (-1 if task.metric.name == "ppl" else 1) for task in tasks.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--peer-python")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--items", type=int, default=20)
    parser.add_argument("--files", default=",".join(CHANGES), help="of lm-eval's tasks folder")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        serve_peer(args.model, args.threads, answered, batch_size=4)
        return
    import torch

    torch.set_num_threads(args.threads)
    where = "import lm_eval, pathlib; print(pathlib.Path(lm_eval.__file__).parent / 'tasks')"
    shown = subprocess.run([args.peer_python, "-c", where], capture_output=True, text=True, check=True)
    source = Path(shown.stdout.strip())
    ours, peer = Ours(args.model, args.data), Generating(args.peer_python, args.model, args.threads)
    print(f"float32, lm-eval {peer.version}")
    for definition in args.files.split(","):
        with tempfile.TemporaryDirectory() as folder:
            path = prepared(definition, source, Path(folder))
            print(compared(definition, path, ours, peer, args.items), flush=True)
    peer.close()


if __name__ == "__main__":
    main()
