"""Checkpoints by transformers' own ``save_pretrained``: make_transformers.py REF OUT [name...]

Needs bitsandbytes, torchao, hqq, optimum-quanto and peft beside transformers.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, HqqConfig, QuantoConfig, TorchAoConfig


def bnb4(**how):
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16, **how)


def torchao(make):
    import torchao.quantization as q

    return TorchAoConfig(make(q))


RECIPES = {
    "bnb_nf4": lambda: bnb4(bnb_4bit_quant_type="nf4"),
    "bnb_nf4_dq": lambda: bnb4(bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
    "bnb_fp4": lambda: bnb4(bnb_4bit_quant_type="fp4"),
    "bnb_int8": lambda: BitsAndBytesConfig(load_in_8bit=True),
    "bnb_int8_skip": lambda: BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "down_proj"]),
    "ao_int8": lambda: torchao(lambda q: q.Int8WeightOnlyConfig(version=2)),
    "ao_int8dyn": lambda: torchao(lambda q: q.Int8DynamicActivationInt8WeightConfig(version=2)),
    "ao_fp8": lambda: torchao(lambda q: q.Float8WeightOnlyConfig(version=2)),
    "ao_intx4": lambda: torchao(
        lambda q: q.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=q.PerGroup(32), version=2)
    ),
    "hqq4": lambda: HqqConfig(nbits=4, group_size=32),
    "hqq8": lambda: HqqConfig(nbits=8, group_size=64),
    "quanto_int8": lambda: QuantoConfig(weights="int8"),
    "quanto_int4": lambda: QuantoConfig(weights="int4"),
}


def make(ref: str, target: Path, name: str) -> None:
    """One checkpoint by its recipe."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(
        ref, dtype=torch.bfloat16, device_map="cpu", quantization_config=RECIPES[name]()
    )
    model.save_pretrained(target)


def lora(ref: str, target: Path) -> None:
    """An adapter of rank 4 on two projections, its B random."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(ref, dtype=torch.bfloat16)
    how = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(model, how)
    for part, weight in adapted.named_parameters():
        if "lora_B" in part:
            weight.data.normal_(0, 0.01)
    adapted.save_pretrained(target)


if __name__ == "__main__":
    ref, out = sys.argv[1:3]
    for name in sys.argv[3:] or [*RECIPES, "lora"]:
        target = Path(out) / name
        lora(ref, target) if name == "lora" else make(ref, target, name)
        AutoTokenizer.from_pretrained(ref).save_pretrained(target)
        print("OK", name, sorted(path.name for path in target.iterdir()), flush=True)
