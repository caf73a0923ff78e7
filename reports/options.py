"""The option of the reports. It stands alone, so that ``--help`` can show it without importing what writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quantgate.core.configuration import configuration


def add_report_options(parser: pytest.Parser) -> None:
    """Register where the reports go."""
    where = "where report.json and report.md go (default: reports/out)"
    settings: dict[str, Any] = {"type": Path, "metavar": "DIR"}
    settings |= configuration().default(("--report-dir",), settings)
    parser.getgroup("quantgate").addoption("--report-dir", help=where, **settings)
