"""Every method x its bits on one model: perplexity, KL divergence, effective bits, bytes, seconds, as a markdown table.

    python benchmarks/method_table.py                                   # all rows, bundled model, bundled text
    python benchmarks/method_table.py --methods rtn4,gptq4 --limit 6    # some rows, six segments
    python benchmarks/method_table.py --print                           # only the table of what is there already

A row is appended to a JSON-lines file as soon as it is measured and never measured twice for the same question (model,
method with its settings, text, calibration), so the script can be stopped and started again at any time. Quantized
models and answers come from the suite's store when it has them; ``seconds`` is the time that quantizing took, loading
and saving included, when it was done.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from quantgate.core.errors import QuantgateError  # noqa: E402

COLUMNS = ("method", "W/A", "perplexity", "x 16 bit", "KL divergence", "effective bits", "MB on disk", "seconds")


def main() -> None:
    args = parse()
    rows = read(args.out)
    if not args.print:
        evaluation = build(args)
        for method in methods(args):
            key = question(args, evaluation, method)
            if not any(row["question"] == key for row in rows):
                try:
                    row = {"question": key, **measure(evaluation, method)}
                except QuantgateError as error:  # an optional library that is missing, a shape the format does not have
                    print(f"| {method.id} | not measured: {error} |", flush=True)
                    continue
                append(args.out, row)
                rows.append(row)
                print(line(row), flush=True)
        rows = [row for row in rows if {**row["question"], "method": 0} == {**question(args, evaluation), "method": 0}]
    print(f"\n{'| ' + ' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    order = {method.id: place for place, method in enumerate(methods(args))}
    for row in sorted(rows, key=lambda row: order.get(row["method"], len(order))):
        print(line(row))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--methods", type=lambda text: text.split(","), help="rows of the table (default: all)")
    parser.add_argument("--corpus", default="prose", help="text of the tasks perplexity_* and kld_*")
    parser.add_argument("--limit", type=int, help="segments of text (default: all)")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a segment")
    parser.add_argument("--calibration-samples", type=int, default=128)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--out", type=Path, default=Path("method_table.jsonl"), help="JSON-lines file of finished rows")
    parser.add_argument("--print", action="store_true", help="measure nothing")
    return parser.parse_args()


def methods(args: argparse.Namespace) -> list:
    from quantgate.quantize.catalogue.methods import METHODS, get_methods

    return get_methods(args.methods) if args.methods else list(METHODS.values())


def build(args: argparse.Namespace):
    from quantgate.core.progress import Silent
    from quantgate.quantize.calibration.sources import CalibrationChoice
    from quantgate.runs.evaluation import Evaluation
    from quantgate.runs.options import Options, Sources
    from quantgate.store.store import Store, default_root
    from quantgate.tasks.base import Selection
    from quantgate.tasks.data import open_data
    from quantgate.tasks.table import select_tasks
    from quantgate.verdict.policy_file import load_policy

    data = open_data("bundled", ROOT / "evals" / "data", offline=True)
    options = Options(
        model=args.model,
        selection=Selection(limit=args.limit),
        calibration=CalibrationChoice(n_samples=args.calibration_samples),
    )
    tasks = select_tasks([f"perplexity_{args.corpus}", f"kld_{args.corpus}"], data)
    tasks = [replace(task, length=args.length) for task in tasks]  # the suite reads many short segments
    progress = Silent()
    return Evaluation(
        options,
        tasks,
        Sources(data, data),
        Store(args.store or default_root(), progress),
        load_policy(ROOT / "evals" / "policy.toml"),
        ROOT / "baselines",
    )


def question(args: argparse.Namespace, evaluation, method=None) -> dict:
    return {
        "model": evaluation.model.digest.weights,
        "method": json.loads(json.dumps(method.as_record())) if method else 0,
        "text": [args.corpus, args.limit, args.length],
        "calibration_samples": args.calibration_samples,
    }


def measure(evaluation, method) -> dict:
    start = time.perf_counter()
    perplexity, divergence = (evaluation.result(method, task) for task in evaluation.questions.planned.tasks)
    record = evaluation.subject(method).record
    evaluation.release()
    return {
        "method": method.id,
        "bits": method.bits,
        "activation_bits": method.activation_bits,
        "perplexity": perplexity.value,
        "reference": perplexity.reference,
        "kld": divergence.value,
        "bits_effective": record.bits_effective,
        "bytes_on_disk": record.bytes_on_disk,
        "quantize_seconds": record.seconds,
        "row_seconds": time.perf_counter() - start,
    }


def read(path: Path) -> list[dict]:
    """The finished rows; a last line that was cut off by a kill is dropped, from the file too."""
    if not path.exists():
        return []
    whole = [text for text in path.read_text(encoding="utf-8").splitlines(keepends=True) if text.endswith("\n")]
    path.write_text("".join(whole), encoding="utf-8")
    return [json.loads(text) for text in whole]


def append(path: Path, row: dict) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, sort_keys=True) + "\n")


def line(row: dict) -> str:
    cells = (
        row["method"],
        f"{row['bits']}/{row['activation_bits']}",
        f"{row['perplexity']:.3f}",
        f"{row['perplexity'] / row['reference']:.4f}",
        f"{row['kld']:.4f}",
        f"{row['bits_effective']:.3f}",
        f"{row['bytes_on_disk'] / 1e6:.1f}",
        f"{row['quantize_seconds']:.1f}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
