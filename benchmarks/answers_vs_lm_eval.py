"""Free-answer tasks against lm-evaluation-harness without a model: prompts, stop strings, and scores of the same texts.

Command:
    VENV/bin/python benchmarks/answers_vs_lm_eval.py --model DIR --data DIR --items 40

Items are chosen by quantgate and their rows handed to lm-eval 0.4.13, which builds prompts and stop strings from the
definitions it ships (a Python with both packages). Then both score the same texts of BBH: the gold answer in the form
that the prompt asks for, and the gold of the next item. Of ``humaneval`` and ``mbpp`` only prompt and stop strings are
compared: lm-eval would run code here.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from tasks_vs_lm_eval import build_peer_task

TABLE = {"bbh_cot": "bbh/cot_fewshot/{config}.yaml", "humaneval": "humaneval/humaneval.yaml", "mbpp": "mbpp/mbpp.yaml"}
SPLITS = {"mbpp": {"prompt": ("google-research-datasets__mbpp", "full", "prompt")}}


def peer_of(definition: str, rows: list[dict], extra: dict[str, list[dict]], folder: str):
    files = {}
    for split, content in {"test": rows, **extra}.items():
        path = Path(folder) / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        files[split] = str(path)
    import lm_eval
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(Path(lm_eval.__file__).parent / "tasks" / definition, resolve_func=False)
    return build_peer_task({
        "definition": definition, "files": files, "cache": folder, "shots": config.get("num_fewshot") or 0,
    })  # fmt: skip


def asked_by_peer(task) -> list[tuple[str, list[str]]]:
    task.build_all_requests(limit=None, rank=0, world_size=1)
    return [(each.args[0], list(each.args[1]["until"])) for each in task.instances]


def scores_by_peer(task, texts: list[str]) -> list[float]:
    for instance, text in zip(task.instances, texts, strict=True):
        instance.resps = [text]
    task.apply_filters()
    found = []
    for instance in task.instances:
        name = next(iter(instance.filtered_resps))
        metrics = task.process_results(instance.doc, [instance.filtered_resps[name]])
        found.append(float(next(iter(metrics.values()))))
    return found


def groups(name: str, items: list) -> dict[str, list]:
    found: dict[str, list] = {}
    for item in items:
        found.setdefault(TABLE[name].format(config=item.group), []).append(item)
    return found


def compare(name: str, items: list, prompts, data: Path) -> str:
    from quantgate.core.requests import GenerateResponse
    from quantgate.tasks.table import TASKS

    ours, extra = TASKS[name], {}
    for split, (folder, config, file) in SPLITS.get(name, {}).items():
        text = (data / folder / config / f"{file}.jsonl").read_text(encoding="utf-8")
        extra[split] = [json.loads(line) for line in text.split("\n") if line]
    same_text = same_stop = same_score = scored = 0
    first = ""
    for definition, mine in groups(name, items).items():
        with tempfile.TemporaryDirectory() as folder:
            task = peer_of(definition, [dict(item.row) for item in mine], extra, folder)
            theirs = asked_by_peer(task)
            requests = [ours.requests(item, prompts)[0] for item in mine]
            for request, (text, stop) in zip(requests, theirs, strict=True):
                said, text = prompts.decode(request.prompt), text.replace("\r\n", "\n")  # see docs/tasks.md on MBPP
                same_text += said == text
                same_stop += set(request.stop) == set(stop)
                if said != text and not first:
                    at = next((n for n, (a, b) in enumerate(zip(said, text, strict=False)) if a != b), 0)
                    ends = (said[at - 20 : at + 20], text[at - 20 : at + 20])
                    first = f"; first difference in {mine[0].id} at {at}: {ends[0]!r} / {ends[1]!r}"
            if name != "bbh_cot":
                continue
            golds = [item.row["target"] for item in mine]
            for texts in (golds, golds[1:] + golds[:1]):
                said = [f"First, we look. So the answer is {text}." for text in texts]
                peer = scores_by_peer(task, said)
                pairs = zip(mine, said, strict=True)
                own = [ours.score(item, [GenerateResponse(text, 9, "stop")]).score for item, text in pairs]
                same_score += sum(a == b for a, b in zip(peer, own, strict=True))
                scored += len(said)
    return (
        f"{name:10s} items {len(items)}  same prompt {same_text}  same stop strings {same_stop}"
        f"  same score {same_score}/{scored}{first}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--items", type=int, default=40)
    args = parser.parse_args()
    import evaluate
    from transformers import AutoTokenizer

    from quantgate.tasks.base import Selection
    from quantgate.tasks.data import DirectorySource
    from quantgate.tasks.prompts import Prompts
    from quantgate.tasks.table import TASKS

    class NotRun:
        """Stands in for the hub's code_eval, which lm-eval's definitions try at import: nothing is run by it."""

        def compute(self, **_):
            return {"pass@1": 0.0}, {}

    evaluate.load = lambda *_, **__: NotRun()
    prompts = Prompts(AutoTokenizer.from_pretrained(args.model), 8192, args.model)
    for name in TABLE:
        items = TASKS[name].items(DirectorySource(args.data), Selection(limit=args.items), prompts)
        print(compare(name, items, prompts, args.data), flush=True)


if __name__ == "__main__":
    main()
