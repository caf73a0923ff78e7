"""The option of the reports. It stands alone, so that ``--help`` can show it without importing what writes them."""

from __future__ import annotations

from pathlib import Path

import pytest


def add_report_options(parser: pytest.Parser) -> None:
    """Register where the reports go."""
    where = "where report.json and report.md go (default: reports/out)"
    parser.getgroup("quantgate").addoption("--report-dir", type=Path, metavar="DIR", help=where)
