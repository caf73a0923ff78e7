"""Compare the reports of several models: ``python -m quantgate.efficiency report.json [report.json ...]``.

Prints the fronts of quality against bytes and against time over all subjects of all reports, 16-bit ones included, so
that a larger model in few bits meets a smaller one in 16; and the correlations of perplexity with every benchmark.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from quantgate.core import reading
from quantgate.core.errors import DataError, QuantgateError
from quantgate.core.records import Result
from quantgate.studies.pareto import REFERENCE, fronts
from quantgate.studies.proxy import proxies


def main(arguments: Sequence[str]) -> int:
    """Print what the reports say together; 0, or 4 for files that are no reports."""
    try:
        results = [result for name in arguments for result in read_results(Path(name))]
        bits = {subject: each for name in arguments for subject, each in read_bits(Path(name)).items()}
        if not results:
            raise DataError("reports", "no results", expected="at least one report.json with results")
    except QuantgateError as error:
        print(error, file=sys.stderr)
        return 4
    for front in fronts(results):
        print("\n".join(front.lines()))
    found = [proxy for proxy in proxies(results, bits) if not proxy.pearson.undefined]
    for scope in dict.fromkeys(proxy.scope for proxy in found):
        print(f"Correlations {scope}")
    for proxy in found:
        both = f"Pearson {proxy.pearson.words()}, Spearman {proxy.spearman.words()}"
        print(f"{proxy.proxy} with {proxy.task} over {proxy.pearson.n} subjects: {both}")
    return 0


def read_results(path: Path) -> list[Result]:
    """Results of a report.json with the model's name before each method's; the reference as a subject of its own.

    Raises:
        DataError: the file is missing, or no report.
    """
    models, report = _report(path)
    results = []
    for row in report["results"]:
        model = models[str(row.get("model", ""))]
        subject = replace(_result(row), method=f"{model}: {row['method']}", model="")
        results.append(subject)
        results.append(replace(subject, method=f"{model}: {REFERENCE}", value=subject.reference, companions={}))
    return list({result.key: result for result in results}.values())


def read_bits(path: Path) -> dict[str, float]:
    """Nominal bits of the subjects of a report.json, named as by :func:`read_results`. Raises DataError like it."""
    models, report = _report(path)
    subjects = [each for each in report.get("subjects") or [] if "bits_nominal" in each]
    return {f"{models[_model_of(each, models)]}: {each.get('method')}": each["bits_nominal"] for each in subjects}


def _model_of(subject: dict[str, Any], models: dict[str, str]) -> str:
    """The model that a subject's name within the run begins with; empty for the main one's."""
    first = str(subject.get("subject", "")).partition(":")[0]
    return first if first in models else ""


def _report(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The ids of its models by their names within the run, and the report."""
    try:
        report = reading.read_json(path, reading.MOST_RECORDS)
        models = {"": str(report["model"].get("id", path.stem))}
        models |= {str(each["name"]): str(each.get("id", each["name"])) for each in report.get("models", ())}
        return models, {**report, "results": list(report["results"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(str(path), f"cannot be read ({error})", expected="a report.json of the suite") from error


def _result(row: dict[str, Any]) -> Result:
    """The record of one row; numbers that the report has no value for are NaN."""
    texts = ("task", "dimension", "protocol", "method", "metric", "verdict", "reason")
    plain: dict[str, Any] = dict.fromkeys((field.name for field in fields(Result)[:16]), math.nan)
    plain |= dict.fromkeys(texts, "") | {"n_items": 0, "higher_is_better": True}
    known = {field.name for field in fields(Result)}
    return Result(**plain | {name: value for name, value in row.items() if name in known and value is not None})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
