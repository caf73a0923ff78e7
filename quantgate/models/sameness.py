"""Whether a subject's configuration computes what the reference's does.

A subject is to differ from its reference in how its weights are stored, and in nothing else. What its folder says about
anything that enters the computation (rotary tables, windows, norms, soft-capping, scales, activation functions, the
number of experts) is compared with the reference's; both are read by transformers first, so that an old spelling of the
same thing is no difference.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from quantgate.models.files import read_json
from quantgate.models.loading import read_config

_MAY_DIFFER: Final = re.compile(
    # how and by whom the files were written
    "_name_or_path|transformers_version|architectures|torch_dtype|dtype|quantization_config|auto_map|compression_config|quantization"
    # what only training or other tasks read
    "|initializer_\\w+|init_std|\\w*dropout\\w*|\\w*_p?drop|layerdrop|pretraining_tp|problem_type|id2label|label2id|router_aux_loss_coef"
    "|output_router_logits|router_jitter_noise|input_jitter_noise|gradient_checkpointing\\w*|aux_loss_alpha|seq_aux"
    # how a caller wants its outputs, or whether it keeps a cache: this engine decides
    "|return_dict|output_hidden_states|output_attentions|use_cache|chunk_size_feed_forward|cache_implementation"
    # which tokens begin, fill and end a text: the request says so
    "|\\w*_token_id"
)
_SHOWN: Final = 3


def differing_fields(reference: Path, subject: Path) -> list[str]:
    """``name theirs instead of ours`` for every field that changes the computation, both directories read.

    Raises:
        ModelError: transformers cannot read one of the configurations.
    """
    ours, theirs = (_fields(read_config(path, str(path))) for path in (reference, subject))
    # A head of its own may hold other weights than the embedding (it may be quantized); a tied one may not return.
    if ours.get("tie_word_embeddings") is True and theirs.get("tie_word_embeddings") is False:
        theirs["tie_word_embeddings"] = True
    return [
        f"{name} {theirs.get(name)!r} instead of {ours.get(name)!r}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def spelt_twice(subject: Path) -> list[str]:
    """What config.json says in an old and in a new place, and not the same: which one counts hangs on the runtime."""
    config = read_json(subject / "config.json", str(subject))
    rope = config.get("rope_parameters")
    new = rope.get("rope_theta") if isinstance(rope, Mapping) else None
    old = config.get("rope_theta")
    if old is None or new is None or old == new:
        return []
    return [f"rope_theta {old!r} for older runtimes and {new!r} in rope_parameters"]


def configuration_problems(reference: Path, subject: Path) -> list[str]:
    """The same as one phrase for a verdict's reason; empty when nothing differs."""
    found = differing_fields(reference, subject) + spelt_twice(subject)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return [f"the subject's config.json computes otherwise: {', '.join(found[:_SHOWN])}{more}"] if found else []


def _fields(config: Any, before: str = "") -> dict[str, Any]:
    """Every leaf that counts, by its path; None and an absent field are the same."""
    nested = [name for name in config.sub_configs if getattr(config, name, None) is not None]
    known, source = {field.name for field in fields(config)}, _source(config)
    found: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        # an entry that the class does not know and that the model's code does not mention is a note of some tool
        if name not in nested and not _MAY_DIFFER.fullmatch(name) and (name in known or name in source):
            found |= _leaves(f"{before}{name}", value)
    for name in nested:
        found |= _fields(getattr(config, name), f"{before}{name}.")
    return found


def _leaves(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {key: leaf for part, inner in value.items() for key, leaf in _leaves(f"{name}.{part}", inner).items()}
    return {} if value is None else {name: list(value) if isinstance(value, tuple) else value}


def _source(config: Any) -> str:
    """Source text of the model's code in transformers; empty where this configuration has no model of its own."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return ""
    return inspect.getsource(sys.modules[MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__module__])
