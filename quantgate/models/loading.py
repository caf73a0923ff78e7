"""Load the reference: 16-bit weights by transformers, safetensors only, no remote code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from quantgate.errors import ModelError

_USUAL_CONTEXT: Final = 2048
_LENGTHS: Final = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def torch_dtype(name: str) -> Any:
    """The torch dtype called ``bfloat16``, ``float16`` or ``float32``. Raises ModelError for any other name."""
    import torch

    known = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if name not in known:
        raise ModelError("--dtype", repr(name), expected=" or ".join(known))
    return known[name]


def load_tokenizer(path: Path, name: str) -> Any:
    """The tokenizer in ``path``. Raises ModelError when transformers cannot read it."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model {name!r}", f"the tokenizer cannot be read ({error})") from error


def configured_context(config: Any) -> int | None:
    """Most positions a transformers text configuration names; None where it does not say."""
    lengths = (getattr(config, key, None) for key in _LENGTHS)
    return next((int(length) for length in lengths if length), None)


def text_config(path: Path, name: str) -> Any:
    """The text configuration of the model in ``path``; ModelError when transformers cannot read it."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model {name!r}", f"its configuration cannot be read ({error})") from error


def context_length(path: Path, name: str) -> int:
    """Most tokens the model in ``path`` was made for; 2,048 where its configuration does not say."""
    return configured_context(text_config(path, name)) or _USUAL_CONTEXT


def load_reference(path: Path, name: str, dtype: str, device: str) -> Any:
    """The model in ``path`` in evaluation mode on ``device``, every weight loaded from the files.

    Raises:
        ModelError: transformers does not know the architecture, or weights are missing or do not fit.
    """
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=torch_dtype(dtype),
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"model {name!r}", f"cannot be loaded ({error})", hint="check the files") from error
    # transformers would initialise missing weights at random and go on; a half-loaded reference must stop here
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        raise ModelError(
            f"model {name!r}",
            f"{len(missing)} weights are missing or of another shape ({', '.join(missing[:3])})",
            expected="every weight of the architecture in the safetensors files",
            hint="finish the download, or compare config.json with the weights",
        )
    return model.to(device).eval().requires_grad_(False)


def quiet_transformers() -> None:
    """Keep transformers' own progress bars and advice out of the terminal; errors still show."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
