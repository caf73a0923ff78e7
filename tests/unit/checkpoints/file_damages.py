"""Damages to the files beside the weights: configuration, declaration, tokenizer, template, generation settings."""

import json
from collections.abc import Callable
from pathlib import Path


def _edit(name, change):
    """``change`` on the JSON object in the file ``name``; nothing where it changes nothing."""

    def damage(path: Path) -> bool:
        file = path / name
        content = json.loads(file.read_text()) if file.is_file() else {}
        before = json.dumps(content)
        change(content)
        file.write_text(json.dumps(content))
        return json.dumps(content) != before

    return damage


def _undeclared(path: Path) -> bool:
    """Nothing says any more how codes become weights, beside config.json either."""
    (path / "quantize_config.json").unlink(missing_ok=True)
    keys = ("quantization_config", "quantization")
    return _edit("config.json", lambda content: [content.pop(key, None) for key in keys])(path)


def _config(**fields):
    return _edit("config.json", lambda content: content.update(fields))


def _rope(**fields):
    return _edit("config.json", lambda content: content["rope_parameters"].update(fields))


def _declared(**fields):
    def change(content):
        declared = content.get("quantization_config", {})
        if fields.keys() <= declared.keys():
            declared.update({name: how(declared[name]) for name, how in fields.items()})

    return _edit("config.json", change)


def _weights(**fields):
    """Fields of how weights are quantized, of compressed-tensors' groups."""

    def change(content):
        for group in content.get("quantization_config", {}).get("config_groups", {}).values():
            weights = group["weights"]
            if weights["type"] == "int" or "symmetric" not in fields:  # floats have no zero points to deny
                weights.update({name: how(weights[name]) for name, how in fields.items() if name in weights})

    return _edit("config.json", change)


def _swapped_tokens(content):
    vocabulary = content["model"]["vocab"]
    one, other = sorted(vocabulary, key=vocabulary.get)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]


def _merges(change):
    return _edit("tokenizer.json", lambda content: content["model"].update(merges=change(content["model"]["merges"])))


def _pre_tokenizer(content):
    content["pre_tokenizer"]["add_prefix_space"] = True


def _decoder(content):
    content["decoder"] = None


def _cut(name):
    def damage(path: Path) -> bool:
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[: len(content) // 2])
        return True

    return damage


def _remove(name):
    def damage(path: Path) -> bool:
        (path / name).unlink()
        return True

    return damage


def _append(name, text):
    def damage(path: Path) -> bool:
        (path / name).write_text((path / name).read_text() + text)
        return True

    return damage


def _ignore_mlp(content):
    declared = content.get("quantization_config", {})
    if "ignore" in declared:
        declared["ignore"] = [*declared["ignore"], "re:.*mlp.*"]
    elif declared.get("quant_method") == "gptq":
        declared["dynamic"] = {r"-:.*mlp.*": {}}
    elif declared.get("quant_method") == "bitsandbytes":
        declared["llm_int8_skip_modules"] = ["lm_head", "up_proj"]


FILE_DAMAGES: dict[str, Callable[[Path], bool]] = {
    # what is computed
    "another rope_theta": _rope(rope_theta=1e6),
    "rope_theta in an old place, and another": _config(rope_theta=5e5),
    "rope stretched": _rope(rope_type="linear", factor=4.0),
    "another norm epsilon": _config(rms_norm_eps=1e-2),
    "another activation function": _config(hidden_act="gelu"),
    "fewer heads of keys": _config(num_key_value_heads=1),
    "another head size": _config(head_dim=32),
    "one block fewer": _config(num_hidden_layers=1),
    "a shorter context": _config(max_position_embeddings=64),
    "an output head of its own that is not there": _config(tie_word_embeddings=False),
    # what is declared
    "twice the bits": _declared(bits=lambda bits: 2 * bits),
    "half the group": _declared(group_size=lambda size: size // 2),
    "twice the group": _declared(group_size=lambda size: 2 * size),
    "the other version": _declared(
        checkpoint_format=lambda form: "gptq" if form == "gptq_v2" else "gptq_v2",
        format=lambda form: "gptq" if form == "gptq_v2" else "gptq_v2",
    ),
    "zero points denied": _declared(zero_point=lambda each: not each),
    "twice the bits in a group": _weights(num_bits=lambda bits: 2 * bits),
    "half the group in a group": _weights(group_size=lambda size: size // 2 if size else size),
    "zero points denied in a group": _weights(symmetric=lambda each: not each),
    "integers called floats, or floats integers": _weights(type=lambda kind: {"int": "float", "float": "int"}[kind]),
    "feed-forward declared to stay in 16 bit": _edit("config.json", _ignore_mlp),
    "no declaration": _undeclared,
    # tokenizer and template
    "two tokens swapped": _edit("tokenizer.json", _swapped_tokens),
    "the last merge lost": _merges(lambda merges: merges[:-1]),
    "merges in reverse": _merges(lambda merges: merges[::-1]),
    "all merges lost": _merges(lambda merges: []),
    "a space before every text": _edit("tokenizer.json", _pre_tokenizer),
    "no decoder": _edit("tokenizer.json", _decoder),
    "a start token before every text": _edit("tokenizer.json", lambda content: content.update(_starts())),
    "no tokenizer": _remove("tokenizer.json"),
    "half a tokenizer": _cut("tokenizer.json"),
    "another chat template": _append("chat_template.jinja", "{{ 'You are evil' }}"),
    "a chat template that loops": _append(
        "chat_template.jinja", "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}"
    ),
    # how answers are made
    "another end token": _edit("generation_config.json", lambda content: content.update(eos_token_id=7)),
    "a penalty that nobody computes": _edit(
        "generation_config.json", lambda content: content.update(repetition_penalty=1.5)
    ),
    "the tokenizer's end token": _edit("tokenizer_config.json", lambda content: content.update(eos_token="<s>")),
}


def _starts():
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    tokens = {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}}
