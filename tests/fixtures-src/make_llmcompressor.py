"""Checkpoints by llm-compressor 0.14: make_llmcompressor.py REF OUT [name...]"""

import sys
from pathlib import Path

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from transformers import AutoModelForCausalLM, AutoTokenizer


def ints(bits, sym, strategy="group", size=32, kind="int"):
    found = {"num_bits": bits, "type": kind, "symmetric": sym, "strategy": strategy, "dynamic": False}
    return found | ({"group_size": size} if strategy == "group" else {})


def groups(**weights):
    return {"group_0": {"targets": ["Linear"], "weights": weights}}


def scheme(name):
    return QuantizationModifier(targets="Linear", scheme=name, ignore=["lm_head"])


MIXED = {
    "group_0": {"targets": ["re:.*mlp.*"], "weights": ints(4, True)},
    "group_1": {
        "targets": ["re:.*self_attn.*"],
        "weights": ints(8, True, "channel", kind="float"),
        "input_activations": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True},
    },
}
KV = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
RECIPES = {
    "ct_w4a16": lambda: QuantizationModifier(ignore=["lm_head"], config_groups=groups(**ints(4, True))),
    "ct_w4a16_gptq": lambda: GPTQModifier(ignore=["lm_head"], config_groups=groups(**ints(4, True), actorder="weight")),
    "ct_w4a16_asym": lambda: QuantizationModifier(ignore=["lm_head"], config_groups=groups(**ints(4, False))),
    "ct_w8a16": lambda: scheme("W8A16"),
    "ct_w8a8": lambda: scheme("W8A8"),
    "ct_fp8_dynamic": lambda: scheme("FP8_DYNAMIC"),
    "ct_fp8_block": lambda: scheme("FP8_BLOCK"),
    "ct_fp8_static": lambda: scheme("FP8"),
    "ct_nvfp4a16": lambda: scheme("NVFP4A16"),
    "ct_nvfp4": lambda: scheme("NVFP4"),
    "ct_mxfp4a16": lambda: scheme("MXFP4A16"),
    "ct_mixed": lambda: QuantizationModifier(ignore=["lm_head"], config_groups=MIXED),
    "ct_w4a16_kv": lambda: QuantizationModifier(
        ignore=["lm_head"], config_groups=groups(**ints(4, True)), kv_cache_scheme=KV
    ),
}
CALIBRATED = ("ct_w4a16_gptq", "ct_nvfp4", "ct_fp8_static", "ct_w4a16_kv")


def make(ref: str, target: Path, name: str) -> None:
    """One checkpoint by its recipe; calibrated on random tokens."""
    model = AutoModelForCausalLM.from_pretrained(ref, dtype=torch.bfloat16)
    how = {}
    if name in CALIBRATED:
        from datasets import Dataset

        torch.manual_seed(0)
        rows = torch.randint(2, model.config.vocab_size, (4, 128)).tolist()
        data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * 128] * 4})
        how = {"dataset": data, "max_seq_length": 128, "num_calibration_samples": 4}
    oneshot(model=model, recipe=RECIPES[name](), **how)
    model.save_pretrained(target, save_compressed=True)


if __name__ == "__main__":
    ref, out = sys.argv[1:3]
    for name in sys.argv[3:] or RECIPES:
        target = Path(out) / name
        make(ref, target, name)
        AutoTokenizer.from_pretrained(ref).save_pretrained(target)
        print("OK", name, flush=True)
