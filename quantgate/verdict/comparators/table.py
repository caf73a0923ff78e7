"""The comparators by kind of metric; entry point group ``quantgate.comparators``."""

from __future__ import annotations

from typing import Final

from quantgate.core.errors import UsageError
from quantgate.core.metrics import Metric
from quantgate.core.registry import rows_of, with_packages
from quantgate.verdict.comparators.binary import Binary
from quantgate.verdict.comparators.corpus import Corpus
from quantgate.verdict.comparators.means import ExpMean, Mean
from quantgate.verdict.comparators.protocol import Comparator

GROUP: Final = "quantgate.comparators"
_OWN: Final[tuple[Comparator, ...]] = (Binary(), Mean(), ExpMean(), Corpus())


def _kind(row: Comparator) -> str:
    return row.kind


COMPARATORS: Final[dict[str, Comparator]] = with_packages(
    lambda: rows_of(GROUP, Comparator, _OWN, _kind), lambda: {row.kind: row for row in _OWN}
)


def comparator_of(metric: Metric) -> Comparator:
    """How results of ``metric`` are compared. Raises UsageError when no comparator knows its kind."""
    if metric.kind not in COMPARATORS:
        raise UsageError(
            f"metric {metric.name}",
            f"nothing compares the kind {metric.kind!r}",
            expected=" or ".join(COMPARATORS),
            hint="install the package that brings its comparator, or mend the one that brings the metric",
        )
    return COMPARATORS[metric.kind]
