"""``python -m quantgate.quantize.catalogue.docs`` writes docs/methods.md from the table; ``--check`` only compares."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

from quantgate.core import reading
from quantgate.models.architectures import ONLY_REFERENCE, QUANTIZABLE, SUCCESSORS
from quantgate.quantize.base import Method, Settings
from quantgate.quantize.catalogue.methods import ALGORITHMS, METHODS, NO_WEIGHTS, TRANSFORMATIONS, Later
from quantgate.quantize.settings import as_settings

PAGE: Final = Path(__file__).resolve().parents[3] / "docs" / "methods.md"


@dataclass(frozen=True)
class About:
    """What a reader wants to know of an algorithm: the formula in a line, what it costs, when it is the right one."""

    title: str
    formula: str
    cost: str
    use: str


ABOUT: Final[dict[str, About]] = {
    "rtn": About(
        "RTN: round to nearest",
        "`q = round(w / s) + z`, `s` from the range of each group",
        "one pass over the weights",
        "the baseline of every comparison; good enough at 8 bit",
    ),
    "gptq": About(
        "GPTQ",
        "column by column: `e = (w_j - q_j) / U_jj`, later columns get `- e U_jk`, `U^T U = H^-1`",
        "one forward of the calibration text, second moments, a column loop for every layer",
        "the usual choice at 4 bit, widely readable checkpoints",
    ),
    "clipped_rtn": About(
        "AWQ's second half: RTN within searched ranges",
        "per group: the shrink of `[min, max]` that minimizes `d H d^T`",
        "one forward and second moments; ten candidates a group",
        "after AWQ's scales, at 4 and 3 bit",
    ),
    "spqr": About(
        "SpQR",
        "GPTQ in groups of 16 with 3-bit statistics; weights with `(w - q)^2 / U_jj^2 > tau` stay 16 bit",
        "GPTQ's and a leave-one-out fit for every weight: about twice GPTQ's",
        "2 and 3 bit with little loss; needs a reader of its layout",
    ),
    "slim": About(
        "SliM-LLM",
        "the `p` most salient groups get `N + 1` bits, the `p` least salient `N - 1`; then GPTQ",
        "GPTQ's and a search for `p` by divergence of outputs",
        "2 bit on average",
    ),
    "omniquant": About(
        "OmniQuant",
        "ranges `[sigmoid(b) min w, sigmoid(a) max w]`, and scales of inputs, learned by AdamW: a block's output again",
        "published: hours on a CPU; brief rows: four to five times GPTQ's",
        "4 to 2 bit in a layout that everybody reads, and 4-bit inputs",
    ),
    "quip": About(
        "QuIP",
        "LDL rounding of `U W D V^T` under the rotated Hessian, one grid of 2.4 rms (or 2.1, 1.8 at 3, 2 bit)",
        "GPTQ's and two fast rotations",
        "2 and 3 bit; loads as a plain weight",
    ),
    "easyquant": About(
        "EasyQuant",
        "weights beyond 3 sigma stay 16 bit; `s = argmin |s c - x|^2` for the others",
        "a range search over the weights, no data",
        "4 bit without any calibration text",
    ),
    "float": About(
        "Floating-point formats",
        "nearest value of E4M3, E5M2 or E2M1 times a scale of its row or block",
        "one pass over the weights",
        "hardware with FP8 or FP4 units",
    ),
    "hqq": About(
        "HQQ",
        "zero points by half-quadratic splitting of `|w - q|` in the norm 0.7",
        "a few passes over the weights, no data",
        "4 bit without calibration; an optional library does it",
    ),
    "llm_int8": About(
        "LLM.int8",
        "rows of weights and inputs in int8; input columns with a value of 6 or more in 16 bit",
        "one pass over the weights",
        "8 bit that are computed as integers, as bitsandbytes does",
    ),
    "bnb_4bit": About(
        "NF4 and FP4",
        "the nearest of sixteen levels times the largest magnitude of a block of 64",
        "one pass over the weights",
        "4 bit that transformers and bitsandbytes load at once; QLoRA",
    ),
    NO_WEIGHTS: About(
        "Weights stay",
        "keys and values: `q = round(x / s) + z` by token and group of channels",
        "none",
        "to see what a quantized key/value cache alone costs",
    ),
    "awq": About(
        "AWQ's scales",
        "`s = mean|x|^r / mean|w|^(1-r)`, `r` of 20 by least `tr(d H d^T)`; `w s` is rounded, `1/s` folded away",
        "21 trial roundings of every weight",
        "before RTN or GPTQ, at 4 and 3 bit",
    ),
    "rotation": About(
        "Rotation",
        "the residual stream times an orthogonal `R`, values times one a head, folded into the weights around them",
        "a Hadamard transform of every weight",
        "before rounding inputs to 4 bit; outliers are spread over all channels",
    ),
    "smoothquant": About(
        "SmoothQuant",
        "`s = max|x|^a / max|w|^(1-a)`; norms carry `1/s`",
        "one forward of the calibration text",
        "before int8 activations",
    ),
}


def page() -> str:
    """The whole of docs/methods.md."""
    head = [
        "# The methods",
        "",
        "Written by `python -m quantgate.quantize.catalogue.docs` from the method table; a test compares.",
        "`pytest evals` runs the rows marked *standard*; name others with `--methods a,b` or `-k`, or all with",
        "`--methods all`. Mix them with `--recipe FILE` (`quantgate/quantize/catalogue/recipe.py` shows the format).",
        "Other packages add rows by the entry point group `quantgate.methods`",
        "(`quantgate/quantize/catalogue/plugins.py`).",
        "",
        "W/A/KV: nominal bits of weights, of the inputs of linear layers, of keys and values. *packed*: integers on",
        "disk; *fake*: 16-bit tensors. A or KV below 16 is simulated in the forward of the loaded checkpoint, LLM.int8",
        "alone excepted. What scales, zero points and outliers add is in each report as effective bits.",
        "",
    ]
    rows = [[f"`{m.id}`", _bits(m), _yes(m.needs_calibration), m.storage, _yes(m.standard), m.summary] for m in _rows()]
    table = _table(("method", "W/A/KV", "calibration", "stored", "standard", "what it does"), rows)
    return "\n".join([*head, *table, "", *_architectures(), *_sections()]) + "\n"


def _architectures() -> list[str]:
    """Which models the methods can be applied to, from the lists that are checked before anything is loaded."""
    return [
        "## Architectures",
        "",
        "Any causal language model that transformers loads can be the reference of a candidate. What is quantized here",
        "must keep all matrices of its decoder blocks in linear layers; these were tried with small random models:",
        "",
        *wrap(", ".join(sorted(QUANTIZABLE)) + ".", 120),
        "",
        "These hold other weights (Conv1D, fused experts, state spaces, parts for an encoder) and are refused at once,",
        "unless only candidates are judged:",
        "",
        *wrap(", ".join(sorted(ONLY_REFERENCE)) + ".", 120),
        "",
        "Code that a checkpoint brings along (`auto_map`) is never run. The source papers' own models need theirs;",
        "nearest to them, and without it:",
        "",
        *(f"- `{name}`: {successor}." for name, successor in SUCCESSORS.items()),
        "",
    ]


def _rows() -> list[Method]:
    return sorted(METHODS.values(), key=lambda method: (list(ABOUT).index(_algorithm(method)), not method.standard))


def _algorithm(method: Method) -> str:
    return method.algorithm if method.algorithm in ABOUT else NO_WEIGHTS


def _bits(method: Method) -> str:
    return f"{method.bits}/{method.activation_bits}/{method.kv_cache.bits if method.kv_cache else 16}"


def _yes(value: bool) -> str:
    return "yes" if value else "-"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(header)
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]


def _sections() -> list[str]:
    lines = ["## How they work", ""]
    for key, about in ABOUT.items():
        mine = [method for method in METHODS.values() if key in _keys(method)]
        lines += [f"### {about.title}", "", about.formula + ".", "", f"- Cost: {about.cost}.", f"- Use: {about.use}."]
        lines += [f"- Source: {source}." for source in dict.fromkeys(method.source for method in mine)]
        settings = [found for method in mine if (found := _settings(method, key))]
        if settings:
            lines += [f"- Settings ({type(settings[0]).__name__}): {_description(settings[0])}"]
            lines += [f"  - `{method.id}`: {_values(_settings(method, key))}" for method in mine]
        lines.append("")
    return lines[:-1]


def _keys(method: Method) -> tuple[str, ...]:
    name = method.as_record().get("transformation", {}).get("name")
    return tuple(key for key in (method.algorithm, name, "rotation" if method.rotation else None) if key)


def _settings(method: Method, key: str) -> Settings | None:
    if key == method.algorithm:
        return method.settings if key != NO_WEIGHTS else method.kv_cache
    if key == "rotation":
        return method.rotation
    return method.transformation


def _description(settings: Settings) -> str:
    return " ".join((inspect.getdoc(type(settings)) or "").split("Raises:")[0].split())


def _values(settings: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in as_settings(settings).items())


def undescribed() -> set[str]:
    """Algorithms and transformations of this package that the page says nothing about."""
    own = {key for key, made in ALGORITHMS.items() if isinstance(made, Later)}
    names = {kind.__name__.removesuffix("Settings").lower() for kind in TRANSFORMATIONS}
    return (own | names) - set(ABOUT)


def main() -> None:
    """Write the page, or with ``--check`` fail if it would change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the page is not up to date")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.is_file() or reading.read_text(PAGE) != page():
        raise SystemExit(f"{PAGE} is not up to date: run python -m quantgate.quantize.catalogue.docs")


if __name__ == "__main__":
    main()
