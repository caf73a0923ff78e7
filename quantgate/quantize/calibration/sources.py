"""Named calibration sets: bundled chat dialogues (default), or the text corpora of a data source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quantgate.core.errors import UsageError
from quantgate.core.naming import suggestion
from quantgate.quantize.calibration.samples import Calibration, draw, segments
from quantgate.tasks.data import DataSource
from quantgate.tasks.prompts import Prompts

DIALOGUES: Final = "dialogues"
_DATASET: Final = "quantgate/dialogues"
_CONFIG: Final = "default"


@dataclass(frozen=True)
class CalibrationChoice:
    """``name``: ``dialogues`` or a corpus (``wikitext2``, ``ptb``, ``c4``). ``length``: tokens of a corpus segment;
    dialogues keep their native length (paper A)."""

    name: str = DIALOGUES
    n_samples: int = 128
    length: int = 512
    seed: int = 1234


_SPLIT: Final = "train"  # of every corpus: the test splits are what perplexity is measured on
_CORPORA: Final = {
    "wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1", "text", "\n\n", "English encyclopedia"),
    "ptb": ("ptb-text-only/ptb_text_only", "penn_treebank", "sentence", " ", "English news"),
    "c4": ("allenai/c4", "en", "text", "\n\n", "English web text"),
}
NAMES: Final = (DIALOGUES, *_CORPORA)


def corpora_in(data: DataSource) -> list[str]:
    """Names of the corpora whose train split ``data`` has; the hub is believed to have all, without being asked."""
    places = {name: where[:2] for name, where in _CORPORA.items()}
    if data.name == "hub":
        return list(places)
    return [name for name, (dataset, config) in places.items() if "train" in data.splits(dataset, config)]


def corpus_datasets() -> list[str]:
    """Hub ids of the corpora."""
    return [dataset for dataset, *_ in _CORPORA.values()]


def place_of(name: str) -> str:
    """Where a data directory holds the text of a corpus, for messages."""
    dataset, config, *_ = _CORPORA[name]
    return f"{dataset.replace('/', '__')}/{config}/train.jsonl"


def count_dialogues(bundled: DataSource) -> int:
    """How many dialogues there are to draw from."""
    return len(bundled.rows(_DATASET, "default", "train", {"messages": list}))


def build_calibration(
    choice: CalibrationChoice, data: DataSource, bundled: DataSource, prompts: Prompts
) -> Calibration:
    """The set called ``choice.name``; dialogues come from the bundled data, corpora from ``data``.

    Raises:
        UsageError: an unknown name.
        DataError: the data source has no such text, or too little.
    """
    if choice.name == DIALOGUES:
        return _dialogues(choice, bundled, prompts)
    if choice.name not in _CORPORA:
        raise UsageError("--calibration", f"unknown set {choice.name!r}", hint=suggestion(choice.name, NAMES))
    dataset, config, field, joint, domain = _CORPORA[choice.name]
    text = joint.join(row[field] for row in data.rows(dataset, config, _SPLIT, {field: str}))
    tokens, first = prompts.plain(text), prompts.first
    cuts = segments(
        tokens, choice.n_samples, choice.length - len(first), choice.seed, f"calibration set {choice.name!r}"
    )
    return Calibration(
        choice.name,
        domain,
        tuple((*first, *cut) for cut in cuts),  # as in the perplexity tasks: some models need their first token
        tuple(prompts.decode(cut) for cut in cuts),
        choice.seed,
        f"{dataset if data.name != 'hub' else data.origin(dataset)} {config}, split {_SPLIT}",
    )


def _dialogues(choice: CalibrationChoice, bundled: DataSource, prompts: Prompts) -> Calibration:
    rows = bundled.rows(_DATASET, _CONFIG, _SPLIT, {"messages": list})
    order = draw(
        [str(index) for index in range(len(rows))], choice.n_samples, choice.seed, "calibration set 'dialogues'"
    )
    chosen = [rows[int(index)]["messages"] for index in order]
    samples = tuple(prompts.dialogue(messages) for messages in chosen)
    texts = tuple("\n".join(message["content"] for message in messages) for messages in chosen)
    return Calibration(DIALOGUES, "chat", samples, texts, choice.seed, f"{_DATASET} {_CONFIG}, split {_SPLIT}")
