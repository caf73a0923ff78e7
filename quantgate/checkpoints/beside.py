"""What lies beside the weights of a checkpoint, against the reference's: configuration, tokenizer, template, endings.

Tokenizers are compared by what they do. The candidate's chat template is compared as text and never rendered: it may
loop. What a runtime does at generation (end tokens, penalties) is no part of what is scored here, so that a difference
is an error where answers would come out otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from quantgate.checkpoints.findings import ERROR, WARNING, Finding
from quantgate.core.errors import ModelError
from quantgate.models import ending
from quantgate.models.files import VOCABULARIES, read_json
from quantgate.models.loading import load_tokenizer
from quantgate.models.sameness import configuration_problems

_PROBES: Final = ("The 3 ships sailed at 07:45.", "  naïve café — 东京\n\tdef f(x): return x**2", "<|im_start|>user")
_WORDS: Final = 64  # tokens of the vocabulary in one probe
_GENERATION: Final = "generation_config.json"
_SAMPLING: Final = ("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p")


def beside(place: Path, reference: Path, who: str) -> list[Finding]:
    """All findings about the files beside the weights of the directory ``place``.

    Raises:
        ModelError: a configuration or tokenizer of the reference that cannot be read.
    """
    findings = [Finding("config", ERROR, sentence) for sentence in configuration_problems(reference, place)]
    ours = load_tokenizer(reference, str(reference))
    if not any((place / name).is_file() for name in VOCABULARIES):
        return [*findings, Finding("tokenizer", ERROR, "it brings no tokenizer")]
    try:
        theirs = load_tokenizer(place, who)
    except ModelError as error:
        return [*findings, Finding("tokenizer", ERROR, error.found)]
    return [*findings, *tokenizer_findings(ours, theirs), *ending_findings(reference, place, ours, theirs)]


# --- tokenizer -------------------------------------------------------------------------------------------------------


def tokenizer_findings(ours: Any, theirs: Any) -> list[Finding]:
    """How the candidate's tokenizer differs from the reference's in what it does; the first difference found."""
    numbers = theirs.get_vocab()
    if any(numbers.get(token) != number for token, number in ours.get_vocab().items()):
        return [_tokenizer("numbers tokens otherwise than the reference's")]
    for probe in _probes(ours):
        ids = ours.encode(probe)
        if ids != theirs.encode(probe):
            return [_tokenizer("splits text otherwise than the reference's")]
        if ours.decode(ids) != theirs.decode(ids):
            return [_tokenizer("turns tokens into other text than the reference's")]
    if theirs.chat_template and ours.chat_template != theirs.chat_template:
        return [Finding("template", ERROR, "the candidate's chat template is not the reference's")]
    return []


def _tokenizer(what: str) -> Finding:
    return Finding("tokenizer", ERROR, f"the candidate's tokenizer {what}")


def _probes(tokenizer: Any) -> list[str]:
    """Texts that show how a tokenizer splits: a few odd ones, and every token of its vocabulary as a word.

    A merge that is missing or comes too late shows in no text but those that need it.
    """
    words = [tokenizer.convert_tokens_to_string([token]) for token in sorted(tokenizer.get_vocab())]
    lines = [" ".join(words[start : start + _WORDS]) for start in range(0, len(words), _WORDS)]
    return [*_PROBES, *lines]


# --- how answers end -------------------------------------------------------------------------------------------------


def ending_findings(reference: Path, place: Path, ours: Any, theirs: Any) -> Iterator[Finding]:
    """What a runtime would do otherwise when it generates: end tokens, penalties, sampling.

    ``ours`` and ``theirs``: the tokenizers. An end token that is lost is an error where answers end with it: the one
    that the chat template puts behind a turn, or the only one.

    Raises:
        ModelError: a file that is no JSON object.
    """
    wanted, found = _ends(reference), _ends(place)
    lost = wanted - found
    if lost and (not wanted & found or ending.end_of_turn(ours) in lost):
        yield Finding("end_token", ERROR, f"answers no longer end with token {_named(lost)}, as the reference's do")
    elif wanted != found:
        yield Finding("end_token", WARNING, f"answers end with {_named(found)}, the reference's with {_named(wanted)}")
    if theirs.eos_token_id not in wanted | {ours.eos_token_id}:
        yield Finding(
            "end_token", ERROR, f"the tokenizer's end token is {theirs.eos_token_id}, not {ours.eos_token_id}"
        )
    yield from _generation(reference, place)


def _generation(reference: Path, place: Path) -> Iterator[Finding]:
    one, other = (ending.ignored_generation_settings(path) for path in (reference, place))
    if added := {name: value for name, value in other.items() if one.get(name) != value}:
        sentence = f"{_GENERATION} asks for {_settings(added)}, which the reference does not and nobody computes here"
        yield Finding("generation", ERROR, sentence)
    if gone := {name: value for name, value in one.items() if name not in other}:
        yield Finding("generation", WARNING, f"{_GENERATION} no longer asks for {_settings(gone)}")
    mine, yours = (_read(path / _GENERATION) for path in (reference, place))
    if (place / _GENERATION).is_file() and (
        changed := {name: yours.get(name) for name in _SAMPLING if mine.get(name) != yours.get(name)}
    ):
        yield Finding("generation", WARNING, f"{_GENERATION} draws answers otherwise: {_settings(changed)}")


def _ends(path: Path) -> frozenset[int]:
    """End tokens as a runtime takes them: of generation_config.json where it names any, else of config.json."""
    named = _read(path / _GENERATION).get("eos_token_id")
    named = _read(path / "config.json").get("eos_token_id") if named is None else named
    return frozenset(each for each in (named if isinstance(named, list) else [named]) if isinstance(each, int))


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, str(path.parent)) if path.is_file() else {}


def _named(tokens: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(tokens))) or "none"


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in values.items())
