"""Which tokens end an answer: read once from the reference's files, and from then on part of every request.

Three places name end tokens, and they often disagree: ``generation_config.json`` (one or a list: Gemma 2, Phi 3 and
Llama 3 name their end of turn only there), ``config.json``, and the tokenizer. A fourth is the chat template: what it
puts behind an assistant's turn is what the model was taught to say when it is done (``<end_of_turn>``, ``<|eot_id|>``,
``<|end|>``, ``<|im_end|>``). Any of them ends an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from quantgate.core.errors import ModelError
from quantgate.core.requests import Sampling
from quantgate.models.files import read_json

_ANSWER: Final = "what the assistant says"
# What transformers' own generation would do to the logits with these; greedy decoding here does none of it.
_NEUTRAL: Final[Mapping[str, Any]] = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "bad_words_ids": None,
    "suppress_tokens": None, "begin_suppress_tokens": None, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "forced_decoder_ids": None, "sequence_bias": None, "exponential_decay_length_penalty": None, "min_length": 0,
    "min_new_tokens": None, "guidance_scale": None, "watermarking_config": None, "num_beams": 1,
    "remove_invalid_values": False, "renormalize_logits": False, "stop_strings": None, "penalty_alpha": None,
    "dola_layers": None, "num_beam_groups": 1, "diversity_penalty": 0.0,
}  # fmt: skip


_SHIPPED: Final[Mapping[str, float]] = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0}
"""What transformers draws by, and takes where a model names nothing."""
_OTHER_DRAWS: Final[Mapping[str, Any]] = {
    "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "top_h": None, "num_beams": 1,
}  # fmt: skip


def shipped_sampling(path: Path) -> Sampling | None:
    """How the model in ``path`` says that its answers are drawn (``generation_config.json``); None where it does not.

    Raises:
        ModelError: a setting that is no number of its kind, or one that is not done here.
    """
    found = _read(path / "generation_config.json")
    if found.get("do_sample") is not True:
        return None
    who = f"{path.name}/generation_config.json"
    for name, neutral in _OTHER_DRAWS.items():
        if found.get(name) not in (None, neutral):
            raise ModelError(who, f"{name} {found[name]!r}", expected=f"sampling by {', '.join(_SHIPPED)} alone")
    settings: dict[str, Any] = {**_SHIPPED, **{name: found[name] for name in _SHIPPED if found.get(name) is not None}}
    bounds = {"temperature": (1e-6, 100), "top_k": (0, 1 << 31), "top_p": (0, 1), "repetition_penalty": (1e-6, 100)}
    for name, value in settings.items():
        low, high = bounds[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ModelError(who, f"{name} {value!r}", expected=f"a number from {low:g} to {high:g}")
    return Sampling(
        float(settings["temperature"]), int(settings["top_k"]), float(settings["top_p"]),
        float(settings["repetition_penalty"]),
    )  # fmt: skip


def end_tokens(path: Path, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end an answer of the model in ``path``, in ascending order; see the module's docstring.

    Raises:
        ModelError: a file names an end token that is no number.
    """
    config = _read(path / "config.json")
    text = config.get("text_config")
    named = [config, text if isinstance(text, Mapping) else {}, _read(path / "generation_config.json")]
    return named_or_known([each.get("eos_token_id") for each in named], tokenizer, str(path))


def named_or_known(named: Sequence[Any], tokenizer: Any, who: str) -> tuple[int, ...]:
    """End tokens that configurations name (a number, a list or None each), and those the tokenizer knows.

    Raises:
        ModelError: about ``who``, of whose entries one is no number.
    """
    found: set[int] = set()
    for value in (*named, tokenizer.eos_token_id, end_of_turn(tokenizer)):
        for token in value if isinstance(value, list | tuple) else [value]:
            if isinstance(token, bool) or not isinstance(token, int | None):
                raise ModelError(who, f"eos_token_id {value!r}", expected="a token's number, or a list of them")
            if token is not None and token >= 0:
                found.add(token)
    return tuple(sorted(found))


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token that the chat template puts behind an assistant's turn; None where there is none."""
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        return None
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return None  # whoever asks with this template is told
    behind = text.rpartition(_ANSWER)[2].lstrip() if _ANSWER in text else ""
    tokens = tokenizer(behind, add_special_tokens=False).input_ids if behind else []
    return int(tokens[0]) if tokens and int(tokens[0]) in _special(tokenizer) else None


def ignored_generation_settings(path: Path) -> dict[str, Any]:
    """What ``generation_config.json`` asks for beyond the likeliest token each time: it is not done, on either side."""
    found = _read(path / "generation_config.json")
    return {name: found[name] for name in sorted(_NEUTRAL) if found.get(name, _NEUTRAL[name]) not in _idle(name)}


def _idle(name: str) -> tuple[Any, ...]:
    return (_NEUTRAL[name], None, [])


def _special(tokenizer: Any) -> frozenset[int]:
    """Ids of all special tokens, also of those that the tokenizer has no role for."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    return frozenset([*tokenizer.all_special_ids, *(token for token, told in added.items() if told.special)])


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; an empty one where there is no such file."""
    return read_json(path, str(path.parent)) if path.is_file() else {}
