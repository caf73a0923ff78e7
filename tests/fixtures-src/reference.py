"""The 16-bit originals: ``reference.py tiny OUT`` (a tiny llama), ``reference.py cut MODEL OUT`` (4 layers).

Run with the project's own Python. The tiny one has two blocks of 64 features and a byte-level tokenizer of 288 tokens;
its weights are random with columns of different size, so that scales, groups and orders of columns differ.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def tokenizer(target: Path) -> None:
    """Byte-level BPE, trained on the Python documentation that every interpreter carries."""
    from pydoc_data.topics import topics

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=288, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    model.train_from_iterator([topics[name] for name in sorted(topics)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.chat_template = (
        "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
    )
    fast.save_pretrained(target)


def tiny(target: Path) -> None:
    """Two blocks, 64 features, 4 heads of which 2 are for keys, an output head tied to the embedding."""
    config = LlamaConfig(
        vocab_size=288, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
        pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.copy_(torch.randn(weight.shape) * torch.rand(weight.shape[1]).add(0.3) / weight.shape[1] ** 0.5)
            else:
                weight.copy_(1 + 0.2 * torch.randn(weight.shape))
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer(target)


def cut(source: Path, target: Path, layers: int = 4) -> None:
    """The first blocks of a model with the same norm, embedding and tokenizer."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "entry.json", "key.json"))
    state = load_file(source / "model.safetensors")
    kept = {name: t for name, t in state.items() if ".layers." not in name or int(name.split(".")[2]) < layers}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    config["num_hidden_layers"] = layers
    (target / "config.json").write_text(json.dumps(config, indent=2))


if __name__ == "__main__":
    if sys.argv[1] == "tiny":
        tiny(Path(sys.argv[2]))
    else:
        cut(Path(sys.argv[2]), Path(sys.argv[3]))
