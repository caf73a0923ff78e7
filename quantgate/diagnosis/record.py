"""A diagnosis as one record, and what is read off it: lines for a terminal, CSV. Pictures: `picture`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from quantgate.core.reading import visible
from quantgate.diagnosis.causes import causes_of, worst_tokens
from quantgate.diagnosis.profile import Profile
from quantgate.diagnosis.scan import Row, Scan, ranks_agree, sums, value_of
from quantgate.diagnosis.units import ASPECT, LEVELS

SCHEMA: Final = 1
_SHOWN_LEVELS: Final = (ASPECT, *LEVELS)
_SHOWN: Final = 5  # rows of a level on a terminal
_TOKENS: Final = 12
_CONTEXT: Final = 12  # tokens before a worst one
COLUMNS: Final = (
    "level", "unit", "component", "block", "weights", "estimate", "isolated", "isolated_low", "isolated_high", "loss",
    "marginal", "measured",
)  # fmt: skip


def record_of(
    scan: Scan, profiles: Mapping[str, Profile], decode: Callable[[tuple[int, ...]], str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything, for JSON. ``decode``: tokens as text; ``facts``: who was compared with whom on what."""
    by_item = {segment.item: segment for segment in scan.segments}
    worst = []
    for each in worst_tokens(scan, _TOKENS):
        tokens = by_item[each.item].tokens
        before = decode(tokens[max(0, each.position - _CONTEXT) : each.position])
        worst.append(asdict(each) | {"before": before, "text": decode((each.token,))})
    whole = scan.whole
    return {
        "schema": SCHEMA,
        **facts,
        "segments": len(scan.segments),
        "positions": len(whole.divergence),
        "whole": value_of(whole.by_segment()).as_record(),
        "whole_loss": value_of(whole.by_segment(whole.loss)).as_record(),
        "items": dict(zip(by_item, whole.by_segment(), strict=True)),
        "levels": {level: [_row(row) for row in scan.of(level)] for level in _SHOWN_LEVELS if scan.of(level)},
        "sums": {level: dict(sums(scan, level)) for level in _SHOWN_LEVELS if scan.of(level)},
        "agreement": {level: _number(ranks_agree(scan.of(level))) for level in _SHOWN_LEVELS if scan.of(level)},
        "causes": [cause.as_record() for cause in causes_of(scan, profiles)],
        "profiles": {name: found.as_record() for name, found in profiles.items()},
        "worst_tokens": worst,
        "folded": sorted(f"{kind} of block {block}" for block, kind in scan.anatomy.tied),
        "forwards": scan.spent,
        "cpu_seconds": scan.seconds,
    }


def _row(row: Row) -> dict[str, Any]:
    unit = row.unit
    parts = {name: getattr(row, name) for name in ("estimate", "isolated", "loss", "marginal")}
    return {
        "unit": unit.name,
        "component": unit.component,
        "block": unit.block,
        "modules": list(unit.modules),
        "weights": row.weights,
        **{name: {key: _number(x) for key, x in value.as_record().items()} if value else None
           for name, value in parts.items()},
        "measured": row.why,
    }  # fmt: skip


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The record for a terminal."""
    whole = record["whole"]
    yield (
        f"{record['subject']} against {record['model']}: KL {_spread(whole)} nats a token, "
        f"the text's own tokens {_spread(record['whole_loss'])} less likely; {record['segments']} segments, "
        f"{record['positions']} positions"
    )
    yield ""
    for cause in record["causes"]:
        yield f"{cause['kind']}: {cause['sentence']}"
    for level, rows in record["levels"].items():
        yield ""
        yield from _table(level, rows, record["agreement"][level])
    yield ""
    yield "tokens with the greatest divergence"
    for each in record["worst_tokens"][:_SHOWN]:
        before, token = visible(each["before"]), visible(each["text"])
        yield f"  {each['divergence']:7.3f}  {each['item']}:{each['position']}  …{before[-40:]!r} -> {token!r}"
    if record["folded"]:
        yield ""
        yield f"scales are folded across {len(record['folded'])} components: the smallest units that can be exchanged"
    yield ""
    spent = record["forwards"]
    parts = ", ".join(f"{name} {value:.1f}" for name, value in spent.items())
    total, seconds = sum(spent.values()), record["cpu_seconds"]
    yield f"cost in forwards of the whole model: {total:.1f} ({parts}); {seconds:.0f} s of CPU"


def _table(level: str, rows: Sequence[Mapping[str, Any]], agreement: float | None) -> Iterator[str]:
    measured = sum(row["isolated"] is not None for row in rows)
    agrees = "" if agreement is None else f"; ranks of estimates and measured effects agree by {agreement:.2f}"
    yield f"{level}: {len(rows)} changed, {measured} measured{agrees}"
    yield f"  {'isolated [95%]':>26}  {'estimate':>9}  {'marginal':>9}  unit"
    for row in rows[:_SHOWN]:
        isolated = _spread(row["isolated"]) if row["isolated"] else "-"
        marginal = f"{row['marginal']['mean']:9.4f}" if row["marginal"] else f"{'-':>9}"
        yield f"  {isolated:>26}  {row['estimate']['mean']:9.4f}  {marginal}  {row['unit']}"


def _spread(value: Mapping[str, float | None]) -> str:
    low, high = value["low"], value["high"]
    inside = "" if low is None or high is None or not math.isfinite(low) else f" [{low:.4f}, {high:.4f}]"
    return f"{value['mean']:.4f}{inside}"


def as_csv(record: Mapping[str, Any]) -> str:
    """One line a unit; columns: `COLUMNS`, effects in nats a token."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for level, rows in record["levels"].items():
        for row in rows:
            isolated = row["isolated"] or {}
            writer.writerow(
                [level, row["unit"], row["component"], row["block"], row["weights"], row["estimate"]["mean"],
                 isolated.get("mean"), isolated.get("low"), isolated.get("high"), (row["loss"] or {}).get("mean"),
                 (row["marginal"] or {}).get("mean"), row["measured"]]
            )  # fmt: skip
    return out.getvalue()
