"""`quantgate import` on two real runs of lm-evaluation-harness, beside the suite's own verdict on the same items.

Command:
    python benchmarks/import_vs_suite.py --data DIR --peer-python VENV/bin/python --method rtn3 --items 300

The bundled model in 16 bit and the same model quantized by ``--method`` (its weights dequantized and saved, so that
lm-eval's own loader reads them) are run by lm-eval with ``--log_samples`` on the first items of ARC-Easy, in lm-eval's
own task file. The suite judges the method on the same rows by the same file (``--task-file``). Compared are verdicts,
values, differences and intervals, and on how many items the two programs disagree about which option is best.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

_ROWS = "allenai__ai2_arc/ARC-Easy"
_TASK = "arc_here"
_FIELDS = ("verdict", "n_items", "reference", "value", "delta", "ci_low", "ci_high", "margin", "items_worse",
           "items_better")  # fmt: skip


def main() -> None:
    """Run both and print a line a field."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--method", default="rtn3")
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--threads", default="2")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quantgate-import-") as name:
        folder = Path(name)
        rows = _rows(args.data, folder, args.items)
        models = _models(args.method, folder)
        samples = [_lm_eval(args, folder, side, model, rows) for side, model in models.items()]
        ours = _suite(args, folder)
        theirs = _ours(
            "import", *map(str, samples), "--name", args.method, "--model", "bundled", "--json", threads=args.threads
        )
        _compare(ours, {each["task"]: each for each in json.loads(theirs)})
        _compare_items(folder, samples, args.method)


def _rows(data: Path, folder: Path, count: int) -> Path:
    lines = (data / _ROWS / "test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:count]
    path = folder / "data" / _ROWS / "test.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _models(method: str, folder: Path) -> dict[str, Path]:
    from quantgate import quantize
    from quantgate.core.progress import Silent
    from quantgate.models.loading import load_tokenizer
    from quantgate.models.source import resolve_model
    from quantgate.store.store import Store, default_root

    subject = quantize("bundled", method, offline=True)
    original = resolve_model("bundled", None, Store(default_root(), Silent())).path
    place = folder / method
    subject.load("bfloat16", "cpu").save_pretrained(place)
    load_tokenizer(original, "bundled").save_pretrained(place)
    return {"fp16": original, "subject": place}


def _lm_eval(args: Any, folder: Path, side: str, model: Path, rows: Path) -> Path:
    """The sample file of one run of lm-eval."""
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    found = "import lm_eval, pathlib; print(pathlib.Path(lm_eval.__file__).parent / 'tasks' / 'arc' / 'arc_easy.yaml')"
    source = subprocess.run([args.peer_python, "-c", found], check=True, capture_output=True, text=True).stdout.strip()
    text = Path(source).read_text(encoding="utf-8")
    (tasks / "_base_yaml").write_text(text, encoding="utf-8")
    (tasks / "ours.yaml").write_text(f"include: _base_yaml\ntask: {_TASK}\n", encoding="utf-8")
    (tasks / "theirs.yaml").write_text(
        f"include: _base_yaml\ntask: {_TASK}_json\ndataset_path: json\ndataset_name: null\ntraining_split: null\n"
        f"validation_split: null\ndataset_kwargs:\n  data_files:\n    test: {rows}\n",
        encoding="utf-8",
    )
    out = folder / "lm" / side
    words = ["-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={model},dtype=bfloat16", "--tasks",
             f"{_TASK}_json", "--include_path", str(tasks), "--device", "cpu", "--batch_size", "16", "--log_samples",
             "--output_path", str(out)]  # fmt: skip
    subprocess.run([args.peer_python, *words], check=True, env=_environment(args.threads), stdout=subprocess.DEVNULL)
    return next(out.rglob("samples_*.jsonl"))


def _environment(threads: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
            "PYTHONPATH": str(ROOT)}  # fmt: skip


def _suite(args: Any, folder: Path) -> dict[str, Any]:
    words = ["--methods", args.method, "--task-file", str(folder / "tasks" / "ours.yaml"), "--data",
             str(folder / "data"), "--report-dir", str(folder / "report")]  # fmt: skip
    _ours("run", *words, threads=args.threads)
    report = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
    return {each["task"]: each for each in report["results"]}


def _ours(*words: str, threads: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "quantgate", *words], capture_output=True, text=True, env=_environment(threads)
    )
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    return done.stdout


def _compare(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    print(f"suite: {', '.join(ours)}; import: {', '.join(theirs)}")
    for task, mine in ours.items():
        ending = "_norm" if mine["metric"] == "acc_norm" else ""
        other = next(each for name, each in theirs.items() if name.endswith("_norm") == bool(ending))
        for field in _FIELDS:
            print(f"{task} {field}: suite {mine[field]}, import {other[field]}")


def _compare_items(folder: Path, samples: list[Path], method: str) -> None:
    """Items that the two programs score otherwise, by side."""
    lines = (folder / "report" / "evidence.jsonl").read_text(encoding="utf-8").splitlines()
    outcomes = {each["outcomes"]: each["items"] for each in map(json.loads, lines) if "outcomes" in each}
    for case in (each["case"] for each in map(json.loads, lines) if "case" in each):
        for side, file in zip(("reference", "subject"), samples, strict=True):
            theirs = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            name = "acc_norm" if case["rule"]["metric"]["name"] == "acc_norm" else "acc"
            scores = [each[name] for each in sorted(theirs, key=lambda row: row["doc_id"])]
            mine = [item[2] if isinstance(item, list) else item["score"] for item in outcomes[case[side]]]
            same = sum(one == other for one, other in zip(mine, scores, strict=True))
            print(f"{case['task']} {name}, {side} ({method if side == 'subject' else '16 bit'}): {same} of {len(mine)}")


if __name__ == "__main__":
    main()
