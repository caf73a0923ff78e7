"""Load the reference: 16-bit weights by transformers, safetensors only, no remote code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.core import reading
from quantgate.core.errors import ModelError, translated
from quantgate.models.accounting import REPORTING, check_loaded
from quantgate.models.files import tokenizer_files
from quantgate.models.tensors import read_tensor, stored

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MOST_TOKENIZER: Final = 128 << 20  # bytes of one file
_USUAL_CONTEXT: Final = 2048
_TAUGHT: Final = (
    ("configuration_auto", "CONFIG_MAPPING"),
    ("tokenization_auto", "TOKENIZER_MAPPING"),
    ("tokenization_auto", "REGISTERED_TOKENIZER_CLASSES"),
)
_LENGTHS: Final = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def torch_dtype(name: str) -> Any:
    """The torch dtype called ``bfloat16``, ``float16`` or ``float32``. Raises ModelError for any other name."""
    import torch

    known = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if name not in known:
        raise ModelError("--dtype", repr(name), expected=" or ".join(known))
    return known[name]


def _check_parts(file: Path, name: str) -> None:
    try:
        reading.check_parts(reading.read_bytes(file, _MOST_TOKENIZER))
    except reading.Unreadable as error:
        raise ModelError(f"model {name!r}", f"{file.name}: {error}", expected="a tokenizer's vocabulary") from error


def load_tokenizer(path: Path, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer in ``path``. Raises ModelError when transformers cannot read it, or its files are too large."""
    for file in tokenizer_files(path):
        if file.stat().st_size > _MOST_TOKENIZER:
            raise ModelError(
                f"model {name!r}", f"{file.name} holds {file.stat().st_size} bytes",
                expected=f"at most {_MOST_TOKENIZER}: vocabularies of a million tokens take less",
            )  # fmt: skip
        if file.suffix == ".json":
            _check_parts(file, name)
    with translated(
        f"model {name!r}",
        "the tokenizer cannot be read",
        expected="tokenizer files that transformers loads",
        hint=f"save the tokenizer again, or copy the original's files to {path.name}",
    ):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def read_config(path: Path, who: str) -> Any:
    """The transformers configuration in ``path``. Raises ModelError about ``who`` when transformers cannot read it."""
    with translated(
        who,
        "its configuration cannot be read",
        expected="a config.json that transformers loads",
        hint="compare it with the one that was published",
    ):
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(path, trust_remote_code=False)


def empty_model(config: Any, who: str) -> Any:
    """The causal language model of ``config`` without memory for its weights (torch's meta device).

    Raises:
        ModelError: about ``who``, when transformers cannot make one.
    """
    with translated(
        who,
        "no model can be made from its configuration",
        expected="a config.json whose sizes fit together",
        hint="compare it with the one that was published",
    ):
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def configured_context(config: Any) -> int | None:
    """Most positions a transformers text configuration names; None where it does not say."""
    lengths = (getattr(config, key, None) for key in _LENGTHS)
    return next((int(length) for length in lengths if length), None)


def text_config(path: Path, name: str) -> Any:
    """The text configuration of the model in ``path``; ModelError when transformers cannot read it."""
    return read_config(path, f"model {name!r}").get_text_config()


def context_length(path: Path, name: str) -> int:
    """Most tokens the model in ``path`` was made for; 2,048 where its configuration does not say."""
    return configured_context(text_config(path, name)) or _USUAL_CONTEXT


def attention_implementation(config: Any) -> str:
    """``sdpa`` where transformers' class for ``config`` supports it, else ``eager`` (BLOOM, MPT, GPT-J, GPT-OSS)."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    known = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return "sdpa" if known is None or getattr(known, "_supports_sdpa", False) else "eager"


def load_reference(
    path: Path, name: str, dtype: str, device: str, declares: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """The model in ``path`` in evaluation mode on ``device``, every weight loaded from the files.

    ``declares``: a ``quantization_config`` to go by instead of the stored one.

    Raises:
        ModelError: transformers does not know the architecture, or weights are missing, left over or do not fit.
    """
    attention = attention_implementation(text_config(path, name))
    who = f"model {name!r}"
    how: dict[str, Any] = {"attn_implementation": attention}
    if declares is not None:
        how["config"] = read_config(path, who)
        how["config"].quantization_config = dict(declares)
    model = load_whole(path, who, torch_dtype(dtype), **how)
    return moved(model, device, who).eval().requires_grad_(False)


def moved(model: Any, device: Any, who: str) -> Any:
    """``model`` on ``device``. Raises ModelError when it cannot be there."""
    with translated(who, f"cannot be put on the device {str(device)!r}", hint="choose another --device"):
        return model.to(device)


def load_whole(path: Path, who: str, dtype: Any, **how: Any) -> Any:
    """The causal language model in ``path`` by transformers, every tensor accounted for (`accounting.check_loaded`).

    ``how``: further arguments of ``from_pretrained``.

    Raises:
        ModelError: transformers does not know the architecture, or weights are missing, left over or do not fit.
    """
    quiet_transformers()
    files = stored(path, who)
    with translated(who, "cannot be loaded", expected="a model that transformers loads", hint="check the files"):
        from transformers import AutoModelForCausalLM

        model, info = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, trust_remote_code=False, use_safetensors=True, **REPORTING, **how
        )
    check_loaded(model, info, who, lambda key: read_tensor(files[key]))
    return model


def has_foreign_classes() -> bool:
    """Whether somebody taught transformers classes of their own in this process (``AutoConfig.register``): what these
    say hangs on code of which nothing is known here.
    """
    tables = [getattr(sys.modules.get(f"transformers.models.auto.{part}"), name, None) for part, name in _TAUGHT]
    return any(getattr(table, "_extra_content", table) for table in tables)


def quiet_transformers() -> None:
    """Keep transformers' own progress bars and advice out of the terminal; errors still show."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
