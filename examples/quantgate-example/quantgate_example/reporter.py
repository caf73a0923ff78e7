"""A reporter: a file beside the report, made of report.json's content alone."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from quantgate.reports.reporters import Reporter

COLUMNS = ("method", "task", "metric", "n_items", "reference", "value", "ci_low", "ci_high", "margin", "verdict")


def as_csv(content: Mapping[str, Any]) -> str:
    """One line a case."""
    text = io.StringIO()
    lines = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    lines.writeheader()
    lines.writerows(content["results"])
    return text.getvalue()


CSV = Reporter("csv", "results.csv", as_csv)
