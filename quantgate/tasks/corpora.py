"""Text corpora for perplexity: two that every CPython carries, and the field's three from a data source.

Conventions of the field (GPTQ; paper A): WikiText-2 test joined by blank lines, PTB test sentences joined
by spaces, the first 1,100 C4 documents of the first validation shard joined by spaces.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quantgate.core import reading
from quantgate.core.errors import DataError
from quantgate.tasks.data import DataSource

_C4_DOCUMENTS: Final = 1100
_BLANK: Final = re.compile(r"\n\s*\n")


def prose(data: DataSource) -> str:
    """English documentation prose: CPython's ``pydoc_data.topics``, topics in alphabetical order, each paragraph once.

    Topics quote each other at length, and a segment that repeats an earlier one is not asked.
    """
    del data  # the same for every source
    from pydoc_data.topics import topics

    paragraphs = (part.strip("\n") for name in sorted(topics) for part in _BLANK.split(topics[name]))
    return "\n\n".join(dict.fromkeys(filter(None, paragraphs)))


def code(data: DataSource) -> str:
    """Python source text: a fixed list of CPython's own standard modules."""
    del data  # the same for every source
    root = Path(sysconfig.get_paths()["stdlib"])
    missing = [name for name in _MODULES if not (root / name).is_file()]
    if missing:
        raise DataError("corpus 'code'", f"{missing[0]} is missing from {root}", expected="a CPython with its sources")
    return "\n\n".join(reading.read_text(root / name) for name in _MODULES)


_MODULES: Final = ("argparse.py", "ast.py", "calendar.py", "collections/__init__.py", "configparser.py", "csv.py",
                   "dataclasses.py", "difflib.py", "doctest.py", "enum.py", "fractions.py", "heapq.py")  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """The rows of a benchmark that make a text: which split, which field, how many, and what stands between them.

    ``shard`` says which files of the hub's dataset that split is read from, where it is not all of them.
    """

    dataset: str
    config: str
    split: str
    field: str
    joint: str
    first: int | None = None
    shard: str = ""

    def __call__(self, data: DataSource) -> str:
        """The text. Raises DataError when the source lacks this split: no other one stands in for it."""
        rows = data.rows(self.dataset, self.config, self.split, {self.field: str})
        return self.joint.join(row[self.field] for row in rows[: self.first])

    @property
    def described(self) -> str:
        """The split and what is done with it, for protocols."""
        which = f"first {self.first:,} documents of {self.split}" if self.first else self.split
        shard = f" ({self.shard})" if self.shard else ""
        joint = {"\n\n": "blank lines", " ": "spaces"}[self.joint]
        return f"{self.dataset} {self.config} {which}{shard}, joined by {joint}"


@dataclass(frozen=True)
class Corpus:
    """``rows``: where it is read from, None for text that CPython carries.

    ``length``, ``segments``: tokens of a segment, and how many of them a run reads that gives no ``--limit``: as many
    as a verdict under the shipped margin needs, which is all of WikiText-2. The carried texts are read in many short
    segments: a verdict rests on the number of segments, its cost on that of tokens.
    """

    name: str
    domain: str
    described: str
    read: Callable[[DataSource], str]
    rows: Rows | None = None
    length: int = 2048
    segments: int = 140

    @property
    def dataset(self) -> str:
        """Hub id, empty for text that CPython carries."""
        return self.rows.dataset if self.rows else ""

    def in_(self, data: DataSource) -> bool:
        """Whether ``data`` may have this very split."""
        return self.rows is None or data.has(self.rows.dataset, self.rows.config, self.rows.split)


def _of_rows(name: str, domain: str, rows: Rows) -> Corpus:
    return Corpus(name, domain, rows.described, rows, rows)


CORPORA: Final[dict[str, Corpus]] = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            "prose",
            "English documentation",
            "CPython's pydoc topics, each paragraph once, joined by blank lines",
            prose,
            length=256,
            segments=64,
        ),
        Corpus(
            "code",
            "Python source",
            f"{len(_MODULES)} modules of CPython, joined by blank lines",
            code,
            length=256,
            segments=64,
        ),
        _of_rows(
            "wikitext2",
            "English encyclopedia",
            Rows("Salesforce/wikitext", "wikitext-2-raw-v1", "test", "text", "\n\n"),
        ),
        _of_rows("ptb", "English news", Rows("ptb-text-only/ptb_text_only", "penn_treebank", "test", "sentence", " ")),
        _of_rows(
            "c4",
            "English web text",
            Rows("allenai/c4", "en", "validation", "text", " ", _C4_DOCUMENTS, "hub: shard 00000 of 00008"),
        ),
    )
}
