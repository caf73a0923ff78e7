"""Text corpora for perplexity: two that every CPython carries, and the field's three from a data source.

Conventions of the field (GPTQ; paper A section 1.3): WikiText-2 test joined by blank lines, PTB test sentences joined
by spaces, C4 documents joined by spaces.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quantgate.errors import DataError
from quantgate.tasks.data import DataSource

_C4_DOCUMENTS: Final = 1100


def prose(data: DataSource) -> str:
    """English documentation prose: CPython's ``pydoc_data.topics``, topics in alphabetical order."""
    del data  # the same for every source
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def code(data: DataSource) -> str:
    """Python source text: a fixed list of CPython's own standard modules."""
    del data  # the same for every source
    root = Path(sysconfig.get_paths()["stdlib"])
    missing = [name for name in _MODULES if not (root / name).is_file()]
    if missing:
        raise DataError("corpus 'code'", f"{missing[0]} is missing from {root}", expected="a CPython with its sources")
    return "\n\n".join((root / name).read_text(encoding="utf-8") for name in _MODULES)


_MODULES: Final = ("argparse.py", "ast.py", "calendar.py", "collections/__init__.py", "configparser.py", "csv.py",
                   "dataclasses.py", "difflib.py", "doctest.py", "enum.py", "fractions.py", "heapq.py")  # fmt: skip


def wikitext2(data: DataSource) -> str:
    """WikiText-2 raw, test split, joined by blank lines."""
    rows = data.rows("Salesforce/wikitext", "wikitext-2-raw-v1", "test", {"text": str})
    return "\n\n".join(row["text"] for row in rows)


def ptb(data: DataSource) -> str:
    """Penn Treebank, test sentences joined by a space."""
    rows = data.rows("ptb-text-only/ptb_text_only", "penn_treebank", "test", {"sentence": str})
    return " ".join(row["sentence"] for row in rows)


def c4(data: DataSource) -> str:
    """C4 English, the first 1,100 documents of the validation split (a directory may only have ``train``)."""
    dataset = "allenai/c4"
    try:
        rows = data.rows(dataset, "en", "validation", {"text": str})
    except DataError:
        rows = data.rows(dataset, "en", "train", {"text": str})
    return " ".join(row["text"] for row in rows[:_C4_DOCUMENTS])


@dataclass(frozen=True)
class Corpus:
    """``dataset``: hub id it is read from, empty for text that CPython carries."""

    name: str
    domain: str
    dataset: str
    read: Callable[[DataSource], str]


CORPORA: Final[dict[str, Corpus]] = {
    corpus.name: corpus
    for corpus in (
        Corpus("prose", "English documentation", "", prose),
        Corpus("code", "Python source", "", code),
        Corpus("wikitext2", "English encyclopedia", "Salesforce/wikitext", wikitext2),
        Corpus("ptb", "English news", "ptb-text-only/ptb_text_only", ptb),
        Corpus("c4", "English web text", "allenai/c4", c4),
    )
}
